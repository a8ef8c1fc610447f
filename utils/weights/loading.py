"""Weights into a network: all of them, or an error that says what does not fit."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.layers import Dropout
from models.network import Network
from utils.console import warn
from utils.errors import FormatError, UserError, one_line
from utils.weights.content import Weights
from utils.weights.files import read_weights
from utils.weights.matching import COUNTER, fit_names, vocabularies
from utils.weights.misfit import describe_misfit


@dataclass
class LoadReport:
    """What `load_pretrained` did; as text, one line."""

    path: str
    kind: str
    loaded: int
    ignored: int
    left_out: int
    resized: Sequence[str] = ()
    new: Sequence[str] = ()
    dropout: str | None = None

    def __str__(self) -> str:
        line = f"loaded {self.loaded} tensors from {self.path} ({self.kind})"
        if self.resized:
            more = f" and {len(self.resized) - 1} others" if len(self.resized) > 1 else ""
            line += f", interpolated {self.resized[0]}{more} from another image size"
        if self.new:
            line += f", started {', '.join(self.new)} anew: not in the file"
        if self.ignored:
            line += f", ignored {self.ignored}"
        if self.left_out:
            line += f", left out {self.left_out}"
        if self.dropout:
            line += f", dropout set to {self.dropout} as the file's training had it"
        return line


def load_pretrained(
    model: Network, path: str | os.PathLike[str], exclude: Sequence[str] = (), *, resize: bool = True
) -> LoadReport:
    """Copies the weights of a file, of any kind `read_weights` knows, into a network.

    Also sets the convention of the network's dropout layers if the file implies another: weights trained elsewhere in
    PyTorch are right with `upscale_in_train` only.

    Args:
        model: changed only if everything fits.
        path: file or folder.
        exclude: tensors whose PyTorch, fluid, PaddleClas or Caffe name contains one of these stay as they are.
        resize: position embeddings and tables of a network built for another image size are interpolated; if not, they
            do not fit.

    Returns:
        What was done; its `str` is a line for the log.

    Raises:
        UserError: the file cannot be read, a tensor is missing, superfluous or of another shape, or one of `exclude`
            is in no name.
    """
    return load_weights(model, read_weights(path), path, exclude, resize=resize)


@torch.no_grad()
def load_weights(
    model: Network,
    weights: Weights,
    path: str | os.PathLike[str],
    exclude: Sequence[str] = (),
    *,
    resize: bool = True,
) -> LoadReport:
    """The part of `load_pretrained` after reading `weights` from `path`."""
    exclude = [part for part in exclude if part]
    try:
        fit = fit_names(model, weights, exclude, resize=resize)
        if exclude:
            _check_exclude(model, weights, exclude)
        if not fit.right:
            raise FormatError(describe_misfit(model, weights, fit, Path(path)))
        if fit.vocabulary in model.forms and fit.vocabulary != model.published_by:
            raise FormatError(
                f"weights by {fit.vocabulary}, right in its form of the network only: give "
                f"--model={model.forms[fit.vocabulary]}"
            )
    except FormatError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    if not fit.sources:
        raise UserError(f"{path}: --finetune_exclude_pretrained_params leaves nothing to load")
    state = model.state_dict()
    for key, source in fit.sources.items():
        state[key].copy_(source)
    # One number per tensor tells whether all of its values are finite. (Those on the meta device have no values.)
    values = {key: source for key, source in fit.sources.items() if not source.is_meta}
    bad = [key for key, source in values.items() if not math.isfinite(source.sum(dtype=torch.float64).item())]
    if bad:
        warn(f"{path}: {len(bad)} tensors hold values that are not finite, such as {bad[0]}: no answer will be right")
    report = LoadReport(
        str(path),
        weights.kind,
        loaded=sum(not key.endswith(COUNTER) for key in fit.sources),
        ignored=len(fit.ignored) + len(weights.damaged) + weights.skipped,
        left_out=sum(not key.endswith(COUNTER) for key in fit.left_out),
        resized=fit.resized,
        new=fit.new,
    )
    dropout = model.paddleclas_dropout if fit.vocabulary == "PaddleClas" else weights.dropout
    for layer in model.modules():
        if isinstance(layer, Dropout) and dropout and layer.mode != dropout:
            layer.mode = report.dropout = dropout
    return report


def _check_exclude(model: Network, weights: Weights, exclude: Sequence[str]) -> None:
    """Refuses a part of a name that is in none, as it is probably misspelt."""
    names = [name for _, vocabulary in vocabularies(model) for name in vocabulary.values()]
    for part in exclude:
        if not any(part in name for name in (*names, *weights.tensors)):
            near = difflib.get_close_matches(part, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"names are such as {names[-1]}"
            raise FormatError(f"--finetune_exclude_pretrained_params: no tensor's name contains {part!r}: {hint}")
