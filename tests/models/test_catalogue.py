"""--list_models and docs/model_zoo.md, which docs/make_model_zoo.py writes."""

import re
import sys
from pathlib import Path

import pytest

import models
from models import catalogue
from utils import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))

import make_model_zoo

TABLE = Path(__file__).parents[2] / "docs" / "model_zoo.md"
STALE = "run: python docs/make_model_zoo.py"


def test_every_network_is_listed():
    assert sorted(catalogue.read()) == models.list_models(), STALE
    rows = re.findall(r"^\| (\w+)(?: \(as \w+\))? \|", TABLE.read_text(), re.MULTILINE)
    assert sorted(set(rows) - {"network", "series"}) == models.list_models(), STALE


# Parameters and multiply-adds as torchvision documents them, except the bias that VGG lacks here.
@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [
        ("AlexNet", 61100840, 0.714e9),
        ("ResNet50", 25557032, 4.089e9),
        ("ResNeXt50_32x4d", 25028904, 4.230e9),
        ("ShuffleNetV2_x1_0", 2278604, 0.145e9),
        ("DenseNet121", 7978856, 2.834e9),
        ("VGG16", 138357544 - 4224, 15.470e9),
    ],
)
def test_figures(name, parameters, multiply_adds):
    facts = catalogue.read()[name]
    assert facts.parameters == parameters
    assert facts.multiply_adds == pytest.approx(multiply_adds, rel=2e-3)
    assert sum(parameter.numel() for parameter in models.build(name).parameters()) == parameters


def test_published_accuracy():
    assert catalogue.read()["ResNet50_vd"].image_size == 224
    lines = TABLE.read_text().splitlines()
    row = "| ResNet50_vd | 25.58 M | 4.329 G | 224 x 224 | 79.12 / 94.44 | 79.12 / 94.44 | [ResNet50_vd_pretrained."
    assert any(line.startswith(row) for line in lines), STALE
    row = "| MobileNetV3_large_x1_0_paddleclas | 5.48 M | 0.220 G | 224 x 224 |  | 75.32 / 92.31, 79.00 / 94.48 ssld |"
    assert any(line.startswith(row) for line in lines), STALE
    assert make_model_zoo.series_table() in TABLE.read_text(), STALE


@pytest.mark.parametrize(
    ("words", "first", "count"),
    [
        (["--list_models"], "AlexNet ", len(models.list_models())),
        (["--list_models", "VGG*"], "VGG11 ", 4),
        (["--list_models", "vgg*"], "VGG11 ", 4),
        (["--list_models=ResNet50_v[cd]", "--num_epochs=3"], "ResNet50_vc ", 2),
    ],
)
def test_list_models(words, first, count, capsys):
    with pytest.raises(SystemExit) as end:
        flags.parse("train", words)
    assert not end.value.code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == count
    assert lines[0].startswith(first)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnet_50-vd", "ResNet50_vd?"),
        ("google/vit-base-patch16-224", "ViT_base_patch16_224?"),
        ("convnext_tiny.fb_in1k", "ConvNeXt_tiny?"),
        ("swin_t", "SwinTransformer_tiny_patch4_window7_224 or "),
        ("mobilenetv3_large_100", "MobileNetV3_large_x1_0 or "),
    ],
)
def test_names_of_networks_as_other_programs_write_them(name, meant):
    with pytest.raises(ValueError, match=f"unknown network '{name}': did you mean {re.escape(meant)}"):
        models.check_name(name)


def test_list_models_without_a_match(capsys):
    with pytest.raises(SystemExit) as end:
        flags.parse("train", ["--list_models=Foo*"])
    assert end.value.code == 2
    assert "no network's name matches 'Foo*'" in capsys.readouterr().err
