"""The tables of benchmarks/mobile.py."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from statistics import geometric_mean
from typing import Any

# Share of the largest logit by which a conversion may differ from what it was made of.
TOLERANCE = 1e-4


def tables(found: Iterable[dict[str, Any]], engines: Sequence[str]) -> str:
    """What was found, in Markdown.

    Args:
        found: lines of the file of results; of several for the same network and engine the last counts.
        engines: in their order.
    """
    by_kind: dict[bool, dict[str, dict[str, dict[str, Any]]]] = {False: {}, True: {}}
    packages: dict[str, str] = {}
    for each in found:
        by_kind[each["trained"]].setdefault(each["network"], {})[each["engine"]] = each
        packages.update(each.get("versions", {}))
    versions = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    texts = [textwrap.fill(versions, 119, break_on_hyphens=False)]
    if rows := by_kind[False]:
        columns = [engine for engine in engines if any(engine in row for row in rows.values())]
        texts += [
            _summary(rows, columns),
            "Largest difference of a logit, as a share of the largest:",
            _table(rows, columns, _difference),
            "Milliseconds for an image, and MB of the files:",
            _table(rows, columns, _cost),
            "Not converted, and why:",
            _reasons(rows, columns),
        ]
    if rows := by_kind[True]:
        columns = [engine for engine in engines if any(engine in row for row in rows.values())]
        texts += [_trained(name, row, columns) for name, row in rows.items()]
    return "\n\n".join(texts)


def _summary(rows: dict[str, dict[str, dict[str, Any]]], columns: Sequence[str]) -> str:
    """Of each engine: how many networks it takes, how exactly, and how fast it is where all engines can be compared."""
    common = [row for row in rows.values() if all("ms" in row.get(engine, {}) for engine in columns)]
    lines = [
        f"| | converted | within {TOLERANCE:.0e} | largest difference | ms, geometric mean of {len(common)} |",
        f"|---|{'--:|' * 4}",
    ]
    for engine in columns:
        tried = [row[engine] for row in rows.values() if engine in row]
        differences = [each["difference"] for each in tried if "difference" in each]
        exact = sum(difference <= TOLERANCE for difference in differences)
        largest = f"{max(differences):.0e}" if differences else ""
        mean = f"{geometric_mean(row[engine]['ms'] for row in common):.1f}" if common else ""
        lines.append(f"| {engine} | {len(differences)} of {len(tried)} | {exact} | {largest} | {mean} |")
    return "\n".join(lines)


def _table(rows: dict[str, dict[str, dict[str, Any]]], columns: Sequence[str], cell: Any) -> str:
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(cell(row[each]) if each in row else '' for each in columns)} |")
    return "\n".join(lines)


def _difference(found: dict[str, Any]) -> str:
    if "difference" not in found:
        return "no"
    text = f"{found['difference']:.0e}"
    return text if found["difference"] <= TOLERANCE else f"**{text}**"


def _cost(found: dict[str, Any]) -> str:
    return f"{found['ms']:.1f}, {found['bytes'] / 1e6:.1f}" if "ms" in found else ""


def _reasons(rows: dict[str, dict[str, dict[str, Any]]], columns: Sequence[str]) -> str:
    """Why networks were not converted: what the packages said, and of which networks."""
    said: dict[tuple[str, str], list[str]] = {}
    for name, row in rows.items():
        for engine in columns:
            if engine in row and "difference" not in row[engine]:
                text = str(row[engine].get("failed", "no answer")).replace("|", "\\|").replace("`", "'")
                said.setdefault((engine, text), []).append(name)
    lines = [f"- {engine}: {', '.join(names)}: `{text}`" for (engine, text), names in said.items()]
    return "\n".join(lines) or "- none"


def _trained(name: str, row: dict[str, dict[str, Any]], columns: Sequence[str]) -> str:
    """A trained network in float32 and int8."""
    lines = [
        f"| {name} | top-1 as PyTorch's, % | ms | MB | int8: top-1 as PyTorch's, % | int8: ms | int8: MB |",
        f"|---|{'--:|' * 6}",
    ]
    for engine in columns:
        found = row.get(engine, {})
        cells = [
            f"{found[key] * scale:.{digits}f}" if key in found else "no"
            for key, scale, digits in (
                ("agreement", 100, 1), ("ms", 1, 2), ("bytes", 1e-6, 2), ("int8_agreement", 100, 1), ("int8_ms", 1, 2),
                ("int8_bytes", 1e-6, 2),
            )
        ]  # fmt: skip
        lines.append(f"| {engine} | {' | '.join(cells)} |")
    for engine in columns:
        if text := row.get(engine, {}).get("failed"):
            lines += ["", f"- {engine}: `{text}`"]
    return "\n".join(lines)
