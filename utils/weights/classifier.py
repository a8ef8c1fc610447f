"""Keeps the classifier rows of classes that old and new data share, matched by the classes' names."""

from __future__ import annotations

from collections.abc import Sequence

from models.network import Network
from models.parts import classifier_parameters
from utils.weights.matching import Fit


def keep_rows(model: Network, fit: Fit, old: Sequence[str | None], new: Sequence[str | None]) -> tuple[int, int] | None:
    """Takes the rows of a file's classifier for classes with the same names; the network's other rows stay unchanged.

    Nothing changes if no names match, if all match in the same order, or if the shapes differ in more than the number
    of classes.

    Args:
        model: the network.
        fit: the file's tensors for the network; the classifier's sources are changed.
        old: names of the file's classes, by number; None for an unknown name.
        new: names of the network's classes.

    Returns:
        How many classes were kept, and how many the network has; None if nothing changed.
    """
    if [*old] == [*new]:
        return None
    rows = {name: row for row, name in enumerate(old) if name is not None and old.count(name) == 1}
    kept = {row: rows[name] for row, name in enumerate(new) if name in rows and new.count(name) == 1}
    if not kept:
        return None
    state = model.state_dict()
    classes: set[tuple[int, int]] = set()
    keys = [key for key in classifier_parameters(model) if key in fit.sources]
    for key in keys:
        if fit.sources[key].shape[1:] != state[key].shape[1:]:
            return None
        classes.add((len(fit.sources[key]), len(state[key])))
    if len(classes) != 1 or set(fit.misshaped) - set(keys):
        return None
    theirs, ours = classes.pop()
    if len(old) > theirs or len(new) > ours:
        return None
    for key in keys:
        whole = state[key].clone()
        whole[list(kept)] = fit.sources[key][list(kept.values())].to(whole)
        fit.sources[key] = whole
    fit.misshaped = []
    return len(kept), ours
