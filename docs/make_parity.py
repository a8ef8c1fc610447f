"""Writes docs/parity.md: how far every network's logits are from the original's. Runs every network, which takes long.

python docs/make_parity.py [fluid] [paddleclas] [paddleclas_extended]

Names of originals limit the measurement to their tables.
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
TITLE = """# Parity with PaddlePaddle and PaddleClas: networks

How closely each network reproduces the logits of the original implementation. For each network, the table has the
largest difference between the original's logits and the logits here, relative to the largest absolute logit: two
images, the same weights, float32 on a CPU. The weights are generated from the tensors' names (see
tests/support/zoo.py), so that every layer and every offset counts. [paddle_parity.md](paddle_parity.md) has the same
for exported programs.

The limit is 1e-5. It is 1e-4 for a few networks that amplify rounding errors (`AMPLIFIED` in tests/support/zoo.py):
very deep networks, and networks that multiply activations with activations, as squeeze-and-excitation (SE_HRNet,
EfficientNet, GhostNet, PP-LCNet), involution (RedNet) and attention between two streams (DSNet) do. For these, the last
column compares the original's float32 logits with float64 logits computed here, which shows the original's rounding
error. Every error above 1e-5 is about as large as that.

![The differences of all networks and exported programs from the originals](parity.png)

docs/make_parity.py measures the networks and writes this page.
"""

HEADINGS = {
    "fluid": "PaddlePaddle's fluid 1.8.5 zoo",
    "paddleclas": "The same networks in PaddleClas 2.6.0",
    "paddleclas_extended": "Networks that PaddleClas added",
    "paddleclas_rest": "Other networks of PaddleClas 2.6",
}


def section(kind: str) -> str:
    """The table of one original."""
    lines = [f"## {HEADINGS[kind]}", ""]
    lines += ["| network | `--model`, if different | error | original's rounding |", "|---|---|---|---|"]
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
        "kinds", nargs="*", metavar="KIND", help=f"sections to measure, all by default: {', '.join(zoo.KINDS)}"
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
