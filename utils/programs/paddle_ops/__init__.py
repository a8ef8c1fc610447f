"""PaddlePaddle's operators expressed in PyTorch's, by topic. Importing the package fills `registry.DESC` and `PIR`."""

from utils.programs.paddle_ops import (
    activation,
    convolution,
    creation,
    elementwise,
    fused,
    indexing,
    interpolation,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    shape,
)

__all__ = [
    "activation",
    "convolution",
    "creation",
    "elementwise",
    "fused",
    "indexing",
    "interpolation",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "reduction",
    "shape",
]
