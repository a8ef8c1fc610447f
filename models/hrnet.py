"""HRNet (Wang et al., arXiv:1908.07919): branches of several resolutions side by side, exchanging what they find.

Coarse branches are upsampled to the nearest neighbour for the finer ones, in one of two ways: fluid's aligns the
corners; PaddleClas's, like the paper's, does not. The same weights fit both, but the results differ: the name of a
network that computes as PaddleClas does ends in _paddleclas.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.initializers import he_uniform_
from models.layers import ConvBNAct, SqueezeExcitation, global_average, linear, relu
from models.network import Network


def conv(
    in_channels: int, out_channels: int, kernel_size: int, name: str, *, stride: int = 1, rectify: bool = True
) -> ConvBNAct:
    """A convolution, batch norm and, if `rectify`, ReLU; published as NAME and NAME_bn."""
    activation = relu if rectify else None
    return ConvBNAct(in_channels, out_channels, kernel_size, stride, name=name, activation=activation, init=he_uniform_)


def excitation(channels: int, name: str, has_se: bool) -> nn.Module:
    """A block's squeeze-and-excitation, or nothing."""
    return SqueezeExcitation(channels, channels // 16, f"{name}_fc") if has_se else nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int, name: str, has_se: bool) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 3, f"{name}_conv1")
        self.conv2 = conv(channels, channels, 3, f"{name}_conv2", rectify=False)
        self.se = excitation(channels, name, has_se)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.se(self.conv2(self.conv1(x))))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last of four times the width, around a shortcut that may project."""

    def __init__(self, in_channels: int, width: int, name: str, has_se: bool, *, project: bool) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = conv(in_channels, width, 1, f"{name}_conv1")
        self.conv2 = conv(width, width, 3, f"{name}_conv2")
        self.conv3 = conv(width, out_channels, 1, f"{name}_conv3", rectify=False)
        self.conv_down: nn.Module = nn.Identity()
        if project:
            self.conv_down = conv(in_channels, out_channels, 1, f"{name}_downsample", rectify=False)
        self.se = excitation(out_channels, name, has_se)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv_down(x) + self.se(self.conv3(self.conv2(self.conv1(x)))))


def upsample(x: Tensor, size: torch.Size, align_corners: bool) -> Tensor:
    """Nearest neighbours: of n input positions, output position k of N takes floor(k n / N), or, with aligned
    corners, round(k (n - 1) / (N - 1))."""
    if not align_corners:
        return F.interpolate(x, size=size, mode="nearest")
    x = x.permute(0, 2, 3, 1)  # indexing whole rows of channels is several times faster
    for dim, length in enumerate(size, 1):
        positions = torch.linspace(0.5, x.shape[dim] - 0.5, length, device=x.device).long()
        x = x.index_select(dim, positions)
    return x.permute(0, 3, 1, 2)


class FusePath(nn.Sequential):
    """The path from one branch to another: a 1x1 convolution to a finer branch, 3x3 ones of stride 2 to a coarser.

    Args:
        channels: channels of all branches.
        source, target: the two branches; the path from a branch to itself is empty.
        name: published name of the module.
    """

    def __init__(self, channels: Sequence[int], source: int, target: int, name: str) -> None:
        super().__init__()
        name = f"{name}_layer_{target + 1}_{source + 1}"
        if source > target:
            self.append(conv(channels[source], channels[target], 1, name, rectify=False))
        for step in range(1, target - source + 1):
            last = step == target - source
            out_channels = channels[target if last else source]
            self.append(conv(channels[source], out_channels, 3, f"{name}_{step}", stride=2, rectify=not last))


class HighResolutionModule(nn.Module):
    """Four basic blocks in every branch; then every branch becomes the sum over all.

    Args:
        channels: channels of the branches, each with half the resolution of the one before.
        name: published name.
        has_se, align_corners: as in `HRNet`.
    """

    def __init__(self, channels: Sequence[int], name: str, has_se: bool, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.ModuleList()
        self.fuse_paths = nn.ModuleList()
        for branch, width in enumerate(channels):
            label = f"{name}_branch_layer_{branch + 1}"
            self.branches.append(nn.Sequential(*(BasicBlock(width, f"{label}_{n}", has_se) for n in range(1, 5))))
            paths = (FusePath(channels, source, branch, name) for source in range(len(channels)))
            self.fuse_paths.append(nn.ModuleList(paths))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        xs = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        fused = []
        for target, paths in enumerate(self.fuse_paths):
            assert isinstance(paths, nn.ModuleList)
            total = xs[target]
            for source, x in enumerate(xs):
                if source == target:
                    continue
                y = paths[source](x)
                total = total + (upsample(y, total.shape[2:], self.align_corners) if source > target else y)
            fused.append(F.relu(total))
        return fused


class HRNet(Network):
    """One to four branches, whose resolutions are 1/4, 1/8, 1/16 and 1/32 of the image's.

    Args:
        width: channels of the finest branch; each coarser branch has twice as many.
        class_dim: number of classes.
        has_se: whether the blocks have squeeze-and-excitation (Hu et al., arXiv:1709.01507).
        align_corners: how the branches are upsampled: True as in fluid, False as in PaddleClas.

    Attributes:
        forms: by publisher ("fluid", "PaddleClas"), the name of the network for its weights, as the names and shapes of
            the tensors are the same.
        published_by: the publisher of this form.
    """

    def __init__(self, width: int, class_dim: int = 1000, *, has_se: bool = False, align_corners: bool = True) -> None:
        super().__init__()
        form = f"{'SE_' if has_se else ''}HRNet_W{width}_C"
        self.forms = {"fluid": form, "PaddleClas": f"{form}_paddleclas"}
        self.published_by = "fluid" if align_corners else "PaddleClas"
        self.conv_layer1_1 = conv(3, 64, 3, "layer1_1", stride=2)
        self.conv_layer1_2 = conv(64, 64, 3, "layer1_2", stride=2)
        self.layer1 = nn.Sequential(
            Bottleneck(64, 64, "layer2_1", has_se, project=True),
            *(Bottleneck(256, 64, f"layer2_{number}", has_se, project=False) for number in (2, 3, 4)),
        )
        channels = [width, 2 * width, 4 * width, 8 * width]
        self.conv_tr1_1 = conv(256, channels[0], 3, "tr1_layer_1")
        self.conv_tr1_2 = conv(256, channels[1], 3, "tr1_layer_2", stride=2)
        self.conv_tr2 = conv(channels[1], channels[2], 3, "tr2_layer_3", stride=2)
        self.conv_tr3 = conv(channels[2], channels[3], 3, "tr3_layer_4", stride=2)

        def stage(branches: int, depth: int) -> nn.Sequential:
            names = (f"st{branches}_{number}" for number in range(1, depth + 1))
            return nn.Sequential(
                *(HighResolutionModule(channels[:branches], name, has_se, align_corners) for name in names)
            )

        self.st2 = stage(branches=2, depth=1)
        self.st3 = stage(branches=3, depth=4)
        self.st4 = stage(branches=4, depth=3)

        self.last_cls = nn.ModuleList()
        self.cls_head_conv_list = nn.ModuleList()
        for branch, in_channels in enumerate(channels, 1):
            out_channels = 64 * 2**branch
            if branch > 1:
                name = f"cls_head_add{branch - 1}"
                self.cls_head_conv_list.append(conv(out_channels // 2, out_channels, 3, name, stride=2))
            name = f"cls_headconv_{branch}"
            self.last_cls.append(Bottleneck(in_channels, out_channels // 4, name, has_se, project=True))
        self.conv_last = conv(1024, 2048, 1, "cls_head_last_conv")
        self.fc = linear(2048, class_dim, "fc")

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's lists have their own names, and one list holds all paths between a module's branches."""
        path = path.replace(".se.fc1", ".se.fc_squeeze").replace(".se.fc2", ".se.fc_excitation")
        first, _, rest = path.partition(".")
        if first == "last_cls":
            return f"last_cls.func_list.{rest}"
        if not first.startswith("st"):
            return path
        index, part, place = rest.split(".", 2)
        module = f"{first}.stage_func_list.{index}"
        if part == "branches":
            return f"{module}.basic_block_list.{place}"
        place, _, leaf = place.rpartition(".")
        layers = self.get_submodule(f"{first}.{index}.{part}").named_modules()
        convs = [name for name, layer in layers if isinstance(layer, ConvBNAct)]
        return f"{module}.fuse_func.residual_func_list.{convs.index(place)}.{leaf}"

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """The four branches at the end."""
        x = self.layer1(self.conv_layer1_2(self.conv_layer1_1(images)))
        xs = self.st2([self.conv_tr1_1(x), self.conv_tr1_2(x)])
        xs = self.st3([*xs, self.conv_tr2(xs[-1])])
        return self.st4([*xs, self.conv_tr3(xs[-1])])

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, 2048)."""
        x, *others = [block(x) for block, x in zip(self.last_cls, self.stage_maps(images), strict=True)]
        for downsample, other in zip(self.cls_head_conv_list, others, strict=True):
            x = other + downsample(x)
        return global_average(self.conv_last(x))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.fc(self.forward_features(images))


HRNet_W18_C = partial(HRNet, 18)
HRNet_W30_C = partial(HRNet, 30)
HRNet_W32_C = partial(HRNet, 32)
HRNet_W40_C = partial(HRNet, 40)
HRNet_W44_C = partial(HRNet, 44)
HRNet_W48_C = partial(HRNet, 48)
HRNet_W60_C = partial(HRNet, 60)
HRNet_W64_C = partial(HRNet, 64)
HRNet_W18_C_paddleclas = partial(HRNet, 18, align_corners=False)
HRNet_W30_C_paddleclas = partial(HRNet, 30, align_corners=False)
HRNet_W32_C_paddleclas = partial(HRNet, 32, align_corners=False)
HRNet_W40_C_paddleclas = partial(HRNet, 40, align_corners=False)
HRNet_W44_C_paddleclas = partial(HRNet, 44, align_corners=False)
HRNet_W48_C_paddleclas = partial(HRNet, 48, align_corners=False)
HRNet_W60_C_paddleclas = partial(HRNet, 60, align_corners=False)
HRNet_W64_C_paddleclas = partial(HRNet, 64, align_corners=False)
