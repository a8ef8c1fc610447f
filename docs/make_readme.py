"""Writes the tables and numbers of README.md and README_cn.md: the networks from the code, and what was measured from
the documents that have it in full. Tables are between markers.

python docs/make_readme.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import measured

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
# README -> the columns of its table of differences, and its names for networks and for exported models
EXACT_WORDS = {
    "README.md": (
        ("compared", "number", "within 1e-5", "largest difference"),
        {"fluid": "networks of fluid 1.8.5", "PaddleClas": "networks of PaddleClas 2.6"},
        "models that {} exported",
    ),
    "README_cn.md": (
        ("比较对象", "数量", "误差小于 1e-5", "最大误差"),
        {"fluid": "fluid 1.8.5 的网络", "PaddleClas": "PaddleClas 2.6 的网络"},
        "{} 导出的模型",
    ),
}
# README -> the columns of its table of speeds, and its names for what was measured and what beside it
FAST_WORDS = {
    "README.md": (
        ("images/s", "here", "compared with", "times as fast"),
        {
            "predict.py": ("predict.py, {}", "PyTorch, eager"),
            "exported": ("predict.py, {} as PaddlePaddle exported it", "Paddle Inference"),
            "train.py": ("a training step, {}", "a bare loop"),
            "reader.py": ("photographs to crops", "torchvision"),
        },
    ),
    "README_cn.md": (
        ("图像/秒", "本项目", "对照", "倍数"),
        {
            "predict.py": ("predict.py，{}", "PyTorch eager"),
            "exported": ("predict.py，PaddlePaddle 导出的 {}", "Paddle Inference"),
            "train.py": ("训练步，{}", "最简训练循环"),
            "reader.py": ("读取并裁剪照片", "torchvision"),
        },
    ),
}
# What follows a number in the text -> the number
NUMBERS = {
    "networks for image|个图像分类网络": lambda: len(models.list_models()),
    "YAML configurations|个 YAML 配置": measured.configurations,
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


def exact_table(readme: str) -> str:
    """How far networks and exported models are from the originals, as parity.md and paddle_parity.md have it."""
    columns, networks, exported = EXACT_WORDS[readme]
    lines = [f"| {' | '.join(columns)} |", "|---|--:|--:|---|"]
    for found in measured.exactness():
        name = networks.get(found.what) or exported.format(found.what)
        lines.append(f"| {name} | {found.count} | {found.within} | {found.largest:.1e} ({found.worst}) |")
    return "\n".join(lines)


def fast_table(readme: str) -> str:
    """How fast ours is beside others, as benchmarks.md and reader.md have it."""
    columns, names = FAST_WORDS[readme]
    lines = [f"| {' | '.join(columns)} |", "|---|--:|--:|--:|"]
    for speed in measured.speeds():
        ours, theirs = names[speed.what]
        cells = (ours.format(speed.network), speed.ours, f"{speed.theirs} ({theirs})", speed.times)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def generated(readme: str) -> str:
    """The text of `readme` with today's tables and numbers in it."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    for what, table in (("zoo", zoo_table), ("exact", exact_table), ("fast", fast_table)):
        begin, end = f"<!-- {what}: written by docs/make_readme.py -->", f"<!-- end of {what} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{table(readme)}\n\n{end}{rest.split(end)[1]}"
    for what, number in NUMBERS.items():
        text, count = re.subn(rf"\d+(?= (?:{what}))", str(number()), text)
        if not count:
            raise ValueError(f"{readme} gives no number of {what}")
    return text


def main() -> None:
    LineParser(__doc__).parse_args()
    for readme in EXACT_WORDS:
        (ROOT / readme).write_text(generated(readme), encoding="utf-8")


if __name__ == "__main__":
    main()
