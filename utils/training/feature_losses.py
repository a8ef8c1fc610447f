"""Losses between feature maps: a student learns its teacher's intermediate outputs.

They may have parameters, which are trained with the student and discarded with the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.training.loss import at_least_float32

Shape = tuple[int, ...]


def distance(student: Tensor, teacher: Tensor, mode: str = "l2", act: str | None = None) -> Tensor:
    """Mean absolute difference (l1), mean squared difference (l2), or smooth L1: half the square below 1, else the
    absolute difference minus a half.

    Args:
        student, teacher: maps or logits of the same shape.
        mode: one of these.
        act: applied first: softmax (over the last axis) or sigmoid.
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if act == "softmax":
        student, teacher = student.softmax(-1), teacher.softmax(-1)
    elif act == "sigmoid":
        student, teacher = student.sigmoid(), teacher.sigmoid()
    losses = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}
    return losses[mode](student, teacher)


class Distance(nn.Module):
    """`distance` of two maps.

    Args:
        student, teacher: their shapes, (N, ...).
        options: of `distance`.
    """

    def __init__(self, student: Shape, teacher: Shape, **options: str) -> None:
        super().__init__()
        if student != teacher:
            raise ValueError(
                f"the layers' outputs are {_shown(student)} and {_shown(teacher)}, but their shapes must be equal"
            )
        self.options = options

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return distance(student, teacher, **self.options)


class MaskedGeneration(nn.Module):
    """Mean squared difference between the teacher's map and one generated from the student's with some channels masked
    (MGD, Yang et al., arXiv:2205.01529).

    Args:
        student, teacher: shapes of the maps, (N, channels, H, W).
        alpha: factor of the loss.
        mask: fraction of an image's channels to mask.
    """

    def __init__(self, student: Shape, teacher: Shape, alpha: float = 1.756, mask: float = 0.15) -> None:
        super().__init__()
        _check_maps(student, teacher)
        channels = teacher[1]
        self.alpha = alpha
        self.mask = mask
        self.align = nn.Conv2d(student[1], channels, 1) if student[1] != channels else nn.Identity()
        self.generation = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                _zero_bias(layer)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student = self.align(student)
        kept = torch.rand(*student.shape[:2], 1, 1, device=student.device) >= self.mask
        return self.alpha * distance(self.generation(student * kept), teacher)


class ProjectorEnsemble(nn.Module):
    """1 - cosine similarity of the teacher's features and the mean of several projections of the student's (PEFD, Chen
    et al., arXiv:2210.15274).

    Args:
        student, teacher: shapes of the features, (N, channels, ...).
        projectors: number of projections.
    """

    def __init__(self, student: Shape, teacher: Shape, projectors: int = 3) -> None:
        super().__init__()
        if student[2:] != teacher[2:]:
            raise ValueError(
                f"the features are {_shown(student)} and {_shown(teacher)}, but only their channels may differ"
            )
        layers = [nn.Conv2d(student[1], teacher[1], 1) for _ in range(projectors)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            _zero_bias(layer)
        self.projectors = nn.ModuleList(layers)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student = student if student.dim() == 4 else student.reshape(*student.shape[:2], -1, 1)
        projected = torch.stack([projector(student).relu() for projector in self.projectors]).mean(0)
        mine, theirs = (at_least_float32(x).flatten(1) for x in (projected, teacher))
        return 1 - ((mine / mine.norm(dim=1, keepdim=True)) * (theirs / theirs.norm(dim=1, keepdim=True))).sum(1).mean()


class _Projection(nn.Module):
    """A linear layer and a batch norm."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.bn = nn.BatchNorm1d(out_features)
        nn.init.xavier_uniform_(self.linear.weight)
        _zero_bias(self.linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.linear(x))


class AttentionTransfer(nn.Module):
    """Mean squared difference between the spatial attention of the teacher's and student's maps; each teacher map is
    compared with all student maps, weighted by learned attention (AFD, Ji et al., arXiv:2102.02973).

    Args:
        student, teacher: shapes of their maps, (N, channels, H, W).
        dim: size of queries and keys.
    """

    def __init__(self, student: Sequence[Shape], teacher: Sequence[Shape], dim: int = 128) -> None:
        super().__init__()
        for shape in (*student, *teacher):
            if len(shape) != 4:
                raise ValueError(f"a layer's output is {_shown(shape)}, which is not a feature map")
        self.dim = dim
        self.queries = nn.ModuleList(_Projection(shape[1], dim) for shape in teacher)
        self.keys = nn.ModuleList(_Projection(shape[1], dim) for shape in student)
        self.bilinear = _Projection(dim, dim * len(teacher))
        self.teacher_position = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(teacher), dim)))
        self.student_position = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(student), dim)))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        count = len(student[0])
        queries = torch.stack([layer(x.mean((2, 3))) for layer, x in zip(self.queries, teacher, strict=True)], dim=1)
        keys = torch.stack([layer(x.mean((2, 3))).relu() for layer, x in zip(self.keys, student, strict=True)], dim=1)
        keys = self.bilinear(keys.flatten(0, 1)).view(count, len(student), len(teacher), self.dim)
        logits = torch.einsum("nstd,ntd->nts", keys, queries) + self.teacher_position @ self.student_position.t()
        attention = at_least_float32(logits / self.dim**0.5).softmax(2)
        energies = [at_least_float32(x).square().mean(1, keepdim=True) for x in student]
        values = {x.shape[2:]: _pooled(energies, x.shape[2], x.shape[3]) for x in teacher}
        losses = []
        for index, x in enumerate(teacher):
            theirs = F.normalize(at_least_float32(x).square().mean(1).flatten(1), dim=1)
            unlike = (values[x.shape[2:]] - theirs[:, None]).square().mean(2)
            losses.append((unlike * attention[:, index]).sum(1).mean())
        return torch.stack(losses).sum()


def _pooled(energies: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Maps (N, 1, h, w), each pooled to a size and normalised to length 1: (N, maps, H W)."""
    pooled = [F.adaptive_avg_pool2d(energy, (height, width)).flatten(1) for energy in energies]
    return F.normalize(torch.stack(pooled, dim=1), dim=2)


def _zero_bias(layer: nn.Module) -> None:
    nn.init.zeros_(layer.get_parameter("bias"))


def _shown(shape: Shape) -> str:
    """A shape without the batch dimension."""
    return " x ".join(map(str, shape[1:]))


def _check_maps(student: Shape, teacher: Shape) -> None:
    if len(student) != 4 or len(teacher) != 4 or student[2:] != teacher[2:]:
        raise ValueError(f"the maps are {_shown(student)} and {_shown(teacher)}, but only their channels may differ")
