"""The maps of a network's stages, for detection and segmentation."""

import math
import re
from pathlib import Path

import pytest
import torch
from test_every_network import build, quick_size, smallest_of_each_family

import models
from utils.torchvision_compat import import_torchvision

LIBRARY = Path(__file__).parents[2] / "docs" / "library.md"


@pytest.mark.parametrize("name", smallest_of_each_family())
def test_maps_of_a_member_of_each_family(name):
    size = quick_size(name)
    model = build(name, size).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        maps = model.forward_stages(images)
        # No layer that works in place may have changed a map after it was taken.
        for module in model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False
        expected = model.forward_stages(images)
    assert [tuple(x.shape[:2]) for x in maps] == [(2, stage.channels) for stage in model.describe_stages()]
    assert all(x.isfinite().all() for x in maps)
    assert all(torch.equal(x, y) for x, y in zip(maps, expected, strict=True))


def distinct_networks():
    """The first name of each constructor."""
    return sorted({getattr(models, name): name for name in reversed(models.list_models())}.values())


@pytest.mark.full
@pytest.mark.parametrize("name", distinct_networks())
def test_maps_of_every_network(name):
    size = models.input_config(name).image_size
    with torch.device("meta"), torch.no_grad():
        model = models.build(name).eval()
        maps = model.forward_stages(torch.empty(2, 3, size, size))
    stages = model.describe_stages()
    assert [x.shape[:2] for x in maps] == [(2, stage.channels) for stage in stages]
    strides = [stage.stride for stage in stages]
    assert strides == sorted(set(strides))
    assert strides[0] >= 4
    for x, stride in zip(maps, strides, strict=True):
        assert x.shape[2] == x.shape[3]
        # Layers without padding lose a few positions.
        assert size / stride - 4 <= x.shape[2] <= math.ceil(size / stride)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("ResNet50_vd", [(4, 256), (8, 512), (16, 1024), (32, 2048)]),
        # As in torchvision's and timm's extractors: without the last 1x1 convolution, which belongs to the classifier.
        ("MobileNetV3_large_x1_0", [(4, 24), (8, 40), (16, 112), (32, 160)]),
        ("InceptionV3", [(4, 192), (8, 288), (16, 768), (32, 2048)]),
        ("SwinTransformer_tiny_patch4_window7_224", [(4, 96), (8, 192), (16, 384), (32, 768)]),
        ("HRNet_W18_C", [(4, 18), (8, 36), (16, 72), (32, 144)]),
        ("ViT_base_patch16_224", [(16, 768)]),
        ("CvT_13_224", [(4, 64), (8, 192), (16, 384)]),
        ("LeViT_128S", [(16, 128), (32, 256), (64, 384)]),
    ],
)
def test_descriptions(name, stages):
    with torch.device("meta"):
        model = models.build(name)
    assert [tuple(stage) for stage in model.describe_stages()] == stages


def test_description_changes_nothing():
    model = models.ResNet18(class_dim=3).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.describe_stages()
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_gradients_reach_the_stem():
    model = models.ResNet18(class_dim=3).train()
    sum(x.sum() for x in model.forward_stages(torch.randn(2, 3, 64, 64))).backward()
    assert model.conv1.weight.grad.abs().sum() > 0
    assert model.fc.weight.grad is None


def roi_align(x, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    """torchvision's own, in the form that it compiles; `boxes` are (K, 5), with the image's number before each."""
    from torchvision.ops.roi_align import _roi_align

    return _roi_align.__wrapped__(x, boxes, spatial_scale, *output_size, sampling_ratio, aligned)


def nms(boxes, scores, iou_threshold):
    """Indices of the boxes that are kept, the best first."""
    from torchvision.ops import box_iou

    kept, rest = [], scores.argsort(descending=True)
    while len(rest):
        kept.append(rest[0])
        rest = rest[1:][box_iou(boxes[rest[:1]], boxes[rest[1:]])[0] <= iou_threshold]
    return torch.stack(kept) if kept else rest


def test_a_detector_trains(monkeypatch, capsys):
    """The example of docs/library.md, as it stands there."""
    torchvision = import_torchvision()
    if not torchvision.extension._has_ops():
        monkeypatch.setattr("torchvision.ops.boxes.nms", nms)
        monkeypatch.setattr("torchvision.ops.poolers.roi_align", roi_align)
    section = LIBRARY.read_text().partition("## Detection and segmentation")[2]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    torch.manual_seed(0)
    exec(compile(example, str(LIBRARY), "exec"), {"__name__": "example"})
    losses = [float(line) for line in capsys.readouterr().out.split()]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
