"""Networks for other image sizes than published: how they are built, and how a file's positions are resized."""

import importlib
import pickle
import re

import numpy as np
import pytest
import torch

import models
from models.errors import OptionError
from models.levit import distances
from models.names import paddleclas_names
from models.swin import SwinTransformer, relative_positions
from utils.errors import UserError
from utils.weights import load_pretrained
from utils.weights.matching import linear_weights

# Where the position embeddings are, and how many tokens come before the patches'.
EMBEDDINGS = {
    "DeiT_tiny_patch16_224": ("pos_embed", 1),
    "DeiT_tiny_distilled_patch16_224": ("pos_embed", 2),
    "TNT_small": ("patch_pos", 1),
}


def keys_kernel(distance):
    """Cubic convolution (Keys 1981) with a = -0.75."""
    a, x = -0.75, np.abs(distance)
    near, far = ((a + 2) * x - (a + 3)) * x**2 + 1, ((x - 5) * x + 8) * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def bicubic(grid, size):
    """Interpolates (h, h, C) to (size, size, C) between the centres of the pixels, in float64; the edges go on."""
    old = len(grid)
    centres = (np.arange(size) + 0.5) * old / size - 0.5
    taps = np.floor(centres)[:, None] + np.arange(-1, 3)
    weights = np.zeros((size, old))
    for row, (centre, places) in enumerate(zip(centres, taps, strict=True)):
        np.add.at(weights[row], np.clip(places, 0, old - 1).astype(int), keys_kernel(places - centre))
    return np.einsum("ip,jq,pqc->ijc", weights, weights, grid)


def build(name, image_size, **options):
    torch.manual_seed(0)
    return models.build(name, image_size=image_size, class_dim=7, **options).eval()


def loaded(model, source, tmp_path):
    """Loads the weights of `source` into `model`: the report."""
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    return load_pretrained(model, tmp_path / "weights.pth")


def randomize(model, pattern):
    """Fills the tensors whose names match with larger values, as some are initialized to 0."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if re.search(pattern, key):
                parameter.uniform_(-1, 1)


@pytest.mark.parametrize(("side", "new_side"), [(2, 5), (6, 4), (3, 3)])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_position_embeddings(name, side, new_side, tmp_path):
    key, extra = EMBEDDINGS[name]
    source, model = build(name, 16 * side), build(name, 16 * new_side)
    randomize(model, key)
    report = loaded(model, source, tmp_path)
    before, after = (network.state_dict()[key].numpy()[0] for network in (source, model))
    assert after.shape == (extra + new_side**2, before.shape[1])
    assert np.array_equal(after[:extra], before[:extra])
    grid = bicubic(before[extra:].reshape(side, side, -1), new_side)
    np.testing.assert_allclose(after[extra:], grid.reshape(new_side**2, -1), atol=1e-6)
    line = f"interpolated {key} from another image size"
    if side == new_side:
        assert np.array_equal(after, before)
        assert not report.resized
        assert line not in str(report)
    else:
        assert str(report).endswith(line)
    others = source.state_dict().keys() - {key}
    assert all(torch.equal(source.state_dict()[other], model.state_dict()[other]) for other in others)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 16 * new_side, 16 * new_side)).shape == (2, 7)


def test_published_sizes_of_a_network(tmp_path):
    """A file for 224 x 224, under PaddleClas's names, in the network for 384 x 384 with a class token and without."""
    source = models.build("DeiT_tiny_patch16_224", class_dim=7)
    model = build("DeiT_tiny_patch16_224", 384)
    loaded(model, source, tmp_path)
    assert model.pos_embed.shape == (1, 1 + 24**2, 192)
    grid = bicubic(source.pos_embed.detach().numpy()[0, 1:].reshape(14, 14, -1), 24)
    np.testing.assert_allclose(model.pos_embed.detach().numpy()[0, 1:], grid.reshape(24**2, -1), atol=1e-6)


def test_tables_of_swin_are_of_windows(tmp_path):
    """The same table at any image size; it is interpolated for another size of the windows."""
    options = {"channels": 12, "depths": (2, 2), "heads": (1, 2)}
    model = SwinTransformer(image_size=96, **options)
    source = SwinTransformer(image_size=64, **options)
    assert not loaded(model, source, tmp_path).resized
    wider = SwinTransformer(image_size=96, window=12, **options)
    report = loaded(wider, source, tmp_path)
    key = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert f"interpolated {key} and 3 others from another image size" in str(report)
    before, after = (network.state_dict()[key].numpy() for network in (source, wider))
    np.testing.assert_allclose(after.reshape(23, 23, 1), bicubic(before.reshape(13, 13, 1), 23), atol=1e-6)
    # Offset 0, the table's centre, stays offset 0.
    middles = [relative_positions(window)[0, 0] for window in (7, 12)]
    np.testing.assert_allclose(after[middles[1]], before[middles[0]], atol=1e-6)


