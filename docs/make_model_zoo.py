"""Writes docs/model_zoo.md, and models/catalogue.json for --list_models: every network, from the code and what was
published of its weights.

python docs/make_model_zoo.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from models import catalogue, published
from models.catalogue import Facts
from models.published import Published
from utils.flags.line_parser import LineParser

DOCS = Path(__file__).resolve().parent

TITLE = """# Model zoo: all networks

Every network with its size, its input, its published accuracy and its weight files. {networks} networks in {series}
series. `python train.py --list_models` prints the short form; [choosing.md](choosing.md) helps you to choose;
[parity.md](parity.md) says how closely each network reproduces the original.

- **Accuracy** is top-1 / top-5 in percent on ImageNet's validation set, as published. *fluid*: for the weights of
  PaddlePaddle's fluid 1.x zoo. *PaddleClas*: in its list of models. *ssld* marks weights that were distilled from a
  larger network on more images than ImageNet.
- **Names ending in `_paddleclas`**: PaddleClas has a different network than fluid under the same name. The entry has
  PaddleClas's accuracy and file.
- **Parameters** are counted with 1000 classes, and multiply-adds (of convolutions, linear layers and attention) for one
  image of the given size. "As X" marks other weights of network X.
- **Weight files** are linked as their publishers linked them. (ResNeXt101_64x4d links to the file of ResNeXt50_64x4d,
  which does not fit it.) All load with `--pretrained_model`.

These networks of PaddleClas are not included:

- for faces and text lines: AdaFace_IR_18 to AdaFace_IR_SE_200, MobileFaceNet, SVTR_tiny, SVTR_base, SVTR_large
- for retrieval (ReID and ShiTu): ResNet50_last_stage_stride1, ResNet50_adaptive_max_pool2d, ResNet50_metabin, the three
  SwinTransformer_*_SOLIDER, PPLCNetV2_base_ShiTu
- with a special output for one task: PPLCNet_x2_5_Tanh, VGG19Sigmoid, EfficientNetB3_watermark,
  CLIP_large_patch14_224_aesthetic

docs/make_model_zoo.py writes this page.
"""


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


def accuracy(weights: Published) -> str:
    """Top-1 and top-5 of published weights."""
    return " / ".join(f"{value:.2f}" for value in (weights.top1, weights.top5) if value is not None)


def best(names: Sequence[str], source: str) -> str:
    """The best accuracy of a series that `source` published, and whose it is."""
    weights = published.best(names, source)
    return f"{accuracy(weights)} ({weights.whose})" if weights else ""


def series_table() -> str:
    """Every series of networks, with the best accuracies that were published of it."""
    lines = ["| series | networks | best of fluid | best of PaddleClas |", "|---|---|---|---|"]
    for module, names in models.FAMILIES.items():
        title = catalogue.family(module)[0]
        anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        cells = [f"[{title}](#{anchor})", str(len(names)), *(best(names, source) for source in published.SOURCES)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def row(name: str, facts: Facts, first: str) -> str:
    """A network's line of its family's table; `first` is the first name of the same constructor."""
    of = [weights for weights in published.read() if weights.network == name]
    accuracies = [
        ", ".join(
            accuracy(weights) + weights.said.removeprefix(source)  # 77.90 / 93.94 ssld
            for weights in of
            if weights.source == source
        )
        for source in published.SOURCES
    ]
    files = [weights.url for weights in of if weights.url is not None]
    cells = [
        name if name == first else f"{name} (as {first})",
        f"{facts.parameters / 1e6:.2f} M",
        f"{facts.multiply_adds / 1e9:.3f} G",
        f"{facts.image_size} x {facts.image_size}",
        *accuracies,
        ", ".join(f"[{PurePosixPath(url).name}]({url})" for url in files),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    LineParser(__doc__).parse_args()
    facts: dict[str, Facts] = {}
    sections = [TITLE.format(networks=len(models.list_models()), series=len(models.FAMILIES)), series_table() + "\n"]
    for module, names in models.FAMILIES.items():
        title, papers = catalogue.family(module)
        links = ", ".join(f"[arXiv:{paper}](https://arxiv.org/abs/{paper})" for paper in papers)
        lines = [
            f"## {title}",
            "",
            f"models/{module}.py" + (f" · {links}" if links else ""),
            "",
            "| network | parameters | multiply-adds | input | fluid | PaddleClas | weight files |",
            "|---|---|---|---|---|---|---|",
        ]
        first: dict[Any, str] = {}
        for name in names:
            facts[name] = Facts(*measure(name))
            constructor = first.setdefault(getattr(models, name), name)
            lines.append(row(name, facts[name], constructor))
            print(name, *facts[name])
        sections.append("\n".join(lines) + "\n")
    (DOCS / "model_zoo.md").write_text("\n".join(sections), encoding="utf-8")
    entries = ",\n".join(f"{json.dumps(name)}: {json.dumps(list(facts[name]))}" for name in sorted(facts))
    catalogue.FILE.write_text(f"{{\n{entries}\n}}\n")


if __name__ == "__main__":
    main()
