"""Why weights do not fit a network, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import models
from models.network import Network
from utils.errors import FormatError, cut
from utils.weights.content import Weights
from utils.weights.matching import Fit, class_counts, fit_names


def fitting_network(model: Network, weights: Weights, file: Path) -> str | None:
    """Another network that the file fits: one that the file or its name names, or one of the same family."""
    family = models.FAMILIES.get(type(model).__module__.rpartition(".")[2], ())
    named = [name for name in models.list_models() if name == weights.network or name in file.name]
    for name in dict.fromkeys((*sorted(named, key=len, reverse=True), *family)):
        try:
            with torch.device("meta"):
                other = models.build(name)
            fit = fit_names(other, weights, resize=False)
        except (FormatError, RuntimeError):  # RuntimeError: built from values, which meta tensors do not have
            continue
        if fit.sources and (fit.right or class_counts(other.state_dict(), fit)):
            return name
    return None


def describe_misfit(model: Network, weights: Weights, fit: Fit, path: Path) -> str:
    """What does not fit and what to do, in one line."""
    state = model.state_dict()
    remedy = "--finetune_exclude_pretrained_params leaves tensors out"
    if classes := class_counts(state, fit):
        names = ",".join(fit.names[key] for key in fit.misshaped)
        return (
            f"its classifier ({names}) has {classes[0]} classes, the network {classes[1]}: give "
            f"--class_dim={classes[0]}, or, to train a new classifier, --finetune_exclude_pretrained_params={names}"
        )

    def shown(key: str) -> str:
        name = fit.names.get(key, key)
        return key if name == key else f"{name} ({key})"

    def listed(what: str, items: Sequence[str], describe: Callable[[str], str]) -> list[str]:
        some = "; ".join(describe(item) for item in items[:3]) + ("; ..." if len(items) > 3 else "")
        return [f"{len(items)} {what}: {some}"] if items else []

    def shapes(key: str) -> str:
        theirs, ours = fit.sources[key], state[key]
        if theirs.shape == ours.shape:
            return f"{shown(key)} is {theirs.dtype} in the file, {ours.dtype} in the network"
        return f"{shown(key)} is {list(theirs.shape)} in the file, {list(ours.shape)} in the network"

    def missing(key: str) -> str:
        why = weights.damaged.get(fit.names.get(key, key))
        return f"{shown(key)} {list(state[key].shape)}" + (f" ({why})" if why else "")

    problems = [
        *listed("of another shape", fit.misshaped, shapes),
        *listed("missing in the file", fit.missing, missing),
        *listed("not in the network", fit.unexpected, lambda name: f"{name} {list(weights.tensors[name].shape)}"),
    ]
    # What to do has to be read, however long the names are.
    found = f"the weights do not fit the network: {cut(', '.join(problems), 500)}"
    if fit.misshaped == fit.resized and not (fit.missing or fit.unexpected):
        remedy = "they are of another image size: give the --image_shape that they were trained with"
        return f"{found}; {remedy}"
    other = fitting_network(model, weights, path)
    hint = f"they fit --model={other}" if other else f"choose another --model; {remedy}"
    return f"{found}; {hint}"
