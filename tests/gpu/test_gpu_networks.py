"""Networks on a GPU answer as on the CPU: in float32 with TF32 and without, in mixed precision, in either layout."""

from __future__ import annotations

import copy
from functools import lru_cache

import exports
import pytest
import torch
from gpu import WITH_ALL, distance, tf32
from torch import Tensor, nn

import models
from utils.devices import place

NETWORKS = (
    "ResNet50", "ResNet50_vd", "MobileNetV1", "MobileNetV3_large_x1_0", "EfficientNetB0", "ShuffleNetV2_x1_0",
    "DenseNet121", "GoogLeNet", "InceptionV3", "SwinTransformer_tiny_patch4_window7_224", "ConvNeXt_tiny",
    "PPLCNet_x1_0",
)  # fmt: skip

# How far from the answer in float64. On a CPU the worst of the twelve was 7.3e-7 in float32, 1.1e-3 in float16 and
# 8.4e-3 in bfloat16. TF32 multiplies with float16's mantissa. Four times that, for sums in another order; 40 times in
# float32, where cuDNN may transform tiles (Winograd), which costs a digit.
BOUNDS = {"float32": 3e-5, "tf32": 4.5e-3, "float16": 4.5e-3, "bfloat16": 3.4e-2}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


@lru_cache(maxsize=1)  # the precisions of a network follow each other
def known(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images, and its answer in float64."""
    size = models.input_config(name).image_size
    model, images = exports.build(name, size, 1000), exports.images(2, size)
    with torch.inference_mode():
        return model, images, copy.deepcopy(model).double()(images.double())


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize(
    ("device", "name"),
    [
        *(pytest.param("cuda", name, marks=pytest.mark.gpu) for name in NETWORKS),
        *(pytest.param("cpu", name, marks=pytest.mark.full) for name in NETWORKS),
        ("cpu", "MobileNetV1_x0_25"),
    ],
)
def test_a_network_answers_as_in_float64(device, name, precision):
    if device == "cpu" and precision in ("tf32", "float16"):
        pytest.skip("not of a CPU")
    model, images, expected = known(name)
    half = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision)
    for layout, memory_format in LAYOUTS.items():
        placed = place(copy.deepcopy(model), torch.device(device), memory_format)
        inputs = images.to(device, memory_format=memory_format)
        with torch.inference_mode(), tf32(precision == "tf32"), torch.autocast(device, half, enabled=half is not None):
            found = distance(placed(inputs), expected)
        assert found <= BOUNDS[precision], layout


@pytest.mark.parametrize("device", WITH_ALL)
def test_half_precision_rounds(device):
    """What the bounds are worth: half precision is further off than float32 may be."""
    model, images, expected = known("MobileNetV1_x0_25")
    placed = copy.deepcopy(model).to(device)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        assert distance(placed(images.to(device)), expected) > BOUNDS["float32"]
