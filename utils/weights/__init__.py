"""Weights from any kind of file into a network.

`read_weights` tells the kind of a file by its content and returns named tensors; `load_pretrained` finds out by which
names the file calls the network's tensors (PyTorch's, the published fluid ones, PaddleClas's or Caffe's), checks that
all of them fit, and copies them. Nothing in a file is executed or extracted to disk, and lengths are checked before
use.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import mmap
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import models
from models.layers import (
    DOWNGRADE_IN_INFER,
    UPSCALE_IN_TRAIN,
    Dropout,
    caffe_names,
    paddleclas_names,
    published_names,
)
from utils.console import warn
from utils.errors import FormatError, UserError
from utils.flags.inputs import INPUT_FLAGS, check_input
from utils.formats.archives import MAX_FILES, decompress, is_compressed, is_tar, tar_members, zip_members, zip_names
from utils.formats.caffe import looks_like_caffe, read_caffemodel
from utils.formats.paddle import Buffer, program_variables, read_pickle, read_variables

# The counter of PyTorch's batch-norm layers. Only PyTorch's files may have it, and nothing depends on it.
COUNTER = "num_batches_tracked"

# What an optimizer, a schedule or an average leaves beside the parameters.
BYPRODUCTS = re.compile(
    r".*_(velocity|moment|moment1|moment2|momentum|mean_square|mean_grad|inf_norm|beta1_pow_acc|beta2_pow_acc|ema)_\d+"
    r"|@.*@"
    r"|.*@@"
    r"|(learning_rate|loss_scaling|num_(good|bad)_steps)(_\d+)?"
    r"|scheduled_ema_decay_rate"
    rf"|(.*\.)?{COUNTER}|n_averaged"
    # Tables that PaddleClas's networks compute and yet save.
    r"|(.*\.)?(relative_position_index|attention_bias_idxs)"
)


@dataclass
class Weights:
    """What a file holds.

    Attributes:
        kind: what the file is, in words.
        tensors: by name; views of the file where that is possible.
        paddle: written by PaddlePaddle, where the weight of a linear layer is [in, out].
        dropout: the dropout convention that the weights are right under, if the file says it.
        network: the network they are of, if the file says it.
        skipped: entries that are no tensors.
        damaged: files of a folder or archive that cannot be read as a variable -> why.
        unnamed: the tensors of a combined file without its program, in the order of their sorted names.
    """

    kind: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    paddle: bool = True
    dropout: str | None = None
    network: str | None = None
    skipped: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    unnamed: list[Tensor] = field(default_factory=list)


# -------------------------------------------------------------------------------------------------- files and kinds


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Reads a file or folder of weights, of any supported kind.

    Args:
        path: a checkpoint of ours, a fluid folder of variables, an archive (.tar, .tar.gz, .zip, ...) of one, a
            combined fluid file (or the folder with it and its program), a .pdparams file, a PyTorch file, a
            .safetensors file, or a .caffemodel (as it is, or as .xz, .gz, .bz2). As in fluid.load, the ending
            .pdparams may be left out.

    Raises:
        UserError: there is no such file, it is damaged, or of an unknown kind.
    """
    path = Path(path)
    try:
        if not path.exists() and path.with_name(f"{path.name}.pdparams").exists():
            path = path.with_name(f"{path.name}.pdparams")
        if path.is_dir():
            return _read_folder(path)
        if not path.is_file():
            raise UserError(f"{path} does not exist; give a file or folder of weights")
        return _read_file(path)
    except FormatError as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _one_line(error: FormatError) -> str:
    """The message without line breaks, which names within a file may have, and not as long as they may be."""
    return _cut(" ".join(str(error).split()), 800)


def _cut(text: str, length: int) -> str:
    """At most the first `length` characters."""
    return text if len(text) <= length else f"{text[:length]}..."


