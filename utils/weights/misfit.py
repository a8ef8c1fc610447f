"""Explains why weights do not fit a network, and what to do about it."""

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
    """The flags or arguments that errors may advise; "" if the caller has no such flag.

    Attributes:
        model: chooses the network.
        class_dim: sets its number of classes.
        exclude: names tensors to leave out.
        key: names the network's key in the file.
    """

    model: str = ""
    class_dim: str = "class_dim"
    exclude: str = "exclude"
    key: str = "key"


# For calls from Python; for scripts that use a network unchanged; for train.py, its teacher and a resumed run.
IN_PYTHON = Remedies()
TO_USE = Remedies("--model", "--class_dim", "", "--pretrained_key")
TO_TRAIN = Remedies("--model", "--class_dim", "--finetune_exclude_pretrained_params", "--pretrained_key")
OF_TEACHER = Remedies("--teacher_model", "", "", "")
TO_RESUME = Remedies("--model", "--class_dim", "", "")


def fitting_network(model: Network, weights: Weights, file: Path, key: str | None = None) -> str | None:
    """Another network that the file fits: one named in the file or in its name, or one of the same family."""
    family = models.FAMILIES.get(type(model).__module__.rpartition(".")[2], ())
    named = [name for name in models.list_models() if name == weights.network or name in file.name]
    for name in dict.fromkeys((*sorted(named, key=len, reverse=True), *family)):
        try:
            with torch.device("meta"):
                other = models.build(name)
            fit = fit_names(other, weights, resize=False, key=key)
        except (FormatError, RuntimeError):  # RuntimeError: building it needs values, which meta tensors lack
            continue
        if fit.sources and (fit.right or class_counts(other.state_dict(), fit)):
            return name
    return None


def describe_misfit(
    model: Network, weights: Weights, fit: Fit, path: Path, remedies: Remedies, key: str | None = None
) -> str:
    """Says in one line what does not fit and what to do.

    Args:
        weights, path, key: the whole file, its path, and the key under which the network was sought.
    """
    state, chosen = model.state_dict(), fit.chosen.weights
    if classes := class_counts(state, fit):
        names = ",".join(fit.names[key] for key in fit.misshaped)
        ways = [f"{remedies.class_dim}={classes[0]}"] if remedies.class_dim else []
        ways += [f"to train a new classifier, {remedies.exclude}={names}"] if remedies.exclude else []
        found = f"its classifier ({names}) has {classes[0]} classes, but the network has {classes[1]}"
        return f"{found}: give {' or, '.join(ways)}" if ways else f"{found}: both must have the same number"

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
        *listed("with another shape", fit.misshaped, shapes),
        *listed("missing in the file", fit.missing, missing),
        *listed("not in the network", fit.unexpected, lambda name: f"{name} {list(chosen.tensors[name].shape)}"),
    ]
    # Long names must not push the advice out of sight.
    found = f"the weights do not fit the network: {cut(', '.join(problems), 500)}"
    if fit.misshaped == fit.resized and not (fit.missing or fit.unexpected):
        return f"{found}; they were trained with another image size: give the --image_shape of their training"
    if other := fitting_network(model, weights, path, key):
        return f"{found}; they fit {f'{remedies.model}={other}' if remedies.model else other}"
    hint = f"choose another {remedies.model or 'network'}"
    return f"{found}; {hint}" + (f", or leave tensors out with {remedies.exclude}" if remedies.exclude else "")
