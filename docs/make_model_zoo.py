"""Writes docs/model_zoo.md, and models/catalogue.json for --list_models: every network, from code and published.json.

python docs/make_model_zoo.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from models import catalogue
from models.catalogue import Facts
from utils.flags.line_parser import LineParser

DOCS = Path(__file__).resolve().parent

TITLE = """# The networks

Written by docs/make_model_zoo.py. Parameters are counted with 1000 classes, multiply-adds (of convolutions, linear
layers and attention) for one image of the given size. Accuracy in percent on ImageNet's validation set, as published
with the weight file; "as X" marks other weights of network X. `python train.py --list_models` prints the short
form.

The weight files are those that the original published, linked as it linked them (ResNeXt101_64x4d to the file of
ResNeXt50_64x4d, which does not fit it). PaddleClas's have the same names, end in `.pdparams`, and are linked in
[its own list](https://github.com/PaddlePaddle/PaddleClas/blob/release/2.6/docs/zh_CN/models/ImageNet1k/model_list.md).
Both load with `--pretrained_model`. How closely each network reproduces the original: [parity.md](parity.md).

PaddleClas's networks for retrieval, faces and text lines are not here: AdaFace_IR_18 to AdaFace_IR_SE_200,
MobileFaceNet, SVTR_tiny, SVTR_base and SVTR_large; those for ReID and ShiTu, ResNet50_last_stage_stride1,
ResNet50_adaptive_max_pool2d, ResNet50_metabin, the three SwinTransformer_*_SOLIDER and PPLCNetV2_base_ShiTu; nor those
with another end for one task, PPLCNet_x2_5_Tanh, VGG19Sigmoid, EfficientNetB3_watermark and
CLIP_large_patch14_224_aesthetic.
"""
WEIGHTS = "https://paddle-imagenet-models-name.bj.bcebos.com"


def measure(name: str) -> tuple[int, int, int]:
    """Parameters, multiply-adds and input size of a network. Nothing is computed: meta tensors have shapes only."""
    size = models.input_config(name).image_size
    with torch.device("meta"):
        model = models.build(name).eval()
        images = torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, counter.get_total_flops() // 2, size


def row(name: str, facts: Facts, files: list[str], first: str) -> str:
    """A network's line of its family's table; `first` is the first name of the same constructor."""
    accuracy = [f"{value:.2f}" if value is not None else "" for value in (facts.top1, facts.top5)]
    cells = [
        name if name == first else f"{name} (as {first})",
        f"{facts.parameters / 1e6:.2f} M",
        f"{facts.multiply_adds / 1e9:.3f} G",
        f"{facts.image_size} x {facts.image_size}",
        *accuracy,
        ", ".join(f"[{file}]({WEIGHTS}/{file})" for file in files),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    LineParser(__doc__).parse_args()
    published = json.loads((DOCS / "published.json").read_text())["paddle"]
    facts: dict[str, Facts] = {}
    sections = [TITLE]
    for module, names in models.FAMILIES.items():
        title, papers = catalogue.family(module)
        links = ", ".join(f"[arXiv:{paper}](https://arxiv.org/abs/{paper})" for paper in papers)
        lines = [
            f"## {title}",
            "",
            f"models/{module}.py" + (f" · {links}" if links else ""),
            "",
            "| network | parameters | multiply-adds | input | top-1 | top-5 | weight file |",
            "|---|---|---|---|---|---|---|",
        ]
        first: dict[Any, str] = {}
        for name in names:
            known = published.get(name, {})
            facts[name] = Facts(*measure(name), known.get("top1"), known.get("top5"))
            constructor = first.setdefault(getattr(models, name), name)
            # An ACNet has a second file, of the network after fusing.
            files = [published[key]["weights_file"] for key in (name, f"{name}_deploy") if key in published]
            lines.append(row(name, facts[name], files, constructor))
            print(name, *facts[name])
        sections.append("\n".join(lines) + "\n")
    (DOCS / "model_zoo.md").write_text("\n".join(sections), encoding="utf-8")
    entries = ",\n".join(f"{json.dumps(name)}: {json.dumps(list(facts[name]))}" for name in sorted(facts))
    catalogue.FILE.write_text(f"{{\n{entries}\n}}\n")


if __name__ == "__main__":
    main()