def _map(path: Path) -> Buffer:
    """The content of a file, mapped into memory: it is read where it is looked at."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_folder(path: Path) -> Weights:
    if (path / "weights.safetensors").is_file():
        return _read_file(path / "weights.safetensors")
    files: dict[str, Buffer] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            if file.is_file():
                files[file.relative_to(path).as_posix()] = _map(file)
            if len(files) > MAX_FILES:
                raise FormatError(f"holds more than {MAX_FILES} files: not a folder of weights")
    return _read_variables(files, "fluid folder")


def _read_file(path: Path) -> Weights:
    buffer = _map(path)
    head = bytes(buffer[:512])
    if not head:
        raise FormatError("the file is empty")
    if head.startswith(b"PK\3\4"):
        return _read_zip(path)
    if is_compressed(head):
        content = decompress(path)
        if not is_tar(content[:512]) and looks_like_caffe(content[:512]):
            return _read_caffe(content)
        return _read_variables(tar_members(content), "compressed fluid .tar")
    # The length of a header in JSON may start as a pickle does.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < len(buffer):
        return _read_safetensors(path)
    if head.startswith(b"\x80") and len(head) > 2:
        # The first thing in a PyTorch file of before 1.6 is a pickled magic number.
        if head[2:13] == b"\x8a\nl\xfc\x9cF\xf9 j\xa8P":
            return _read_torch(path, legacy=True)
        arrays, skipped = read_pickle(buffer)
        return Weights("PaddlePaddle .pdparams", _tensors(arrays), skipped=skipped)
    if is_tar(head):
        return _read_variables(tar_members(buffer), "fluid .tar")
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith(b"\0\0\0\0"):
        return _name_combined(read_variables(buffer), _program_beside(path), path.name)
    if looks_like_caffe(head):
        return _read_caffe(buffer)
    raise FormatError(
        "not a weight file: it is no fluid variables, no archive of them, no .pdparams, no PyTorch file, no "
        f".safetensors and no .caffemodel (it starts with {head[:16]!r})"
    )


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The arrays as tensors that share their memory."""
    with warnings.catch_warnings():
        # PyTorch warns that memory is read-only. These tensors are only read.
        warnings.simplefilter("ignore", UserWarning)
        return {name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
                for name, array in arrays.items()}  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- fluid


def _read_variables(files: Mapping[str, Buffer], kind: str) -> Weights:
    """The variables of a folder or archive, named by their paths within the innermost folder that has them all."""
    variables: dict[str, np.ndarray] = {}
    combined: dict[str, list[np.ndarray]] = {}
    damaged: dict[str, str] = {}
    for name, buffer in files.items():
        try:
            arrays = read_variables(buffer)
        except FormatError as error:
            damaged[name] = str(error)
            continue
        if len(arrays) == 1:
            variables[name] = arrays[0]
        elif arrays:
            combined[name] = arrays
        else:
            damaged[name] = "the file is empty"
    if not variables and len(combined) == 1:
        ((name, arrays),) = combined.items()
        programs = (buffer for other, buffer in files.items() if other in damaged)
        return _name_combined(arrays, programs, name)
    if not variables:
        known = [name for name in files if name.endswith((".pdparams", ".pth", ".pt", ".safetensors", ".params"))]
        hint = f"; give the file itself, such as {known[0]}" if known else ""
        raise FormatError(f"holds no fluid variables ({len(files)} files){hint}")
    folder = os.path.commonpath([os.path.dirname(name) for name in variables])
    prefix = f"{folder}/" if folder else ""
    tensors = _tensors({name.removeprefix(prefix): array for name, array in variables.items()})
    return Weights(kind, tensors, damaged={name.removeprefix(prefix): why for name, why in damaged.items()})


def _program_beside(path: Path) -> Iterator[Buffer]:
    """The files that may be the program of a combined file."""
    for name in ("model", "__model__", f"{path.stem}.pdmodel"):
        program = path.with_name(name)
        if program != path and program.is_file():
            yield _map(program)


def _name_combined(arrays: Sequence[np.ndarray], programs: Iterable[Buffer], file: str) -> Weights:
    """The tensors of a combined file, with the names of the first of `programs` that is one."""
    for program in programs:
        try:
            names = program_variables(program)
        except FormatError:
            continue
        if not names:
            continue
        if len(names) != len(arrays):
            raise FormatError(f"{file} holds {len(arrays)} variables, the program beside it {len(names)}")
        return Weights("combined fluid file", _tensors(dict(zip(names, arrays, strict=True))))
    unnamed = list(_tensors({str(number): array for number, array in enumerate(arrays)}).values())
    return Weights("combined fluid file without its program", unnamed=unnamed)


# --------------------------------------------------------------------------------------------- PyTorch, safetensors

# Where training scripts put the network's state dict in their checkpoints; the first that is there counts.
NESTED_UNDER = (
    *("state_dict", "model", "model_state_dict", "ema", "model_ema", "state_dict_ema"),
    *("net", "network", "params", "weights", "module"),
)

# What comes before the names if another module had the network: DistributedDataParallel, torch.compile, a trainer's.
_OWNERS = re.compile(r"^((module|_orig_mod|model|net|network)\.)+")


