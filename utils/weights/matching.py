"""Matches the tensors of a file and a network by the names of PyTorch, fluid, PaddleClas or Caffe."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from models.names import caffe_names, paddleclas_names, published_names
from models.network import Network
from utils.errors import FormatError
from utils.formats.paddle_program import Program
from utils.weights.choosing import Chosen, choose
from utils.weights.content import Weights
from utils.weights.from_program import weights_from_program

# The counter of PyTorch's batch norms. Only PyTorch's files may have it, and nothing depends on it.
COUNTER = "num_batches_tracked"

# fluid's programs have a lower version, or none.
FIRST_OF_2 = 2_000_000

# Variables that an optimizer, a schedule or a weight average adds to the parameters.
BYPRODUCTS = re.compile(
    r".*_(velocity|moment|moment1|moment2|momentum|mean_square|mean_grad|inf_norm|beta1_pow_acc|beta2_pow_acc|ema)_\d+"
    r"|@.*@"
    r"|.*@@"
    r"|(learning_rate|loss_scaling|num_(good|bad)_steps)(_\d+)?"
    r"|scheduled_ema_decay_rate"
    rf"|(.*\.)?{COUNTER}|n_averaged"
    # Tables that PaddleClas's networks compute, but save nevertheless.
    r"|(.*\.)?(relative_position_index|attention_bias_idxs)"
)


@dataclass
class Fit:
    """How the tensors of a file and a network match.

    Attributes:
        vocabulary: whose names the file uses: PyTorch's, fluid's, PaddleClas's, Caffe's or those of paddle.vision.
        names: the network's keys -> names in that vocabulary.
        sources: keys -> the file's tensors in PyTorch's layout.
        missing, misshaped, left_out: keys.
        new: keys of tensors that a file may lack, and that this one lacks.
        resized: keys of tensors that were, or could be, interpolated to the network's image size.
        unexpected, ignored: names in the file.
        chosen: the tensors of the file that were chosen for the network.
    """

    vocabulary: str
    names: dict[str, str]
    sources: dict[str, Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    chosen: Chosen = field(default_factory=lambda: Chosen(Weights("")))

    def leave_out_misshaped(self) -> None:
        """Leaves out tensors with another shape in the file, such as a classifier for other classes."""
        for key in self.misshaped:
            del self.sources[key]
        self.left_out += self.misshaped
        self.misshaped = []

    @property
    def right(self) -> bool:
        return not (self.missing or self.misshaped or self.unexpected)


def pytorch_names(model: Network) -> dict[str, str]:
    """State-dict key -> the key itself, for every tensor of `model`."""
    return {key: key for key in model.state_dict()}


def paddle_vision_names(model: Network) -> dict[str, str]:
    """State-dict key -> name in a .pdparams of paddle.vision, whose ResNets have torchvision's layers."""
    keys = [key for key in model.state_dict() if not key.endswith(COUNTER)]
    return {key: key.replace(".running_mean", "._mean").replace(".running_var", "._variance") for key in keys}


def vocabularies(model: Network) -> Iterator[tuple[str, dict[str, str]]]:
    """The names that files may use for the tensors of `model`: whose names, and state-dict key -> name."""
    rules = {
        "PyTorch": pytorch_names,
        "fluid": published_names,
        "PaddleClas": paddleclas_names,
        "Caffe": caffe_names,
        "paddle.vision": paddle_vision_names,
    }
    for owner, names in rules.items():
        with contextlib.suppress(ValueError):  # the network was never published there
            yield owner, names(model)


def linear_weights(model: Network) -> set[str]:
    """State-dict keys of the weights that PaddlePaddle stores transposed."""
    return {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}


def fit_names(
    model: Network, weights: Weights, exclude: Sequence[str] = (), *, resize: bool, key: str | None = None
) -> Fit:
    """Matches the tensors of a network and a file by the vocabulary that fits most of them.

    If `resize` is true, the network's `adapt_tensor` interpolates tensors for another image size. `key` is the
    network's key in the file, as in `utils.weights.choosing.choose`.
    """
    known = [[name for name in names.values() if not name.endswith(COUNTER)] for _, names in vocabularies(model)]
    chosen = choose(weights, known, key)
    tensors = _name_in_order(model, chosen.weights.unnamed) if chosen.weights.unnamed else chosen.weights.tensors
    fit = _fit(model, chosen, tensors, exclude, resize)
    if weights.program is None or not (fit.missing or fit.unexpected):
        return fit
    try:
        return _fit_by_use(model, chosen, weights.program(), exclude, resize)
    except FormatError:
        if 2 * len(fit.sources) > len(weights.tensors):  # the error by names is clearer
            return fit
        raise


