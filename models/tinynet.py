"""TinyNet: EfficientNet scaled down, resolution and depth before width (Han et al., arXiv:2010.14819).

The authors round the number of a stage's blocks. PaddleClas's networks with the plain names round it up, but its
recipes override that. Weights trained with them belong to the authors' smaller networks: `TinyNet_A_recipe` and so on.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from models.efficientnet import EfficientNetNet
from models.inputs import BICUBIC, InputConfig


class TinyNet(EfficientNetNet):
    """TinyNet; its first and last convolution are as wide as EfficientNet-B0's.

    Args:
        width, depth: factors of EfficientNet-B0's channels and blocks.
        class_dim: number of classes.
        drop_connect_rate: probability to drop the last residual branch; it grows linearly from 0 at the first block.
    """

    def __init__(self, width: float, depth: float, class_dim: int = 1000, *, drop_connect_rate: float = 0.2) -> None:
        super().__init__(
            width,
            depth,
            dropout=0.2,
            class_dim=class_dim,
            padding_type="DYNAMIC",
            drop_connect_rate=drop_connect_rate,
            scale_ends=False,
        )


class RecipeTinyNet(TinyNet):
    """TinyNet with the authors' depth and batch norms."""

    round_depth = staticmethod(lambda blocks: max(1, round(blocks)))

    def __init__(self, width: float, depth: float, class_dim: int = 1000, *, drop_connect_rate: float = 0.1) -> None:
        super().__init__(width, depth, class_dim, drop_connect_rate=drop_connect_rate)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps, layer.momentum = 1e-5, 0.1


# width, depth
A = 1.0, 1.2
B = 0.75, 1.1
C = 0.54, 0.85
D = 0.54, 0.695
E = 0.51, 0.6

TinyNet_A = partial(TinyNet, *A)
TinyNet_B = partial(TinyNet, *B)
TinyNet_C = partial(TinyNet, *C)
TinyNet_D = partial(TinyNet, *D)
TinyNet_E = partial(TinyNet, *E)
TinyNet_A_recipe = partial(RecipeTinyNet, *A)
TinyNet_B_recipe = partial(RecipeTinyNet, *B)
TinyNet_C_recipe = partial(RecipeTinyNet, *C)
TinyNet_D_recipe = partial(RecipeTinyNet, *D)
TinyNet_E_recipe = partial(RecipeTinyNet, *E)

INPUTS = {
    "*_A*": InputConfig(192, 219, BICUBIC, resize_backend="pil", decode_backend="pil"),
    "*_B*": InputConfig(188, 214, BICUBIC, resize_backend="pil", decode_backend="pil"),
    "*_C*": InputConfig(184, 210, BICUBIC, resize_backend="pil", decode_backend="pil"),
    "*_D*": InputConfig(152, 173, BICUBIC, resize_backend="pil", decode_backend="pil"),
    "*_E*": InputConfig(106, 121, BICUBIC, resize_backend="pil", decode_backend="pil"),
}
