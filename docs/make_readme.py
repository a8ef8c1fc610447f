"""Writes the table of README.md and README_cn.md that comes from the code, between its markers: the kinds of networks.

python docs/make_readme.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from models import published
from utils.flags.line_parser import LineParser

ROOT = Path(__file__).resolve().parent.parent

# Kinds of networks: in English and Chinese, and the modules that build them.
KINDS = (
    ("AlexNet, VGG, SqueezeNet, DarkNet", "AlexNet、VGG、SqueezeNet、DarkNet",
     "alexnet vgg squeezenet darknet cspdarknet"),
    ("Inception, Xception", "Inception、Xception",
     "googlenet inception_v3 inception_v4 inception_resnet_v2 xception xception_deeplab"),
    ("ResNet and its variants", "ResNet 及其变体",
     "resnet resnet_v2 resnet_vc resnet_vd resnet_acnet resnet_dbb wide_resnet fast_imagenet rednet repvgg"),
    ("ResNeXt, SENet, Res2Net, ResNeSt", "ResNeXt、SENet、Res2Net、ResNeSt",
     "resnext resnext_vd resnext_wsl se_resnet_vd se_resnext se_resnext_vd senet_vd res2net res2net_vd resnest"),
    ("DenseNet, DPN, DLA, HarDNet, HRNet", "DenseNet、DPN、DLA、HarDNet、HRNet",
     "densenet dpn dla hardnet peleenet hrnet se_hrnet"),
    ("MobileNet V1 to V4, MobileNeXt", "MobileNet V1 至 V4、MobileNeXt",
     "mobilenet_v1 mobilenet_v2 mobilenet_v3 mobilenet_v4 mobilenext"),
    ("Other small networks: ShuffleNet, GhostNet, StarNet", "其他小型网络：ShuffleNet、GhostNet、StarNet",
     "shufflenet_v2 ghostnet esnet micronet mixnet tinynet starnet"),
    ("PP-LCNet, PP-HGNet", "PP-LCNet、PP-HGNet", "pp_lcnet pp_lcnet_v2 pp_hgnet pp_hgnet_v2"),
    ("EfficientNet, RegNet, ReXNet, DARTS", "EfficientNet、RegNet、ReXNet、DARTS",
     "efficientnet efficientnet_v2 regnet rexnet darts"),
    ("ConvNeXt, VAN, FasterNet", "ConvNeXt、VAN、FasterNet", "convnext van fasternet"),
    ("Vision transformers: ViT, DeiT, Swin, CSWin, Twins, PVT", "视觉 Transformer：ViT、DeiT、Swin、CSWin、Twins、PVT",
     "vit deit foundation_vit tnt swin swin_v2 cswin twins pvt_v2"),
    ("Convolutions and attention: MobileViT, LeViT, Next-ViT", "卷积与注意力：MobileViT、LeViT、Next-ViT",
     "cvt levit mobilevit mobilevit_v2 next_vit uniformer dsnet"),
)  # fmt: skip
# README -> the columns of its table of networks
ZOO_COLUMNS = {
    "README.md": ("networks", "number", "best top-1 published for fluid", "best top-1 published by PaddleClas"),
    "README_cn.md": ("网络", "数量", "fluid 权重公布的最高 top-1", "PaddleClas 公布的最高 top-1"),
}


def zoo_table(readme: str) -> str:
    """The kinds of networks, with the best published accuracy of each; docs/model_zoo.md has every network."""

    def best(names: list[str], source: str) -> str:
        weights = published.best(names, source)
        return f"{weights.top1:.2f} ({weights.whose})" if weights else ""

    lines = [f"| {' | '.join(ZOO_COLUMNS[readme])} |", "|---|---|---|---|"]
    for english, chinese, modules in KINDS:
        names = [name for module in modules.split() for name in models.FAMILIES[module]]
        kind = chinese if readme == "README_cn.md" else english
        cells = [kind, str(len(names)), *(best(names, source) for source in published.SOURCES)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def generated(readme: str) -> str:
    """The text of `readme` with today's table in it."""
    begin, end = "<!-- zoo: written by docs/make_readme.py -->", "<!-- end of zoo -->"
    before, rest = (ROOT / readme).read_text(encoding="utf-8").split(begin)
    return f"{before}{begin}\n\n{zoo_table(readme)}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    LineParser(__doc__).parse_args()
    for readme in ZOO_COLUMNS:
        (ROOT / readme).write_text(generated(readme), encoding="utf-8")


if __name__ == "__main__":
    main()
