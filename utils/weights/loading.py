"""Loads weights into a network: all of them, or an error says what does not fit."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from models.layers import Dropout
from models.network import Network
from utils.console import warn
from utils.errors import FormatError, UserError, one_line
from utils.weights.choosing import AmbiguousError
from utils.weights.classifier import keep_rows
from utils.weights.content import Weights
from utils.weights.files import read_weights
from utils.weights.matching import COUNTER, fit_names, vocabularies
from utils.weights.misfit import IN_PYTHON, Remedies, describe_misfit
from utils.weights.notes import read_class_notes


@dataclass
class LoadReport:
    """What `load_pretrained` did; its `str` is one line.

    Attributes:
        path, kind: of the file.
        loaded, ignored, left_out: numbers of tensors.
        resized, new: names of the network's tensors that had another image size, or are not in the file.
        dropout: the convention that was set.
        under: the network's key in the file, unless it is a usual one.
        moved: the network's names -> names in the file that are not under this key.
        also: keys of other networks in the file that would fit.
        outside: names of the file's other tensors.
        key_flag: the flag that chooses between networks in a file, if there is one.
        kept: how many classes kept their classifier rows by name, and how many there are; None if names were not
            compared.
    """

    path: str
    kind: str
    loaded: int
    ignored: int
    left_out: int
    resized: Sequence[str] = ()
    new: Sequence[str] = ()
    dropout: str | None = None
    under: str = ""
    moved: Mapping[str, str] = field(default_factory=dict)
    also: Sequence[str] = ()
    outside: Sequence[str] = ()
    key_flag: str = ""
    kept: tuple[int, int] | None = None

    def __str__(self) -> str:
        under = f", under {self.under}" if self.under else ""
        line = f"loaded {self.loaded} tensors from {self.path} ({self.kind}{under})"
        if self.moved:
            line += f", {_some([f'{name} from {there}' for name, there in self.moved.items()])}"
        if self.kept is not None:
            line += f", kept the classifier's rows of {self.kept[0]} of {self.kept[1]} classes, matched by name"
        if self.resized:
            line += f", interpolated {_some(self.resized)} from another image size"
        if self.new:
            line += f", initialized {', '.join(self.new)}: not in the file"
        if self.ignored:
            line += f", ignored {self.ignored}"
        if self.left_out:
            line += f", left out {self.left_out}"
        if self.dropout:
            line += f", dropout set to {self.dropout} as in the file's training"
        if self.outside:
            line += f"; not used: {_some(self.outside)}"
        if self.also:
            choice = f" ({self.key_flag}={self.also[0]} takes that one)" if self.key_flag else ""
            line += f"; the file also has the network under {', '.join(self.also)}{choice}"
        return line


def _some(names: Sequence[str]) -> str:
    """The first of several names, and how many others there are."""
    return names[0] + (f" and {len(names) - 1} others" if len(names) > 1 else "")


def load_pretrained(
    model: Network,
    path: str | os.PathLike[str],
    exclude: Sequence[str] = (),
    *,
    key: str | None = None,
    resize: bool = True,
    skip_misfits: bool = False,
    class_names: Sequence[str | None] = (),
    remedies: Remedies = IN_PYTHON,
) -> LoadReport:
    """Copies the weights of a file of any kind that `read_weights` knows into a network.

    Also changes the convention of the network's dropout layers if the file implies another one: weights that other
    PyTorch code trained need `upscale_in_train`.

    Args:
        model: changed only if everything fits.
        path: file or folder.
        exclude: names or parts of names (PyTorch, fluid, PaddleClas or Caffe); the tensors that they match stay
            unchanged. A tensor's whole name matches only that tensor.
        key: key or name prefix of the network in the file, such as model_ema; None: whatever fits.
        resize: whether to interpolate position embeddings and tables of a network with another image size; if not, they
            do not fit.
        skip_misfits: whether tensors with another shape in the file stay unchanged.
        class_names: names of the network's classes. If the weights note other names, or another order, the classifier
            gets the file's rows of the classes that both have; its other rows stay unchanged.
        remedies: what errors may advise.

    Returns:
        What was done; its `str` is a line for the log.

    Raises:
        UserError: the file cannot be read; a tensor is missing, superfluous or has another shape; no name contains one
            of `exclude`; or several networks in the file fit.
    """
    choices = {"key": key, "resize": resize, "skip_misfits": skip_misfits}
    names = (read_class_notes(path), class_names) if class_names else None
    return load_weights(model, read_weights(path), path, exclude, **choices, names=names, remedies=remedies)


@torch.no_grad()
def load_weights(
    model: Network,
    weights: Weights,
    path: str | os.PathLike[str],
    exclude: Sequence[str] = (),
    *,
    key: str | None = None,
    resize: bool = True,
    skip_misfits: bool = False,
    names: tuple[Sequence[str | None], Sequence[str | None]] | None = None,
    remedies: Remedies = IN_PYTHON,
) -> LoadReport:
    """`load_pretrained` for `weights` that were read from `path`; `names` are the file's and the network's classes."""
    exclude = [part for part in exclude if part]
    try:
        fit = fit_names(model, weights, exclude, resize=resize, key=key)
        kept = keep_rows(model, fit, *names) if names is not None else None
        if skip_misfits:
            fit.leave_out_misshaped()
        if exclude:
            _check_exclude(model, fit.chosen.weights, exclude, remedies.exclude)
        if not fit.right:
            raise FormatError(describe_misfit(model, weights, fit, Path(path), remedies, key))
        if fit.vocabulary in model.forms and fit.vocabulary != model.published_by:
            raise FormatError(
                f"{fit.vocabulary}'s weights need its own form of the network: give "
                f"{remedies.model or 'model'}={model.forms[fit.vocabulary]}"
            )
    except AmbiguousError as error:
        choice = f"choose with {remedies.key}" if remedies.key else "save the state dict of one of them"
        raise UserError(f"{path}: {one_line(error)}: {choice}") from None
    except FormatError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    if not fit.sources:
        raise UserError(f"{path}: {remedies.exclude} leaves nothing to load")
    state = model.state_dict()
    for key, source in fit.sources.items():
        state[key].copy_(source)
    # A tensor's sum is finite if all its values are. (Tensors on the meta device have no values.)
    values = {key: source for key, source in fit.sources.items() if not source.is_meta}
    bad = [key for key, source in values.items() if not math.isfinite(source.sum(dtype=torch.float64).item())]
    if bad:
        warn(f"{path}: {len(bad)} tensors have values that are not finite, such as {bad[0]}: results will be wrong")
    chosen = fit.chosen
    report = LoadReport(
        str(path),
        weights.kind,
        loaded=sum(not key.endswith(COUNTER) for key in fit.sources),
        ignored=len(fit.ignored) + len(chosen.weights.damaged) + chosen.weights.skipped,
        left_out=sum(not key.endswith(COUNTER) for key in fit.left_out),
        resized=fit.resized,
        new=fit.new,
        under=chosen.told,
        moved=chosen.moved,
        also=chosen.also,
        outside=chosen.outside,
        key_flag=remedies.key,
        kept=kept,
    )
    dropout = model.paddleclas_dropout if fit.vocabulary == "PaddleClas" else weights.dropout
    for layer in model.modules():
        if isinstance(layer, Dropout) and dropout and layer.mode != dropout:
            layer.mode = report.dropout = dropout
    return report


def _check_exclude(model: Network, weights: Weights, exclude: Sequence[str], flag: str) -> None:
    """Refuses a part that occurs in no tensor's name, as it is probably misspelt."""
    names = [name for _, vocabulary in vocabularies(model) for name in vocabulary.values()]
    for part in exclude:
        if not any(part in name for name in (*names, *weights.tensors)):
            near = difflib.get_close_matches(part, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"a name is, for example, {names[-1]}"
            raise FormatError(f"{flag}: no tensor's name contains {part!r}: {hint}")
