"""The original networks' initializers: functions that fill a tensor and return it."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

Initializer = Callable[[Tensor], Tensor]


def he_normal_(weight: Tensor, in_channels: int | None = None) -> Tensor:
    """Normal(0, sqrt(2 / (kh kw in_channels))), fluid's default for convolutions.

    Unlike `nn.init.kaiming_normal_`, grouped convolutions count all input channels, not those of one group.
    """
    channels = weight.shape[1] if in_channels is None else in_channels
    return nn.init.normal_(weight, 0.0, math.sqrt(2.0 / (channels * math.prod(weight.shape[2:]))))


def he_uniform_(weight: Tensor) -> Tensor:
    """Uniform(+-sqrt(6 / fan_in)): "MSRA" in fluid (He et al., arXiv:1502.01852); fan_in is of one group."""
    return nn.init.kaiming_uniform_(weight, nonlinearity="relu")


def fan_out_normal_(weight: Tensor) -> Tensor:
    """Normal(0, sqrt(2 / (kh kw out_channels))), the usual one outside the zoo; groups make no difference."""
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def small_normal_(weight: Tensor) -> Tensor:
    """Normal(0, 0.01), for linear layers."""
    return nn.init.normal_(weight, 0.0, 0.01)


def uniform_fan_in_(weight: Tensor) -> Tensor:
    """Uniform(+-1 / sqrt(fan_in)), the usual one of the zoo's linear layers."""
    bound = 1.0 / math.sqrt(math.prod(weight.shape[1:]))
    return nn.init.uniform_(weight, -bound, bound)
