"""Writes the tables of README.md and README_cn.md that come from the code, each between its markers: the series of
networks, and all flags; and in docs/other_programs.md what flags and scripts of other programs are called here.

python docs/make_readme.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from models.catalogue import family
from utils.flags import habits
from utils.flags.line_parser import LineParser
from utils.flags.parsing import as_typed
from utils.flags.table import GROUPS, Flag

ROOT = Path(__file__).resolve().parent.parent
OTHER_PROGRAMS = "docs/other_programs.md"

# README -> the columns of its tables of flags, and the words for a flag without default, for one that must be given,
# for its choices and for its older names
FLAG_WORDS = {
    "README.md": ("flag", "default", "scripts", "meaning", "none", "required", "One of", "Also"),
    "README_cn.md": ("参数", "默认值", "脚本", "说明", "无", "必填", "可选值", "别名"),
}
# Titles of the groups of flags in README_cn.md; what the flags mean is not translated.
CHINESE_GROUPS = {
    "Environment": "运行环境",
    "Network and solver": "网络与优化",
    "Reader": "数据读取",
    "Switches": "开关",
    "Distillation": "蒸馏",
    "Measuring and debugging": "测量与调试",
    "Inference": "推理与导出",
    "Serving": "服务",
    "Evaluation": "评估",
    "Averaged parameters": "滑动平均参数",
    "Conversion": "权重转换",
}
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


def default(flag: Flag, none: str, required: str) -> str:
    """The default of a flag, and of the scripts where it is another."""

    def of(script: str) -> str:
        value = flag.default_for(script)
        return required if script in flag.required else none if value is None else f"`{as_typed(value)}`"

    values = {script: of(script) for script in flag.scripts}
    usual = values[flag.scripts[0]]
    others = [f"{script}: {value}" for script, value in values.items() if value != usual]
    return usual + (f" ({', '.join(others)})" if others else "")


def flag_tables(readme: str) -> str:
    """The tables of all flags, a table for each group, in the words of `readme`."""
    *columns, none, required, one_of, also = FLAG_WORDS[readme]
    lines = []
    for group, flags in GROUPS.items():
        title = CHINESE_GROUPS[group] if readme == "README_cn.md" else group
        lines += [f"**{title}**", "", f"| {' | '.join(columns)} |", "|---|---|---|---|"]
        for flag in flags:
            meaning = flag.help
            if flag.choices:
                meaning += f" {one_of}: {', '.join(map(str, flag.choices))}."
            if flag.aliases:
                meaning += f" {also}: {', '.join(f'`--{alias}`' for alias in flag.aliases)}."
            cells = (f"`--{flag.name}`", default(flag, none, required), ", ".join(flag.scripts), meaning)
            escaped = [cell.replace("|", "\\|") for cell in cells]  # a bar would begin another cell
            lines.append(f"| {' | '.join(escaped)} |")
        lines.append("")
    return "\n".join(lines).strip()


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
    """The text of `readme`, or of docs/other_programs.md, with today's tables in it."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    tables = [("habits", habits.table())] if readme == OTHER_PROGRAMS else []
    for what, table in tables or [("zoo", zoo_table(readme)), ("flags", flag_tables(readme))]:
        begin, end = f"<!-- {what}: written by docs/make_readme.py -->", f"<!-- end of {what} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    LineParser(__doc__).parse_args()
    for readme in (*FLAG_WORDS, OTHER_PROGRAMS):
        (ROOT / readme).write_text(generated(readme), encoding="utf-8")


if __name__ == "__main__":
    main()
