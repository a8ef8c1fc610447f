"""Recognizes weight files for ImageNet by the names under which they were published."""

from __future__ import annotations

import os
import re

IMAGENET_CLASSES = 1000

# Suffixes of PaddlePaddle's files and folders: ResNet50_vd_ssld_pretrained.tar, PPLCNet_x1_0_infer.
_PADDLE = re.compile(r"(\w+)_(?:pretrained|infer)")
# torch.hub appends the first digits of the checksum: resnet50-0676ba61.pth.
_HUB = re.compile(r"(\w+)-[0-9a-f]{8}")
# The zoo of docs/caffe.md, except its Inception V3, which numbers the classes differently.
_CAFFE = re.compile(
    r"(resnet(101|152|269)[-_]v2|inception[-_](v4|resnet[-_]v2)|resnext(50|101)[-_](32|64)x4d|wrn50[-_]2)", re.I
)
_ENDINGS = re.compile(
    r"(\.(tar|gz|tgz|bz2|xz|zip|pdparams|pdmodel|pdiparams|params|model|json|pth|pt|bin|caffemodel|safetensors))+", re.I
)

# How networks' names begin, before the first digit. (predict.py works without models/, so the names are repeated here.)
FIRST_LETTERS = frozenset({
    "alexnet", "alt", "beitv", "cae", "clip", "convnext", "cspdarknet", "cswintransformer", "cvt", "darknet",
    "darts", "deit", "densenet", "dla", "dpn", "dsnet", "efficientnet", "efficientnetb", "efficientnetv", "esnet",
    "eva", "fasternet", "fastimagenet", "fix", "ghostnet", "googlenet", "hardnet", "hrnet", "inceptionresnetv",
    "inceptionv", "levit", "mae", "micronet", "mixnet", "mobilenetv", "mobilenext", "mobilevit", "mobilevitv",
    "mocov", "nextvit", "pcpvt", "peleenet", "pphgnet", "pphgnetv", "pplcnet", "pplcnetv", "pvt", "rednet",
    "regnetx", "repvgg", "res", "resnest", "resnet", "resnext", "rexnet", "se", "senet", "shufflenetv",
    "squeezenet", "starnet", "swintransformer", "swintransformerv", "tinynet", "tnt", "uniformer", "van", "vgg",
    "vit", "wideresnet", "xception",
})  # fmt: skip


def is_published(path: str | os.PathLike[str], class_dim: int) -> bool:
    """Whether weights with `class_dim` classes are ImageNet's, judging by the name of their file or folder.

    A user's own weights may have 1000 classes too, so other names, and all files of train.py, are not recognized.
    """
    if class_dim != IMAGENET_CLASSES:
        return False
    stem = _ENDINGS.sub("", os.path.basename(os.path.normpath(path)))
    if _CAFFE.fullmatch(stem):
        return True
    found = _PADDLE.fullmatch(stem) or _HUB.fullmatch(stem)
    return found is not None and _letters(found[1]) in FIRST_LETTERS


def _letters(name: str) -> str:
    found = re.match(r"[a-z]+", name.lower())
    return found[0] if found else ""