class _Unread:
    """Stands for plain data that training scripts save beside the network: flags, and figures as NumPy's scalars.

    The unpickler gets it for the classes and functions that would make them, of which none is called.
    """

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_UNREAD = [
    (_Unread, name)
    for name in (
        *("argparse.Namespace", "types.SimpleNamespace", "pathlib.PosixPath", "pathlib.WindowsPath"),
        *("pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
        *("numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
        *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    )
]


def _read_zip(path: Path) -> Weights:
    """A PyTorch file, which is a zip archive with a pickle in it, or an archive of fluid variables."""
    if any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in zip_names(path)):
        return _read_torch(path)
    return _read_variables(zip_members(path), "fluid .zip")


def _read_torch(path: Path, legacy: bool = False) -> Weights:
    """A file of torch.save; `legacy` ones, of PyTorch before 1.6, cannot be mapped into memory."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_UNREAD):
            warnings.simplefilter("ignore", UserWarning)  # of forms of tensors that PyTorch is going to give up
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=not legacy)
    except Exception as error:  # a damaged file makes PyTorch raise nearly anything
        text = " ".join(str(error).split())
        if "TorchScript" in text:
            raise FormatError("a TorchScript archive, which holds code: save the network's state_dict") from None
        if unsafe := re.search(r"GLOBAL ([\w.]+)", text):
            raise FormatError(
                f"refused: it holds more than tensors ({unsafe[1]}), and loading it could run any code; "
                "save its state_dict alone"
            ) from None
        reason = text.partition("WeightsUnpickler error: ")[2] or text or type(error).__name__
        raise FormatError(f"not a PyTorch file of weights, or damaged ({reason[:200]})") from None
    for _ in range(2):
        nested = [content[key] for key in NESTED_UNDER if isinstance(content, Mapping) and key in content]
        content = next((value for value in nested if isinstance(value, Mapping)), content)
    if not isinstance(content, Mapping):
        raise FormatError(f"holds a {type(content).__name__}, not a state dict")
    notes = getattr(content, "_metadata", None)
    notes = notes.values() if isinstance(notes, Mapping) else ()
    conventions = [note["dropout"] for note in notes if isinstance(note, Mapping) and "dropout" in note]
    return _torch_weights("PyTorch file", content, conventions[0] if conventions else None)


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            notes = file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise FormatError(f"not a .safetensors file, or damaged ({error})") from None
    return _torch_weights(".safetensors file", tensors, notes.get("dropout"), notes.get("model"))


def read_input_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The flags on the network's input that weights were trained with, which train.py notes in its files.

    Args:
        path: a file or folder of weights, of any kind.

    Returns:
        The values of `INPUT_FLAGS`; nothing if they are not noted.
    """
    file = Path(path, "weights.safetensors") if os.path.isdir(path) else Path(path)
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="pt") as content:
            notes = content.metadata() or {}
    except (SafetensorError, ValueError, OSError):
        return {}  # of another kind, or damaged: whoever reads its tensors says so
    if not notes.keys() >= set(INPUT_FLAGS):
        return {}
    try:
        noted = {name: json.loads(notes[name]) for name in INPUT_FLAGS}
        check_input(**noted)
    except (ValueError, TypeError):
        warn(f"{file}: its notes on the network's input make no sense: give --image_shape and the like as in training")
        return {}
    return noted


def _torch_weights(kind: str, content: Mapping[Any, Any], dropout: str | None, network: str | None = None) -> Weights:
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
            own = _OWNERS.sub("", str(name))
            if own in tensors:
                raise FormatError(f"it holds {own} of two networks: save the state dict of one of them")
            tensors[own] = value
    # A file that does not say is not of this project, and elsewhere in PyTorch there is one convention only.
    dropout = dropout if dropout in (DOWNGRADE_IN_INFER, UPSCALE_IN_TRAIN) else UPSCALE_IN_TRAIN
    skipped = len(content) - len(tensors)
    return Weights(kind, tensors, paddle=False, dropout=dropout, network=network, skipped=skipped)


# ----------------------------------------------------------------------------------------------------------- Caffe


def _read_caffe(buffer: Buffer) -> Weights:
    try:
        arrays = read_caffemodel(buffer)
    except FormatError as error:
        raise FormatError(f"not a .caffemodel, or damaged: {error}") from None
    # Caffe's dropout divides in training.
    return Weights("Caffe .caffemodel", _tensors(arrays), paddle=False, dropout=UPSCALE_IN_TRAIN)


# ---------------------------------------------------------------------------------------------------- into a network


