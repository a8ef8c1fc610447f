"""MobileViT: inverted residuals, and transformers over the pixels at one position in all patches (arXiv:2110.02178).

The module paths are timm's within a transformer's blocks and otherwise the authors'.
"""

from __future__ import annotations

import re
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import BILINEAR, ZERO_TO_ONE, InputConfig
from models.layers import UPSCALE_IN_TRAIN, ConvBNAct, Dropout, conv2d, global_average, swish
from models.network import Layer, Network
from models.transformer import Mlp, SelfAttention, dense, init_convolutions


class Residual(nn.Module):
    """A 1x1, a 3x3 depthwise and a 1x1 convolution, with a shortcut if input and output have the same shape."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.block = nn.Sequential()
        self.block.exp_1x1 = ConvBNAct(in_channels, width, 1, activation=swish)
        self.block.conv_3x3 = ConvBNAct(width, width, 3, stride, groups=width, activation=swish)
        self.block.red_1x1 = ConvBNAct(width, out_channels, 1)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.shortcut else self.block(x)


class Block(nn.Module):
    """Self-attention, then an MLP, each with a layer norm before it and a shortcut around it."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 2 * channels, nn.SiLU)
        self.dropout = Dropout(dropout, UPSCALE_IN_TRAIN)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


def unfold(x: Tensor) -> Tensor:
    """The pixels at each of the four positions of all 2 x 2 patches: (N, C, H, W) -> (N * 4, H * W / 4, C)."""
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // 2, 2, width // 2, 2)
    return x.permute(0, 3, 5, 2, 4, 1).reshape(4 * n, height * width // 4, channels)


def fold(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `unfold`."""
    x = x.reshape(-1, 2, 2, height // 2, width // 2, x.shape[-1])
    return x.permute(0, 5, 3, 1, 4, 2).reshape(-1, x.shape[-1], height, width)


class MobileViTBlock(nn.Module):
    """Convolutions, transformer blocks, and a convolution that fuses their output with the input.

    Args:
        channels, width: channels of the map, and inside the transformer blocks.
        depth: number of blocks.
        third: whether it has the form of MobileViT V3: a depthwise 3x3 convolution, a 1x1 fusion that takes the blocks'
            input instead of the map, and a shortcut for the map.
        dropout: probability inside the blocks.
    """

    def __init__(self, channels: int, width: int, depth: int, *, third: bool, dropout: float) -> None:
        super().__init__()
        self.third = third
        self.local_rep = nn.Sequential()
        groups = channels if third else 1
        self.local_rep.conv_3x3 = ConvBNAct(channels, channels, 3, groups=groups, activation=swish)
        self.local_rep.conv_1x1 = conv2d(channels, width, 1)
        self.global_rep = nn.Sequential(*(Block(width, 4, dropout) for _ in range(depth)), nn.LayerNorm(width))
        self.conv_proj = ConvBNAct(width, channels, 1, activation=swish)
        self.fusion = ConvBNAct(
            channels + (width if third else channels), channels, 1 if third else 3, activation=swish
        )

    def forward(self, x: Tensor) -> Tensor:
        local = self.local_rep(x)
        y = self.conv_proj(self._transformed(local))
        if self.third:
            return x + self.fusion(torch.cat([local, y], 1))
        return self.fusion(torch.cat([x, y], 1))

    def _transformed(self, x: Tensor) -> Tensor:
        """A map after the transformer blocks; maps that do not divide into patches are resized before and after."""
        height, width = x.shape[2:]
        whole = height + height % 2, width + width % 2
        if whole == (height, width):
            return fold(self.global_rep(unfold(x)), height, width)
        x = F.interpolate(x, whole, mode="bilinear")
        x = fold(self.global_rep(unfold(x)), *whole)
        # PaddleClas's first MobileViT resizes back to the nearest neighbour.
        return F.interpolate(x, (height, width), mode="bilinear" if self.third else "nearest")


class MobileViT(Network):
    """MobileViT, or V3 (arXiv:2209.15159), for images of any size; multiples of 64 need no resizing of maps.

    The published weights of the first MobileViT were trained on BGR, as `INPUTS` says.

    Args:
        class_dim: number of classes.
        channels: channels of the stem, the five stages and the last convolution.
        widths, depths: widths and numbers of the transformer blocks in the last three stages.
        expansion: expansion of the residual blocks.
        third: whether to build V3, as in `MobileViTBlock`.
        dropout, block_dropout: probabilities before the classifier and in the transformer blocks.
    """

    layer_3: nn.Sequential
    layer_4: nn.Sequential
    layer_5: nn.Sequential

    image_size = 256

    def __init__(
        self,
        class_dim: int = 1000,
        *,
        channels: tuple[int, ...],
        widths: tuple[int, ...],
        depths: tuple[int, int, int] = (2, 4, 3),
        expansion: int = 4,
        third: bool = False,
        dropout: float = 0.1,
        block_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.third = third
        stem, first, second, *rest, last = channels
        residual = partial(Residual, expansion=expansion)
        self.conv_1 = ConvBNAct(3, stem, 3, 2, activation=swish)
        self.layer_1 = nn.Sequential(residual(stem, first, 1))
        self.layer_2 = nn.Sequential(
            residual(first, second, 2), residual(second, second, 1), residual(second, second, 1)
        )
        in_channels = second
        for index, (out_channels, width, depth) in enumerate(zip(rest, widths, depths, strict=True)):
            block = MobileViTBlock(out_channels, width, depth, third=third, dropout=block_dropout)
            self.add_module(f"layer_{index + 3}", nn.Sequential(residual(in_channels, out_channels, 2), block))
            in_channels = out_channels
        self.conv_1x1_exp = ConvBNAct(in_channels, last, 1, activation=swish)
        self.dropout = Dropout(dropout, UPSCALE_IN_TRAIN)
        self.classifier = nn.Sequential()
        self.classifier.fc = dense(last, class_dim)
        init_convolutions(self)

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path: V3 has the authors' names, the first MobileViT PaddleClas's own."""
        path = re.sub(r"\.bn$", ".norm", path)
        if self.third:
            for ours, theirs in (
                ("norm1", "pre_norm_mha.0"),
                ("attn.qkv", "pre_norm_mha.1.qkv_proj"),
                ("attn.proj", "pre_norm_mha.1.out_proj"),
                ("norm2", "pre_norm_ffn.0"),
                ("mlp.fc1", "pre_norm_ffn.1"),
                ("mlp.fc2", "pre_norm_ffn.4"),
            ):
                path = re.sub(rf"(global_rep\.\d\.){ours}$", rf"\g<1>{theirs}", path)
            return path.replace("local_rep.conv_1x1", "local_rep.conv_1x1.conv")
        if residual := re.fullmatch(r"layer_(\d)\.(\d)\.block\.(\w+)\.(\w+)", path):
            stage, index, part, leaf = residual.groups()
            number = 1 if stage == "1" else int(stage) + 2 if int(stage) > 2 else 2 + int(index)
            part = {
                "exp_1x1": f"0.{leaf}",
                "conv_3x3": f"1.{leaf}",
                "red_1x1": "2" if leaf == "conv" else "3",
            }[part]
            return f"mv2_block_{number}.conv.{part}"
        for ours, theirs in (
            (r"^conv_1\.", "conv3x3."),
            (r"^conv_1x1_exp\.", "conv1x1."),
            (r"^classifier\.fc$", "linear"),
            (r"^layer_3\.1\.", "mvit_block_1."),
            (r"^layer_4\.1\.", "mvit_block_2."),
            (r"^layer_5\.1\.", "mvit_block_3."),
            (r"local_rep\.conv_3x3", "conv1"),
            (r"local_rep\.conv_1x1", "conv2"),
            (r"global_rep\.\d$", "transformer.norm"),
            (r"global_rep\.", "transformer.layers."),
            (r"norm1$", "attn_norm"),
            (r"norm2$", "mlp_norm"),
            (r"conv_proj", "conv3"),
            (r"fusion", "conv4"),
        ):
            path = re.sub(ours, theirs, path)
        return path

    def trunk(self) -> list[Layer]:
        return [self.conv_1, self.layer_1, self.layer_2, self.layer_3, self.layer_4, self.layer_5]

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the pooled features, (N, C)."""
        return global_average(self.conv_1x1_exp(self.forward_trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, class_dim)."""
        return self.classifier(self.dropout(self.forward_features(images)))


MobileViT_XXS = partial(MobileViT, channels=(16, 16, 24, 48, 64, 80, 320), widths=(64, 80, 96), expansion=2)
MobileViT_XS = partial(MobileViT, channels=(16, 32, 48, 64, 80, 96, 384), widths=(96, 120, 144))
MobileViT_S = partial(MobileViT, channels=(16, 32, 64, 96, 128, 160, 640), widths=(144, 192, 240))
mobilevit_v3 = partial(MobileViT, third=True)
V3_XXS = {"channels": (16, 16, 24, 64, 80, 128, 512), "widths": (64, 80, 96), "expansion": 2}
V3_XS = {"channels": (16, 32, 48, 96, 160, 160, 640), "widths": (96, 120, 144)}
V3_S = {"channels": (16, 32, 64, 128, 256, 320, 960), "widths": (144, 192, 240)}
TWO_LESS = {"depths": (2, 2, 3)}

MobileViTV3_XXS = partial(mobilevit_v3, **V3_XXS)
MobileViTV3_XS = partial(mobilevit_v3, **V3_XS)
MobileViTV3_S = partial(mobilevit_v3, **V3_S)
MobileViTV3_XXS_L2 = partial(mobilevit_v3, **V3_XXS, **TWO_LESS)
MobileViTV3_XS_L2 = partial(mobilevit_v3, **V3_XS, **TWO_LESS)
MobileViTV3_S_L2 = partial(mobilevit_v3, **V3_S, **TWO_LESS)

# The authors trained the published weights of the first MobileViT on BGR, and PaddleClas evaluates them on BGR.
INPUTS = {
    "MobileViT_*": InputConfig(256, 292, BILINEAR, *ZERO_TO_ONE, resize_backend="pil", channel_order="bgr"),
    "MobileViTV3_*": InputConfig(256, 288, BILINEAR, *ZERO_TO_ONE),
}
