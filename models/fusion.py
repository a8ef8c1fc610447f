"""Re-parameterization: modules that are trained as parallel branches and deployed as one layer."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.network import Network


class Fusable(nn.Module):
    """A module with different forms for training and deployment."""

    @abstractmethod
    def fused(self) -> nn.Module:
        """Its replacement: the same result in evaluation, in fewer layers."""

    @abstractmethod
    def take_fused(self, fused: nn.Module) -> None:
        """Takes weights from a module in the form that `fused` returns, to give the same result in evaluation."""


def fuse(model: Network) -> Network:
    """A copy of `model` in its deployed form: the same logits in evaluation, in fewer layers.

    Every `Fusable` module in it is replaced by its `fused` form.
    """
    fused = copy.deepcopy(model)
    for path, module in list(fused.named_modules()):
        if isinstance(module, Fusable):
            fused.set_submodule(path, module.fused().train(module.training))
    return fused


@torch.no_grad()
def sum_branches_(conv: nn.Conv2d, branches: Sequence[tuple[nn.Conv2d | None, nn.BatchNorm2d]]) -> nn.Conv2d:
    """Makes `conv` the sum of parallel branches in evaluation, and returns it.

    Args:
        conv: a convolution with bias, of the stride and groups of the branches.
        branches: convolutions of its size or smaller (None: the identity), each with its batch norm.
    """
    # In double precision, so that only the last step rounds.
    weight = torch.zeros_like(conv.weight, dtype=torch.float64, device=branches[0][1].weight.device)
    bias = torch.zeros_like(weight[:, 0, 0, 0])
    for branch, bn in branches:
        assert bn.running_mean is not None and bn.running_var is not None
        kernel = nn.init.dirac_(torch.empty_like(weight), conv.groups) if branch is None else branch.weight.double()
        height, width = ((size - own) // 2 for size, own in zip(conv.kernel_size, kernel.shape[2:], strict=True))
        scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
        weight += F.pad(kernel * scale[:, None, None, None], (width, width, height, height))
        bias += bn.bias.double() - bn.running_mean.double() * scale
    conv.to(branches[0][1].weight)
    conv.weight.copy_(weight)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return conv


@torch.no_grad()
def take_sum_(conv: nn.Conv2d, branches: Sequence[nn.BatchNorm2d], weight: Tensor) -> None:
    """Sets the weights of parallel branches so that their sum in evaluation equals `conv`.

    Args:
        conv: a convolution with bias.
        branches: their batch norms. The first branch computes everything, the others add nothing.
        weight: of the first branch's convolution, as large as `conv`.
    """
    assert conv.bias is not None
    weight.copy_(conv.weight)
    for bn in branches:
        assert bn.running_mean is not None and bn.running_var is not None
        bn.weight.zero_()
        bn.bias.zero_()
        bn.running_mean.zero_()
        bn.running_var.fill_(1 - bn.eps)
    branches[0].weight.fill_(1)
    branches[0].bias.copy_(conv.bias)