@dataclass
class LoadReport:
    """What `load_pretrained` did; as text, one line."""

    path: str
    kind: str
    loaded: int
    ignored: int
    left_out: int
    resized: Sequence[str] = ()
    dropout: str | None = None

    def __str__(self) -> str:
        line = f"loaded {self.loaded} tensors from {self.path} ({self.kind})"
        if self.resized:
            more = f" and {len(self.resized) - 1} others" if len(self.resized) > 1 else ""
            line += f", interpolated {self.resized[0]}{more} from another image size"
        if self.ignored:
            line += f", ignored {self.ignored}"
        if self.left_out:
            line += f", left out {self.left_out}"
        if self.dropout:
            line += f", dropout set to {self.dropout} as the file's training had it"
        return line


@dataclass
class _Fit:
    """How the tensors of a file and of a network go together.

    Attributes:
        vocabulary: whose names the file has: PyTorch's, fluid's, PaddleClas's or Caffe's.
        names: the network's keys -> the names in that vocabulary.
        sources: keys -> the file's tensors, laid out as PyTorch has them.
        missing, misshaped, left_out: keys.
        resized: keys of what was fitted to the network's image size, and of what could be.
        unexpected, ignored: names in the file.
    """

    vocabulary: str
    names: dict[str, str]
    sources: dict[str, Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not (self.missing or self.misshaped or self.unexpected)


def pytorch_names(model: nn.Module) -> dict[str, str]:
    """State-dict key -> the key itself, for every tensor of `model`."""
    return {key: key for key in model.state_dict()}


def vocabularies(model: nn.Module) -> Iterator[tuple[str, dict[str, str]]]:
    """The names that files may have for the tensors of `model`: whose names, and state-dict key -> name."""
    rules = {
        "PyTorch": pytorch_names,
        "fluid": published_names,
        "PaddleClas": paddleclas_names,
        "Caffe": caffe_names,
    }
    for owner, names in rules.items():
        with contextlib.suppress(ValueError):  # a network that was never published there
            yield owner, names(model)


def linear_weights(model: nn.Module) -> set[str]:
    """State-dict keys of the weights that PaddlePaddle stores transposed."""
    return {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}


def _fit(model: nn.Module, weights: Weights, exclude: Sequence[str] = (), *, resize: bool) -> _Fit:
    """Pairs the tensors of a network and of a file by the names that fit most of them.

    Networks whose tensors depend on the image size have a method `adapt_tensor`, from a key and a tensor of the file to
    the tensor as the network's size would have it, or the same where that cannot be. It is used if `resize` is true.
    """
    tensors = _name_in_order(model, weights.unnamed) if weights.unnamed else weights.tensors
    in_file = tensors.keys() | weights.damaged.keys()
    fit, most = _Fit("", {}), -1
    for owner, names in vocabularies(model):
        found = len(in_file & set(names.values()))
        if found > most:
            fit, most = _Fit(owner, names), found
        if found == len(names):
            break
    left_out = _left_out(model, exclude) if exclude else set()
    transposed = linear_weights(model) if weights.paddle else set()
    adapt = getattr(model, "adapt_tensor", lambda key, tensor: tensor)
    for key, value in model.state_dict().items():
        name = fit.names.get(key)
        if key in left_out:
            fit.left_out.append(key)
        elif name in tensors and not (key.endswith(COUNTER) and tensors[name].is_floating_point()):
            source = tensors[name]
            if fit.vocabulary == "Caffe" and value.dim() == 2:
                source = source.flatten(1)  # a classifier may be a 1x1 convolution
            fit.sources[key] = source.t() if key in transposed and source.dim() == 2 else source
            if source.is_floating_point() and fit.sources[key].shape != value.shape:
                resized = adapt(key, fit.sources[key])
                if resized.shape == value.shape:
                    fit.resized.append(key)
                    fit.sources[key] = resized if resize else fit.sources[key]
            if fit.sources[key].shape != value.shape or source.is_floating_point() != value.is_floating_point():
                fit.misshaped.append(key)
        elif not key.endswith(COUNTER):
            fit.missing.append(key)
    wanted = set(fit.names.values())
    computed = getattr(model, "paddleclas_computed", "(?!)")
    auxiliary = getattr(model, "auxiliary_weights", "(?!)")
    for name in tensors:
        if name not in wanted:
            known = BYPRODUCTS.fullmatch(name) or re.fullmatch(computed, name) or re.fullmatch(auxiliary, name)
            surplus = not known and not any(part in name for part in exclude)
            (fit.unexpected if surplus else fit.ignored).append(name)
    return fit


def _name_in_order(model: nn.Module, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Names the tensors of a combined file, which are in the order of their names, as the network has these."""
    names = sorted(dict(vocabularies(model)).get("fluid", {}).values())
    if len(names) != len(tensors):
        raise FormatError(
            f"holds {len(tensors)} variables without names, and the network has {len(names)}: "
            "put the program (model or __model__) beside it, or choose another --model"
        )
    return dict(zip(names, tensors, strict=True))


def _left_out(model: nn.Module, exclude: Sequence[str]) -> set[str]:
    """The keys of which a name, in any vocabulary, contains one of `exclude`."""
    names = [pair for _, vocabulary in vocabularies(model) for pair in vocabulary.items()]
    return {key for key, name in names if any(part in name for part in exclude)}


def _classes(model_tensors: Mapping[str, Tensor], fit: _Fit) -> tuple[int, int] | None:
    """The class counts of the file and of the network, if they are all that does not fit."""
    if fit.missing or fit.unexpected or not fit.misshaped:
        return None
    pairs = set()
    for key in fit.misshaped:
        theirs, ours = fit.sources[key].shape, model_tensors[key].shape
        if theirs[1:] != ours[1:] or not theirs:
            return None
        pairs.add((theirs[0], ours[0]))
    return pairs.pop() if len(pairs) == 1 else None


def _fitting_network(model: nn.Module, weights: Weights, file: Path) -> str | None:
    """Another network that the file fits: one that the file or its name names, or one of the same family."""
    family = models.FAMILIES.get(type(model).__module__.rpartition(".")[2], ())
    named = [name for name in models.list_models() if name == weights.network or name in file.name]
    for name in dict.fromkeys((*sorted(named, key=len, reverse=True), *family)):
        try:
            with torch.device("meta"):
                other = models.build(name)
            fit = _fit(other, weights, resize=False)
        except (FormatError, RuntimeError):  # RuntimeError: built from values, which meta tensors do not have
            continue
        if fit.sources and (fit.right or _classes(other.state_dict(), fit)):
            return name
    return None


def _misfit(model: nn.Module, weights: Weights, fit: _Fit, path: Path) -> str:
    """What does not fit and what to do, in one line."""
    state = model.state_dict()
    remedy = "--finetune_exclude_pretrained_params leaves tensors out"
    if classes := _classes(state, fit):
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
    found = f"the weights do not fit the network: {_cut(', '.join(problems), 500)}"
    if fit.misshaped == fit.resized and not (fit.missing or fit.unexpected):
        remedy = "they are of another image size: give the --image_shape that they were trained with"
        return f"{found}; {remedy}"
    other = _fitting_network(model, weights, path)
    hint = f"they fit --model={other}" if other else f"choose another --model; {remedy}"
    return f"{found}; {hint}"


def load_pretrained(
    model: nn.Module, path: str | os.PathLike[str], exclude: Sequence[str] = (), *, resize: bool = True
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
    model: nn.Module,
    weights: Weights,
    path: str | os.PathLike[str],
    exclude: Sequence[str] = (),
    *,
    resize: bool = True,
) -> LoadReport:
    """The part of `load_pretrained` after reading `weights` from `path`."""
    exclude = [part for part in exclude if part]
    try:
        fit = _fit(model, weights, exclude, resize=resize)
        if exclude:
            _check_exclude(model, weights, exclude)
        if not fit.right:
            raise FormatError(_misfit(model, weights, fit, Path(path)))
        forms = getattr(model, "forms", {})
        if fit.vocabulary in forms and fit.vocabulary != model.published_by:
            raise FormatError(
                f"weights by {fit.vocabulary}, right in its form of the network only: give "
                f"--model={forms[fit.vocabulary]}"
            )
    except FormatError as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
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
    )
    dropout = getattr(model, "paddleclas_dropout", None) if fit.vocabulary == "PaddleClas" else weights.dropout
    for layer in model.modules():
        if isinstance(layer, Dropout) and dropout and layer.mode != dropout:
            layer.mode = report.dropout = dropout
    return report


def _check_exclude(model: nn.Module, weights: Weights, exclude: Sequence[str]) -> None:
    """Refuses a part of a name that is in none, as it is probably misspelt."""
    names = [name for _, vocabulary in vocabularies(model) for name in vocabulary.values()]
    for part in exclude:
        if not any(part in name for name in (*names, *weights.tensors)):
            near = difflib.get_close_matches(part, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"names are such as {names[-1]}"
            raise FormatError(f"--finetune_exclude_pretrained_params: no tensor's name contains {part!r}: {hint}")
