"""Why weights do not fit a network, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import models
from models.network import Network
from utils.errors import FormatError, cut
from utils.weights.content import Weights
from utils.weights.matching import Fit, class_counts, fit_names


@dataclass(frozen=True)
class Remedies:
    """What whoever gave the weights can give besides, as it is written; "" for what cannot be given.

    Attributes:
        model: the network.
        class_dim: its number of classes.
        exclude: names of tensors to leave out.
        key: what the network is under in the file.
    """

    model: str = ""
    class_dim: str = "class_dim"
    exclude: str = "exclude"
    key: str = "key"


# Of a call from Python; of the scripts that use a network as it is; of train.py, its teacher and a run that goes on.
IN_PYTHON = Remedies()
TO_USE = Remedies("--model", "--class_dim", "", "--pretrained_key")
TO_TRAIN = Remedies("--model", "--class_dim", "--finetune_exclude_pretrained_params", "--pretrained_key")
OF_TEACHER = Remedies("--teacher_model", "", "", "")
TO_RESUME = Remedies("--model", "--class_dim", "", "")


def fitting_network(model: Network, weights: Weights, file: Path, key: str | None = None) -> str | None:
    """Another network that the file fits: one that the file or its name names, or one of the same family."""
    family = models.FAMILIES.get(type(model).__module__.rpartition(".")[2], ())
    named = [name for name in models.list_models() if name == weights.network or name in file.name]
    for name in dict.fromkeys((*sorted(named, key=len, reverse=True), *family)):
        try:
            with torch.device("meta"):
                other = models.build(name)
            fit = fit_names(other, weights, resize=False, key=key)
        except (FormatError, RuntimeError):  # RuntimeError: built from values, which meta tensors do not have
            continue
        if fit.sources and (fit.right or class_counts(other.state_dict(), fit)):
            return name
    return None


def describe_misfit(
    model: Network, weights: Weights, fit: Fit, path: Path, remedies: Remedies, key: str | None = None
) -> str:
    """What does not fit and what to do, in one line.

    Args:
        weights, path, key: all of the file, where it is, and what the network was looked for under.
    """
    state, chosen = model.state_dict(), fit.chosen.weights
    if classes := class_counts(state, fit):
        names = ",".join(fit.names[key] for key in fit.misshaped)
        ways = [f"{remedies.class_dim}={classes[0]}"] if remedies.class_dim else []
        ways += [f"to train a new classifier, {remedies.exclude}={names}"] if remedies.exclude else []
        found = f"its classifier ({names}) has {classes[0]} classes, the network {classes[1]}"
        return f"{found}: give {', or, '.join(ways)}" if ways else f"{found}, and both need the same"

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
        why = chosen.damaged.get(fit.names.get(key, key))
        return f"{shown(key)} {list(state[key].shape)}" + (f" ({why})" if why else "")

    problems = [
        *listed("of another shape", fit.misshaped, shapes),
        *listed("missing in the file", fit.missing, missing),
        *listed("not in the network", fit.unexpected, lambda name: f"{name} {list(chosen.tensors[name].shape)}"),
    ]
    # What to do has to be read, however long the names are.
    found = f"the weights do not fit the network: {cut(', '.join(problems), 500)}"
    if fit.misshaped == fit.resized and not (fit.missing or fit.unexpected):
        return f"{found}; they are of another image size: give the --image_shape that they were trained with"
    if other := fitting_network(model, weights, path, key):
        return f"{found}; they fit {f'{remedies.model}={other}' if remedies.model else other}"
    hint = f"choose another {remedies.model or 'network'}"
    return f"{found}; {hint}" + (f"; {remedies.exclude} leaves tensors out" if remedies.exclude else "")
