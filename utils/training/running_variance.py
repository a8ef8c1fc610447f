"""Batch norm whose running variance averages the biased batch variance, as in PaddlePaddle.

PyTorch averages the unbiased variance, which is n / (n - 1) times as large, where n is the number of values per
channel. These classes use its kernels unchanged: they multiply the running variance by n / (n - 1) before the update
and divide it afterwards. That takes two operations on one number per channel, for any batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.processes import world_size
from utils.training.sync_batch_norm import (
    CPUSyncBatchNorm1d,
    CPUSyncBatchNorm2d,
    GPUSyncBatchNorm1d,
    GPUSyncBatchNorm2d,
)

BIASED, UNBIASED = "biased", "unbiased"


class _Biased(_BatchNorm):
    """Common part of the batch norm classes below."""

    processes = False  # whether statistics cover the batches of all processes

    def forward(self, x: Tensor) -> Tensor:
        own = self.running_var
        if not self.training or not self.momentum or own is None:  # no averaging
            return super().forward(x)
        count = x.numel() // x.shape[1] * (world_size() if self.processes else 1)
        share = (count - 1) / count if count > 1 else 1.0
        # The kernel keeps its arguments for the gradient, so pass a tensor that is not modified afterwards.
        enlarged = own / share
        self._buffers["running_var"] = enlarged
        try:
            return super().forward(x)
        finally:
            self._buffers["running_var"] = own
            with torch.no_grad():
                torch.mul(enlarged, share, out=own)


class BiasedBatchNorm1d(_Biased, nn.BatchNorm1d):
    """`nn.BatchNorm1d` with PaddlePaddle's running variance."""


class BiasedBatchNorm2d(_Biased, nn.BatchNorm2d):
    """`nn.BatchNorm2d` with PaddlePaddle's running variance."""


class BiasedCPUSyncBatchNorm1d(_Biased, CPUSyncBatchNorm1d):
    """`CPUSyncBatchNorm1d` with the running variance of PaddlePaddle."""

    processes = True


class BiasedCPUSyncBatchNorm2d(_Biased, CPUSyncBatchNorm2d):
    """`CPUSyncBatchNorm2d` with the running variance of PaddlePaddle."""

    processes = True


class BiasedGPUSyncBatchNorm1d(_Biased, GPUSyncBatchNorm1d):
    """`GPUSyncBatchNorm1d` with the running variance of PaddlePaddle."""

    processes = True


class BiasedGPUSyncBatchNorm2d(_Biased, GPUSyncBatchNorm2d):
    """`GPUSyncBatchNorm2d` with the running variance of PaddlePaddle."""

    processes = True


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BiasedBatchNorm1d,
    nn.BatchNorm2d: BiasedBatchNorm2d,
    CPUSyncBatchNorm1d: BiasedCPUSyncBatchNorm1d,
    CPUSyncBatchNorm2d: BiasedCPUSyncBatchNorm2d,
    GPUSyncBatchNorm1d: BiasedGPUSyncBatchNorm1d,
    GPUSyncBatchNorm2d: BiasedGPUSyncBatchNorm2d,
}


def average_biased_variance(model: nn.Module) -> None:
    """Makes every batch norm of `model` average the biased variance. The modules stay the same objects."""
    for module in model.modules():
        if type(module) in _KINDS:
            module.__class__ = _KINDS[type(module)]


def running_variance(model: nn.Module) -> str:
    """The variance that the batch norms of `model` average."""
    return BIASED if any(isinstance(module, _Biased) for module in model.modules()) else UNBIASED
