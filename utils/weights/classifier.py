"""Rows of a classifier that are kept for classes of other data, by the classes' names."""

from __future__ import annotations

from collections.abc import Sequence

from models.network import Network
from models.parts import classifier_parameters
from utils.weights.matching import Fit


def keep_rows(model: Network, fit: Fit, old: Sequence[str | None], new: Sequence[str | None]) -> tuple[int, int] | None:
    """Has a network's classifier take the rows of a file whose classes are called as its own; the others stay as they
    are.

    Nothing is changed if no name is the same, or all are in the same order, or if the shapes differ otherwise than by
    the number of classes.

    Args:
        model: the network.
        fit: the file's tensors for it; the sources of the classifier's change.
        old: names of the file's classes, by number; None where one is not known.
        new: names of the network's.

    Returns:
        The numbers of the classes that were kept, and of all the network's; None if nothing was changed.
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
