"""Grad-CAM finds what speaks for a class; pictures show what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import models
from utils.errors import FlagError, UserError
from utils.evaluation.pictures import BAR, PANEL_WIDTH, draw, grad_cam, save_picture, save_pictures
from utils.evaluation.predictions import Prediction


class Colours(nn.Module):
    """Class 0 is red, class 1 green: one feature map each, averaged."""

    def __init__(self):
        super().__init__()
        self.map = nn.Conv2d(3, 2, 4, 4, bias=False)
        with torch.no_grad():
            self.map.weight.zero_()
            self.map.weight[0, 0] = self.map.weight[1, 1] = 1 / 16

    def forward(self, x):
        return self.map(x).mean((2, 3))


@pytest.mark.parametrize("colour, rows", [(0, slice(0, 8)), (1, slice(24, 32))])
def test_grad_cam_finds_the_class(colour, rows):
    images = torch.zeros(2, 3, 32, 32)
    images[:, 0, 0:8, 0:8] = 1
    images[:, 1, 24:32, 24:32] = 2
    with torch.no_grad():  # as infer.py calls it
        heat = grad_cam(Colours().eval().requires_grad_(False), images, [colour, colour])
    assert heat.shape == (2, 32, 32)
    assert heat.min() == 0 and heat.max() == 1
    inside = heat[:, rows, rows].sum((1, 2)) / heat.sum((1, 2))
    assert (inside > 0.7).all()


def test_nothing_speaks_for_a_class():
    assert grad_cam(Colours().eval(), torch.zeros(1, 3, 32, 32), [0]).abs().max() == 0


@pytest.mark.parametrize(
    "network", ["ResNet18", "DenseNet121", "MobileNetV3_small_x0_35", "SwinTransformer_tiny_patch4_window7_224"]
)
def test_grad_cam_of_networks(network):
    torch.manual_seed(0)
    size = 224 if "Swin" in network else 64
    model = models.build(network, class_dim=5).eval().requires_grad_(False)
    heat = grad_cam(model, torch.randn(2, 3, size, size), [1, 3])
    assert heat.shape == (2, size, size)
    assert heat.isfinite().all() and heat.min() >= 0 and heat.max() <= 1
    assert not any(module._forward_hooks for module in model.modules())


def test_grad_cam_needs_a_feature_map():
    model = models.build("DeiT_tiny_patch16_224", class_dim=5).eval()
    with pytest.raises(FlagError, match="feature map"):
        grad_cam(model, torch.randn(1, 3, 224, 224), [0])


def test_pictures():
    pixels = np.full((100, 80, 3), 200, np.uint8)
    long = "a very long name of a class, which no panel has room for, not even half of it"
    picture = draw(pixels, Prediction("x.jpg", [0.75, 0.25, 0.0], [2, 1, 0], ["two", long, "zero"]))
    seen = np.asarray(picture)
    assert seen.shape[1] == 160 + PANEL_WIDTH
    assert (seen[:200, :160] == 200).all()
    # The bars are as long as the scores are large.
    lengths = [(row == BAR).all(1).sum() for row in seen]
    found = sorted(set(lengths) - {0}, reverse=True)
    assert len(found) == 2 and found[0] == pytest.approx(3 * found[1], abs=4)
    twice = draw(pixels, Prediction("x.jpg", [1.0], [0], ["zero"]), np.ones((100, 80), np.float32))
    assert twice.width == 320 + PANEL_WIDTH


def test_files(tmp_path):
    picture = Image.new("RGB", (10, 10))
    folder = tmp_path / "new/folder"
    for name in ("a.png", "b/c.JPG", "b_c.JPG", "_b_c.JPG", "../d.jpg", "b/../../../e.jpg", "d.jpg", "/f/./d.jpg"):
        save_picture(picture, str(folder), name)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        f"new/folder/{name}"
        for name in ("_/_/e.jpg", "_/d.jpg", "_b_c.JPG", "a.png.jpg", "b/c.JPG", "b_c.JPG", "d.jpg", "f/d.jpg")
    ]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        save_picture(picture, str(tmp_path / "file"), "a.jpg")


def test_a_last_map_too_coarse_to_show_a_place(capsys):
    """Of 2 x 2 places: the one before is shown, and it is said once."""
    images = torch.zeros(1, 3, 32, 32)
    images[:, 0, 0:8, 0:8] = 1
    model = Colours().eval()
    model.pool = nn.AvgPool2d(4)
    model.forward = lambda x: model.pool(model.map(x)).mean((2, 3))
    heats = [grad_cam(model, images, [0]) for _ in range(2)]
    assert (heats[0][:, 16:] == 0).all() and (heats[0][:, :4, :4] > 0.9).all()
    assert capsys.readouterr().err.count("is 2 x 2, too coarse") == 1


def test_a_picture_that_fails_is_left_out(tmp_path, capsys, monkeypatch):
    """Here for a name that is too long with .jpg behind it; it is said once."""
    monkeypatch.setattr("utils.evaluation.pictures._left_out", [])
    answers = [Prediction(name, [1.0], [0]) for name in ("x" * 254, "y" * 254, "z.png")]
    save_pictures(str(tmp_path), torch.zeros(3, 8, 8, 3, dtype=torch.uint8), answers)
    assert [path.name for path in tmp_path.iterdir()] == ["z.png.jpg"]
    assert capsys.readouterr().err.count("--vis_dir: cannot write ") == 1
