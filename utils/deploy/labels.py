"""labels.txt, from which phones and servers read class names."""

from __future__ import annotations

from utils.deploy.network import Description
from utils.reading.class_names import name_of

LABELS = "labels.txt"


def labels_text(description: Description) -> str:
    """One line per class, in order: its name, or its number if it has none."""
    names = [name_of(description.class_names, number) for number in range(description.class_dim)]
    lines = [" ".join((name or str(number)).split()) for number, name in enumerate(names)]
    return "".join(f"{line}\n" for line in lines)
