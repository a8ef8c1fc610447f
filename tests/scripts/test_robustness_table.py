"""docs/robustness.md: every fault has a test, and that test exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_every_row_names_a_test_that_exists():
    text = (TESTS.parent / "docs/robustness.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| What")]
    assert len(rows) >= 400
    assert len(set(rows)) == len(rows), "a row stands twice"
    for row in rows:
        match = re.fullmatch(r"\| (.+) \| (.+) \| `(test_\w+\.py)::(test_\w+)` \|", row)
        assert match, row
        source = next(TESTS.rglob(match[3])).read_text(encoding="utf-8")
        assert f"\ndef {match[4]}(" in source, row
