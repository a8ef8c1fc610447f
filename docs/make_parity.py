"""Writes docs/parity.md: how far every network's logits are from the original's. Takes long: every network runs.

python docs/make_parity.py [fluid] [paddleclas] [paddleclas_extended]

With names of originals, only their tables are written anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import torch
import zoo

from utils.flags.line_parser import LineParser

FILE = Path(__file__).with_name("parity.md")
TITLE = """# Parity with the originals

Written by docs/make_parity.py. For each network of the originals: the largest difference between its logits and ours,
as a share of the largest absolute logit, for two images and the same weights, in float32 on a CPU. The weights are made
from the tensors' names (see tests/support/zoo.py), so that every layer and every offset counts.

The bar is 1e-5. It is 1e-4 for those few where rounding is amplified, `AMPLIFIED` in tests/support/zoo.py: very deep
networks, and those that multiply activations by activations, as squeeze-and-excitation (SE_HRNet, EfficientNet,
GhostNet, PP-LCNet), involution (RedNet) and attention between two streams (DSNet) do. For them the table has, too, how
far the original's float32 logits are from ours in float64, which is the rounding of the original itself: where an error
is above 1e-5, that is as large.
"""

HEADINGS = {
    "fluid": "The zoo of PaddlePaddle's fluid 1.8.5",
    "paddleclas": "The same networks in PaddleClas 2.6.0",
    "paddleclas_extended": "PaddleClas's later families",
    "paddleclas_rest": "The rest of PaddleClas 2.6",
}


def section(kind: str) -> str:
    """The table of one original."""
    lines = [f"## {HEADINGS[kind]}", "", "| network | ours | error | original's own |", "|---|---|---|---|"]
    errors = {}
    for entry in zoo.entries(kind):
        errors[entry.name] = error = zoo.logits_error(entry, entry.build())
        print(kind, entry.name, f"{error:.1e}", "" if error < zoo.bar(entry) else "ABOVE THE BAR", flush=True)
        options = ", ".join(f"{name}={value}" for name, value in entry.options.items())
        ours = entry.network + (f" ({options})" if options else "")
        exact = zoo.logits_error(entry, entry.build(), torch.float64) if zoo.bar(entry) > zoo.BAR else None
        own = f"{exact:.1e}" if exact is not None else ""
        lines.append(f"| {entry.name} | {ours if ours != entry.name else ''} | {error:.1e} | {own} |")
    above = ", ".join(name for name, error in errors.items() if error >= zoo.BAR)
    worst = max(errors, key=errors.__getitem__)
    summary = (
        f"{len(errors)} networks; the largest error is {errors[worst]:.1e} ({worst}). "
        f"Above {zoo.BAR:.0e}: {above or 'none'}."
    )
    return "\n".join([lines[0], "", summary, *lines[1:]]) + "\n"


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"sections to write anew, all by default: {', '.join(zoo.KINDS)}"
    )
    kinds = parser.parse_args().kinds or list(zoo.KINDS)
    if unknown := set(kinds) - set(zoo.KINDS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(zoo.KINDS)}")
    # Every section begins with its heading.
    known = {text.splitlines()[0]: text for text in re.findall(r"^## .*?(?=^## |\Z)", FILE.read_text(), re.M | re.S)}
    sections = [TITLE]
    for kind in zoo.KINDS:
        old = known.get(f"## {HEADINGS[kind]}", "").strip() + "\n"
        sections.append(section(kind) if kind in kinds else old)
    FILE.write_text("\n".join(sections), encoding="utf-8")


if __name__ == "__main__":
    main()