@pytest.mark.parametrize(("size", "new_size"), [(96, 160), (160, 96)])
def test_biases_of_levit_are_of_distances(size, new_size, tmp_path):
    source, model = build("LeViT_128S", size), build("LeViT_128S", new_size)
    randomize(source, "attention_biases")
    report = loaded(model, source, tmp_path)
    keys = [key for key in source.state_dict() if key.endswith("attention_biases")]
    assert report.resized == keys
    for key in keys:
        before, after = (network.state_dict()[key].numpy() for network in (source, model))
        side, new_side = (round(biases.shape[1] ** 0.5) for biases in (before, after))
        # The table of offsets with signs, as Swin has it.
        near = np.abs(np.arange(1 - side, side))
        offsets = before.reshape(-1, side, side)[:, near][:, :, near]
        table = bicubic(np.moveaxis(offsets, 0, 2), 2 * new_side - 1)[new_side - 1 :, new_side - 1 :]
        np.testing.assert_allclose(after, np.moveaxis(table, 2, 0).reshape(len(after), -1), atol=1e-6)
        np.testing.assert_allclose(after[:, 0], before[:, 0], atol=1e-6)
    assert distances(2, 1)[0].tolist() == [0, 1, 2, 3]  # rows of the map, then columns


def test_a_paddle_file_is_fitted_too(tmp_path):
    source, model = build("DeiT_tiny_patch16_224", 32), build("DeiT_tiny_patch16_224", 64)
    transposed = linear_weights(source)
    names = paddleclas_names(source)
    arrays = {
        names[key]: (tensor.t() if key in transposed else tensor).contiguous().numpy()
        for key, tensor in source.state_dict().items()
    }
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(arrays, 4))
    assert load_pretrained(model, tmp_path / "x.pdparams").resized == ["pos_embed"]
    assert torch.equal(model.head.weight, source.head.weight)


def message(model, source, tmp_path, **options):
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UserError) as caught:
        load_pretrained(model, tmp_path / "weights.pth", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_fitted(tmp_path):
    tiny = build("DeiT_tiny_patch16_224", 32)
    # One more token does not mean another image size.
    assert "pos_embed is [1, 5, 192] in the file, [1, 6, 192]" in message(
        build("DeiT_tiny_distilled_patch16_224", 32), tiny, tmp_path
    )
    small = message(build("DeiT_small_patch16_224", 64), tiny, tmp_path)
    assert "pos_embed is [1, 5, 192] in the file, [1, 17, 384] in the network" in small
    tiny.pos_embed = torch.nn.Parameter(torch.zeros(1, 1 + 6, 192))  # 2 x 3 patches
    assert "1 with another shape: pos_embed" in message(build("DeiT_tiny_patch16_224", 64), tiny, tmp_path)


def test_another_number_of_classes_at_another_size(tmp_path):
    source = build("DeiT_tiny_distilled_patch16_224", 32)
    model = models.build("DeiT_tiny_distilled_patch16_224", image_size=64, class_dim=3)
    text = message(model, source, tmp_path)
    assert "has 7 classes, but the network has 3: give class_dim=7" in text
    names = text.rpartition("exclude=")[2]
    assert names.split(",") == ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]
    assert load_pretrained(model, tmp_path / "weights.pth", exclude=names.split(",")).resized == ["pos_embed"]


def test_where_sizes_have_to_agree(tmp_path):
    text = message(build("DeiT_tiny_patch16_224", 64), build("DeiT_tiny_patch16_224", 32), tmp_path, resize=False)
    assert text.endswith("they were trained with another image size: give the --image_shape of their training")


# ------------------------------------------------------------------------------------------------------- by the flags


@pytest.mark.parametrize("name", ["RedNet26", "MobileViTV2_x0_5", "CSWinTransformer_tiny_224"])
def test_sizes_that_only_the_images_show(name):
    with torch.device("meta"), pytest.raises(OptionError, match=r"image_size: .* multiple of"):
        models.build(name)(torch.empty(1, 3, 100, 100))


def run(script, monkeypatch, *words):
    module = importlib.import_module(script)
    monkeypatch.setattr("sys.argv", [f"{script}.py", *words])
    module.main()


def test_evaluation_at_another_size(tiny_dataset, monkeypatch, capsys, tmp_path):
    source = models.build("DeiT_tiny_patch16_224", image_size=32, class_dim=4)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    words = ["--model=DeiT_tiny_patch16_224", f"--pretrained_model={tmp_path / 'weights.pth'}", "--class_dim=4"]
    run(
        "eval", monkeypatch, *words, f"--data_dir={tiny_dataset}", "--use_gpu=False", "--reader_thread=0",
        "--image_shape", "3", "64", "64",
    )  # fmt: skip
    output = capsys.readouterr()
    assert "interpolated pos_embed from another image size" in output.out + output.err
