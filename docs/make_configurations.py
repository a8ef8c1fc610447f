"""Writes docs/configurations.md: which configurations of PaddleClas are accepted, and why the others are refused.

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

train.py, eval.py, infer.py, predict.py and reader.py take a YAML configuration of PaddleClas (`-c`) and changes to it
(`-o`), as PaddleClas does. This page says how keys are interpreted and which configurations of PaddleClas work.

<!-- check-docs: the configurations are PaddleClas's -->
```bash
python train.py -c ResNet50_vd.yaml -o Global.epochs=30 -o DataLoader.Train.dataset.image_root=my_data
python eval.py -c ResNet50_vd.yaml -o Global.pretrained_model=output/ResNet50_vd/best_model
python infer.py -c ResNet50_vd.yaml -o Infer.infer_imgs=photos/
python infer.py -c ResNet50_vd.yaml -o Global.pretrained_model=output/ResNet50_vd/best_model --save_inference=True
python predict.py -c inference_cls.yaml -o Global.inference_model_dir=ResNet50_vd_infer -o Global.infer_imgs=photos/
python reader.py -c ResNet50_vd.yaml --show=grid.png
```

A configuration is read as data and translated into flags. The script prints the equivalent command, so that you can do
without the file afterwards. Flags on the command line override the file. If the file does not set a value, PaddleClas's
default applies, not the flag's. A key that the script cannot honour ends it with one line that names the key, its line
in the file and, if there is one, the closest valid key. Keys without a meaning here are listed in one line and ignored.

- **`-o KEY=VALUE`** can be repeated: `Global.epochs=30`, `Arch.pretrained=False`, `Global.pretrained_model=None`,
  `Arch.stride_list=[2,[2,1],[2,1],[2,1],[2,1]]`. Numbers select list items:
  `DataLoader.Train.dataset.transform_ops.1.RandCropImage.size=192`. Values are Python literals or arithmetic; nothing
  is executed.
- **`Arch.pretrained=True`** downloads weights in PaddleClas; nothing is downloaded here. The script uses the file that
  PaddleClas has left in ~/.paddleclas/weights, or names the file to pass to `--pretrained_model`. A classifier with
  another number of classes is initialised anew, as in PaddleClas (`--skip_misfits`).
- **Batch sizes** in the file are per process; in the flags they are the total of all processes.
- **Frozen teachers** run in evaluation mode. PaddleClas leaves them in training mode, where batch norm uses the
  statistics of the batch.
- **`image_channel: 4`** adds a fourth channel that is always zero. It is left out here, together with its weights.
- **Configurations of deploy/** belong to predict.py. It supports Topk, ThreshOutput, MultiLabelThreshOutput,
  ScoreOutput and the attributes of PULC's networks.
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
        return "a search over configurations, without a network"
    if "TRAIN" in content:
        return "written for PaddleClas before 2.0"
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
        answer = f"out of scope: {aside}" if aside else "; ".join(lines) or "accepted"
        folders.setdefault(folder, []).append((name, answer))
        counts.setdefault(folder, Counter())["out of scope" if aside else "refused" if lines else "accepted"] += 1
    lines = [TITLE, "## Accepted configurations", ""]
    lines += ["| folder | accepted | refused | out of scope |", "|---|---|---|---|"]
    lines += [f"| {name}/ | {c['accepted']} | {c['refused']} | {c['out of scope']} |" for name, c in counts.items()]
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
