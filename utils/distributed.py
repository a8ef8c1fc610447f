"""Several processes: starting, stopping, agreeing, and batch-norm over all of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.errors import UserError


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes of a launcher (`python -m torch.distributed.run`) for as long as the block runs.

    nccl on GPUs; gloo on CPUs and for small agreements between the processes. Without a launcher it does nothing.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield
    finally:
        dist.destroy_process_group()


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """The values of all processes, by rank, in every process."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_dict(values: dict) -> dict:
    """The entries of all processes' dictionaries, in every process."""
    return {key: value for part in gather_objects(values) for key, value in part.items()}


def check_agreement(values: dict[str, Any]) -> None:
    """Raises `UserError` in every process if the processes were started with different values."""
    for number, other in enumerate(gather_objects(values)):
        for name, value in values.items():
            if other.get(name) != value:
                raise UserError(
                    f"the processes disagree: --{name} is {value!r} in process {rank()}, {other.get(name)!r} in "
                    f"process {number}; start all of them with the same command and the same data"
                )


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Gives every process rank 0's buffers (batch-norm statistics)."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


@torch.no_grad()
def broadcast_module(model: nn.Module) -> None:
    """Gives every process rank 0's parameters and buffers."""
    if dist.is_initialized():
        for parameter in model.parameters():
            dist.broadcast(parameter, src=0)
    broadcast_buffers(model)


class StopSignal:
    """Ends a run in order when SIGTERM or SIGINT arrives: all processes stop after the same step.

    `poll`, called once a step by every process, starts a small agreement on the CPU and answers with the one started
    the step before, so that nobody waits for it.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: tuple[Any, Tensor] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C means it
        self.received = number

    def poll(self) -> int:
        """The number of the signal on which all processes stop now; 0 to go on."""
        if not dist.is_initialized():
            return self.received
        answer = 0
        if self._previous is not None:
            work, flag = self._previous
            work.wait()
            answer = int(flag)
        flag = torch.tensor(self.received)
        self._previous = (dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True), flag)
        return answer


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


class CPUSyncBatchNorm(nn.BatchNorm2d):
    """Batch-norm over the batches of all processes, for the CPU; `nn.SyncBatchNorm` needs a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * world_size()
        mean = _AllReduceSum.apply(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _AllReduceSum.apply((centred * centred).sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Makes every batch-norm of `model` use the statistics of all processes' batches together."""
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CPUSyncBatchNorm
    return model
