"""ResNeXt101 pre-trained on weakly labelled photographs (Mahajan et al., arXiv:1805.00932).

The published weights were converted from PyTorch and keep its names. `Fix_ResNeXt101_32x48d_wsl` was finetuned at the
resolution of its evaluation, 320 x 320 (Touvron et al., arXiv:1906.06423).
"""

from __future__ import annotations

from functools import partial

from torch import nn

from models.inputs import InputConfig
from models.names import publish
from models.resnet import SHORTCUT, Bottleneck, Place, ResNet


class ResNeXtWSL(ResNet):
    """ResNeXt101 published under its state-dict keys."""

    paddleclas_leaves = ("_conv", "_bn")

    def __init__(self, base_width: int, class_dim: int = 1000) -> None:
        super().__init__(Bottleneck, (3, 4, 23, 3), class_dim, groups=32, base_width=base_width)

    def publish_names(self) -> None:
        tensors = ("weight", "bias", "running_mean", "running_var")
        for path, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                publish(layer, **{tensor: f"{path}.{tensor}" for tensor in tensors})

    def paddleclas_block(self, place: Place) -> str:
        if place.stage == 0:
            return "_conv_stem"
        part = "_short._conv" if place.part == SHORTCUT else f"_conv{place.part}"
        return f"_conv{place.stage}_{place.index}.{part}"

    def paddleclas_path(self, path: str) -> str:
        return "_out" if path == "fc" else super().paddleclas_path(path)


ResNeXt101_32x8d_wsl = partial(ResNeXtWSL, 8)
ResNeXt101_32x16d_wsl = partial(ResNeXtWSL, 16)
ResNeXt101_32x32d_wsl = partial(ResNeXtWSL, 32)
ResNeXt101_32x48d_wsl = partial(ResNeXtWSL, 48)
Fix_ResNeXt101_32x48d_wsl = ResNeXt101_32x48d_wsl

INPUTS = {"Fix_*": InputConfig(320, 320)}
