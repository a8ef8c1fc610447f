"""Batch norm over the batches of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.processes import world_size


class _AllReduceSum(torch.autograd.Function):
    """Sum over the processes; its gradient is summed over the processes too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


class _CPUSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all processes, for the CPU; `nn.SyncBatchNorm` needs a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dtype = x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))  # half-precision sums would be rounded
        axes = [0, *range(2, x.dim())]
        channels = (-1, *[1] * (x.dim() - 2))
        count = x.numel() // x.shape[1] * world_size()
        mean = _AllReduceSum.apply(x.sum(axes)) / count
        centred = x - mean.view(channels)
        variance = _AllReduceSum.apply((centred * centred).sum(axes)) / count
        with torch.no_grad():
            assert self.num_batches_tracked is not None and self.momentum is not None, "networks have no other kinds"
            assert self.running_mean is not None and self.running_var is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(channels) + self.bias.view(channels)).to(dtype)


class CPUSyncBatchNorm1d(_CPUSyncBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the batches of all processes, on the CPU."""


class CPUSyncBatchNorm2d(_CPUSyncBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all processes, on the CPU."""


class GPUSyncBatchNorm1d(nn.SyncBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the batches of all processes, on a GPU."""

    process_group = None  # all of them


class GPUSyncBatchNorm2d(nn.SyncBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all processes, on a GPU."""

    process_group = None  # all of them


# Kind of batch norm -> its synchronized kind on a CPU and on a GPU.
SYNCHRONIZED = {
    nn.BatchNorm1d: (CPUSyncBatchNorm1d, GPUSyncBatchNorm1d),
    nn.BatchNorm2d: (CPUSyncBatchNorm2d, GPUSyncBatchNorm2d),
}


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Makes every batch norm of `model` use the statistics of all processes' batches together.

    The modules stay the same objects and keep their attributes (published names, L2 decay);
    `nn.SyncBatchNorm.convert_sync_batchnorm` would create new ones.
    """
    for module in model.modules():
        if type(module) in SYNCHRONIZED:
            module.__class__ = SYNCHRONIZED[type(module)][device.type != "cpu"]
