"""Writes docs/configurations.md: which configurations of PaddleClas are accepted, and what is refused of the others.

python docs/make_configurations.py

paddleclas_configs.json.gz holds the configurations of ImageNet/, quick_start/ and PULC/ (of October 2024), and those of
deploy/, by path, as PaddleClas reads them.
"""

from __future__ import annotations

import copy
import gzip
import json
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.flags.line_parser import LineParser
from utils.flags.paddleclas.document import Document
from utils.flags.paddleclas.translate import Translation, translate_document

FILE = Path(__file__).with_name("configurations.md")
FACTS = Path(__file__).with_name("paddleclas_configs.json.gz")
SCRIPTS = ("train", "eval", "infer", "reader")

TITLE = """# Configurations of PaddleClas

<!-- check-docs: the configurations are PaddleClas's -->
```bash
python train.py -c ResNet50_vd.yaml -o Global.epochs=30 -o DataLoader.Train.dataset.image_root=my_data
python eval.py -c ResNet50_vd.yaml -o Global.pretrained_model=output/ResNet50_vd/best_model
python infer.py -c ResNet50_vd.yaml -o Infer.infer_imgs=photos/
python infer.py -c ResNet50_vd.yaml -o Global.pretrained_model=output/ResNet50_vd/best_model --save_inference=True
python predict.py -c inference_cls.yaml -o Global.inference_model_dir=ResNet50_vd_infer -o Global.infer_imgs=photos/
python reader.py -c ResNet50_vd.yaml --show=grid.png
```

The file is read as data and becomes flags; the equivalent command is printed, so that the file can be left behind.
Flags typed beside it count for more. Where the file is silent, PaddleClas's defaults hold, not those of the flags. A
key that cannot be honoured ends the script with the key, its line and, where there is one, the nearest right key; keys
without meaning here are named in one line.

- `-o KEY=VALUE`, repeated: `Global.epochs=30`, `Arch.pretrained=False`, `Global.pretrained_model=None`,
  `Arch.stride_list=[2,[2,1],[2,1],[2,1],[2,1]]`; places in lists are numbers:
  `DataLoader.Train.dataset.transform_ops.1.RandCropImage.size=192`. Values are Python's literals or formulas of
  numbers; nothing is executed.
- `Arch.pretrained=True` makes PaddleClas download weights. Nothing is downloaded here: what PaddleClas has put into
  ~/.paddleclas/weights is taken; otherwise the message says which file is wanted, and `--pretrained_model` gives it. A
  classifier of other classes starts anew, as there (`--skip_misfits`).
- Batch sizes are those of one process in the file, and of all processes in the flags.
- A frozen teacher is in evaluation mode here; PaddleClas leaves it in training mode, and so its batch-norms look at
  the batch.
- Images of four channels have zeros in the fourth (`image_channel: 4`): it is left out, with its weights.
- predict.py takes the configurations of deploy/: Topk, ThreshOutput, MultiLabelThreshOutput, ScoreOutput, and the
  attributes of PULC's networks.
"""


@cache
def facts() -> dict[str, dict[str, Any]]:
    """The configurations by path."""
    return json.loads(gzip.decompress(FACTS.read_bytes()))


def translation(script: str, path: str, content: dict[str, Any]) -> Translation:
    """A configuration as the flags of a script."""
    return translate_document(script, Document(path, copy.deepcopy(content)))


def refused(path: str, content: dict[str, Any]) -> list[str]:
    """What any of the scripts refuses of a configuration, `KEY: why` each."""
    found: list[str] = []
    for script in ("predict",) if path.startswith("deploy/") else SCRIPTS:
        lines = translation(script, path, content).refusals
        found += [line.removeprefix(f"{path}: ") for line in lines]
    return list(dict.fromkeys(found))


@cache
def answers() -> dict[str, list[str]]:
    """What is refused of every configuration that is not aside."""
    return {path: refused(path, content) for path, content in facts().items() if not is_aside(path, content)}


def is_aside(path: str, content: dict[str, Any]) -> str | None:
    """Why a configuration is not of classification, or has nothing to classify with."""
    if path.endswith("search.yaml") and "Arch" not in content:
        return "a search over configurations: it has no network"
    if "TRAIN" in content:
        return "of PaddleClas before 2.0"
    if content.get("Global", {}).get("eval_mode") == "retrieval":
        return "retrieval"
    if "DetPreProcess" in content or "RecPreProcess" in content:
        return "detection and retrieval"
    return None


def document() -> str:
    """The text of the file."""
    folders: dict[str, list[tuple[str, str]]] = {}
    counts: dict[str, Counter[str]] = {}
    for path, content in sorted(facts().items()):
        folder, _, name = path.partition("/")
        aside = is_aside(path, content)
        lines = answers().get(path, [])
        answer = f"aside: {aside}" if aside else "; ".join(lines) or "accepted"
        folders.setdefault(folder, []).append((name, answer))
        counts.setdefault(folder, Counter())["aside" if aside else "refused" if lines else "accepted"] += 1
    lines = [TITLE, "## How many", "", "| folder | accepted | refused | aside |", "|---|---|---|---|"]
    lines += [f"| {name}/ | {c['accepted']} | {c['refused']} | {c['aside']} |" for name, c in counts.items()]
    for folder, rows in folders.items():
        lines += ["", f"## {folder}/", ""]
        by_answer: dict[str, list[str]] = {}
        for name, answer in rows:
            by_answer.setdefault(answer, []).append(name.removesuffix(".yaml"))
        accepted = by_answer.pop("accepted", [])
        for answer, names in by_answer.items():
            # Stars, bars and underscores would begin something else.
            escaped = re.sub(r"([*_|<])", r"\\\1", answer)
            lines += [f"- {', '.join(names)}: {escaped}"]
        lines += [*([""] if by_answer else []), f"Accepted: {', '.join(accepted)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    LineParser(__doc__).parse_args()
    FILE.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
