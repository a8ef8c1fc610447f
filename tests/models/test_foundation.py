"""Foundation models: files without a classifier, other image sizes, features."""

import pytest
import torch

import models
from models.transformer import resize_position_table
from utils.errors import UserError
from utils.weights import load_pretrained

SMALL = {"image_size": 32, "channels": 48, "depth": 2, "heads": 3, "class_dim": 5}


def small(**options):
    from models.foundation_vit import FoundationTransformer

    torch.manual_seed(0)
    return FoundationTransformer(**(SMALL | options)).eval()


def published(model, tmp_path):
    """A file of `model` without a classifier, as foundation models are published."""
    torch.save(
        {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}, tmp_path / "x.pth"
    )
    return tmp_path / "x.pth"


def test_a_classifier_starts_anew(tmp_path):
    source, model = small(), small(class_dim=7)
    before = model.head.fc_head.weight.clone()
    report = load_pretrained(model, published(source, tmp_path))
    assert str(report).endswith("initialized head.fc_head.weight, head.fc_head.bias: not in the file")
    assert torch.equal(model.head.fc_head.weight, before)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.forward_features(images), source.forward_features(images))


def test_other_parts_may_not_be_missing(tmp_path):
    state = small().state_dict()
    del state["norm.weight"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"1 missing in the file: norm\.weight"):
        load_pretrained(small(), tmp_path / "x.pth")


def test_position_tables_of_another_image_size(tmp_path):
    options = {"layer_scale": 0.1, "absolute_positions": False}
    source = small(**options)
    table = source.blocks[0].attn.relative_position_bias_table
    torch.nn.init.normal_(table)
    model = small(**options | {"image_size": 64})
    report = load_pretrained(model, published(source, tmp_path))
    assert report.resized == [f"blocks.{i}.attn.relative_position_bias_table" for i in range(2)]
    own = model.blocks[0].attn.relative_position_bias_table
    assert torch.equal(own[-3:], table[-3:])  # entries of the class token have no position
    assert torch.equal(own[:-3], resize_position_table(table[:-3], 7 * 7))


@pytest.mark.parametrize(("classify_by", "token"), [(0, 0), (1, 1)])
def test_which_token_is_classified(classify_by, token):
    model = small(classify_by=classify_by)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.norm(model.tokens(images)[:, token])
        assert torch.equal(model.forward_features(images), expected)
        assert torch.equal(model.forward_embedding(images), expected @ model.proj)


def test_networks_without_a_reference():
    """Parameters as in the papers' tables, as two of the networks do not run in PaddleClas."""
    with torch.device("meta"):
        huge, giant = models.MAE_vit_huge_patch14(), models.EVA_vit_giant_patch14()
        wide = models.SE_ResNeXt152_64x4d()
        assert huge(torch.empty(1, 3, 224, 224)).shape == giant(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
        assert wide(torch.empty(2, 3, 64, 64)).shape == (2, 1000)
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in (("huge", huge), ("giant", giant))}
    # ViT-H has 630.8 million without the embedding, the second layer norm and a classifier; EVA's trunk 1,011 million.
    extra = 1280 * 512 + 2 * 1280 + 1280 * 1000 + 1000
    assert sizes["huge"] - extra == pytest.approx(630.8e6, rel=1e-3)
    assert sizes["giant"] - (1408 * 512 + 1408 * 1000 + 1000) == pytest.approx(1011e6, rel=2e-3)