def _fit_by_use(model: Network, chosen: Chosen, program: Program, exclude: Sequence[str], resize: bool) -> Fit:
    """`fit_names` for an exported program, whose names do not identify the tensors.

    Raises:
        FormatError: the program is of another network.
    """
    owner = "fluid" if program.dialect == "desc" and program.version < FIRST_OF_2 else "PaddleClas"
    if owner in model.forms and owner != model.published_by:
        return Fit(owner, {}, chosen=chosen)  # the program has another form of the network
    weights = chosen.weights
    names, transposed = paddleclas_names(model), linear_weights(model)
    parameters = {weights.program_names.get(name, name): tensor for name, tensor in weights.tensors.items()}
    found, absent = weights_from_program(model, program, parameters)
    tensors = {names[key]: tensor.t() if key in transposed else tensor for key, tensor in found.items()}
    fit = _fit(model, chosen, tensors, exclude, resize)
    # Programs lack what only training uses.
    fit.new += [key for key in fit.missing if key in absent]
    fit.missing = [key for key in fit.missing if key not in absent]
    fit.vocabulary = owner
    return fit


def _fit(model: Network, chosen: Chosen, tensors: Mapping[str, Tensor], exclude: Sequence[str], resize: bool) -> Fit:
    """`fit_names` for the chosen tensors, given by name."""
    weights = chosen.weights
    in_file = tensors.keys() | weights.damaged.keys()
    fit, most = Fit("", {}), -1
    for owner, names in vocabularies(model):
        found = len(in_file & set(names.values()))
        if found > most:
            fit, most = Fit(owner, names), found
        if found == len(names):
            break
    fit.chosen = chosen
    left_out = left_out_keys(model, exclude) if exclude else set()
    transposed = linear_weights(model) if weights.paddle else set()
    for key, value in model.state_dict().items():
        name = fit.names.get(key)
        if key in left_out:
            fit.left_out.append(key)
        elif name is not None and name in tensors and not (key.endswith(COUNTER) and tensors[name].is_floating_point()):
            source = tensors[name]
            if fit.vocabulary == "Caffe" and value.dim() == 2:
                source = source.flatten(1)  # a classifier may be a 1x1 convolution
            fit.sources[key] = source.t() if key in transposed and source.dim() == 2 else source
            if source.is_floating_point() and fit.sources[key].shape != value.shape:
                resized = model.adapt_tensor(key, fit.sources[key])
                if resized.shape == value.shape:
                    fit.resized.append(key)
                    fit.sources[key] = resized if resize else fit.sources[key]
            if fit.sources[key].shape != value.shape or source.is_floating_point() != value.is_floating_point():
                fit.misshaped.append(key)
        elif re.fullmatch(model.new_parts, key):
            fit.new.append(key)
        elif not key.endswith(COUNTER):
            fit.missing.append(key)
    wanted = set(fit.names.values())
    computed, auxiliary = model.paddleclas_computed, model.auxiliary_weights
    full = {*tensors, *(name for _, names in vocabularies(model) for name in names.values())} if exclude else set()
    for name in tensors:
        if name not in wanted:
            known = BYPRODUCTS.fullmatch(name) or re.fullmatch(computed, name) or re.fullmatch(auxiliary, name)
            surplus = not known and not any(_is_meant(part, name, full) for part in exclude)
            (fit.unexpected if surplus else fit.ignored).append(name)
    return fit


def _name_in_order(model: Network, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Names the tensors of a combined file, which are in the order of the network's sorted fluid names."""
    names = sorted(dict(vocabularies(model)).get("fluid", {}).values())
    if len(names) != len(tensors):
        raise FormatError(
            f"holds {len(tensors)} variables without names, but the network has {len(names)}: "
            "put the program (model or __model__) next to it, or choose another --model"
        )
    return dict(zip(names, tensors, strict=True))


def left_out_keys(model: Network, exclude: Sequence[str]) -> set[str]:
    """The keys with a name, in any vocabulary, that `exclude` matches; see `_is_meant`."""
    names = [pair for _, vocabulary in vocabularies(model) for pair in vocabulary.items()]
    full = {name for _, name in names}
    return {key for key, name in names if any(_is_meant(part, name, full) for part in exclude)}


def _is_meant(part: str, name: str, full: set[str]) -> bool:
    """Whether `part` matches a name: a tensor's whole name matches only itself (fc.weight, not aux.fc.weight)."""
    return part == name if part in full else part in name


def class_counts(model_tensors: Mapping[str, Tensor], fit: Fit) -> tuple[int, int] | None:
    """The class counts of the file and the network, if nothing else differs."""
    if fit.missing or fit.unexpected or not fit.misshaped:
        return None
    pairs = set()
    for key in fit.misshaped:
        theirs, ours = fit.sources[key].shape, model_tensors[key].shape
        if theirs[1:] != ours[1:] or not theirs:
            return None
        pairs.add((theirs[0], ours[0]))
    return pairs.pop() if len(pairs) == 1 else None
