"""Writes the table of README.md and README_cn.md that comes from the code, between its markers: the series of networks.

python docs/make_readme.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from models.catalogue import family
from utils.flags.line_parser import LineParser

ROOT = Path(__file__).resolve().parent.parent
# README -> the columns of its table of series, and what it says of those without published accuracy
ZOO_WORDS = {
    "README.md": (
        ("series", "networks", "best published top-1 / top-5"),
        "There are {networks} names in all. Series without an accuracy that was published with the original's files: "
        "{names}.",
    ),
    "README_cn.md": (
        ("系列", "网络数", "已公布的最高 top-1 / top-5 精度"),
        "共有 {networks} 个网络名。其余系列没有随原始权重文件公布的精度：{names}。",
    ),
}


def zoo_table(readme: str) -> str:
    """The series of networks with published accuracies, and the names of the others."""
    columns, others = ZOO_WORDS[readme]
    published = json.loads((ROOT / "docs" / "published.json").read_text())["paddle"]
    lines, unpublished = [f"| {' | '.join(columns)} |", "|---|---|---|"], []
    for module, names in models.FAMILIES.items():
        known = [(published[name]["top1"], published[name]["top5"], name) for name in names if name in published]
        if known:
            top1, top5, best = max(known)
            lines.append(f"| {family(module)[0]} | {len(names)} | {top1:.2f} / {top5:.2f} ({best}) |")
        else:
            unpublished.append(family(module)[0])
    total = len(models.list_models())
    return "\n".join([*lines, "", others.format(networks=total, names=", ".join(unpublished))])


def generated(readme: str) -> str:
    """The text of `readme` with today's table in it."""
    begin, end = "<!-- zoo: written by docs/make_readme.py -->", "<!-- end of zoo -->"
    before, rest = (ROOT / readme).read_text(encoding="utf-8").split(begin)
    return f"{before}{begin}\n\n{zoo_table(readme)}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    LineParser(__doc__).parse_args()
    for readme in ZOO_WORDS:
        (ROOT / readme).write_text(generated(readme), encoding="utf-8")


if __name__ == "__main__":
    main()
