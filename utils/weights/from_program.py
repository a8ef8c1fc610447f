"""Takes weights from an exported program whose parameters have other names than the network's.

`utils.weights.by_use` proposes a mapping. Program and network are run on the same image in float64: if their outputs
agree, the mapping is right. The program may have another form of the network: with fused branches, as deployed, or with
batch norms folded into the layers before them. The network then gets weights that give the same outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.errors import OptionError
from models.fusion import Fusable, fuse
from models.network import Network, main_output
from utils.errors import FormatError
from utils.formats.paddle_program import Program
from utils.weights.by_use import proposals
from utils.weights.uses import Uses, uses_of_network, uses_of_program

# Largest allowed difference between the logits of program and network, relative to the largest. In float64 it is 1e-9
# or less, except for program constants that were rounded to float32.
BAR = 1e-5

USUAL_SIZE = 224


@dataclass(frozen=True)
class _Form:
    """A form that the network may have in a program.

    Attributes:
        network: the network, perhaps with fused branches.
        uses: how it uses its parameters.
    """

    network: Network
    uses: Uses


def weights_from_program(
    model: Network, program: Program, parameters: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], set[str]]:
    """The network's weights by state-dict key, and the keys that the program lacks.

    Args:
        model: the network. On the meta device mappings cannot be checked, and the first proposal is used.
        program: a program of the same network.
        parameters: the program's parameters, by its names.

    Raises:
        FormatError: the program is of another network, or no mapping gives the same outputs.
    """
    feed = program.variables[program.feeds[0]].shape or ()
    if len(feed) != 4:
        raise FormatError("the program does not take images")
    shape = (max(feed[0], 1), 3, *(size if size > 0 else USUAL_SIZE for size in feed[2:]))
    theirs = uses_of_program(program)
    is_meta = next(model.parameters()).is_meta
    found = False
    try:
        for form in _forms(model, theirs, shape):
            for names in proposals(theirs, form.uses):
                found = True
                tensors = _laid_out(form, names, parameters)
                if tensors is None:
                    continue
                if is_meta or _answers_the_same(form.network, tensors, program, parameters, shape):
                    weights = _in_training_form(model, form.network, tensors)
                    state = model.state_dict()
                    return {key: weights[key] for key in state if key in weights}, state.keys() - weights.keys()
    except OptionError as error:
        raise FormatError(f"its image size does not suit the network: {error.reason}") from None
    if found:
        raise FormatError(
            "its program does not show which parameter is which: no assignment that was tried gives its results; give "
            "the .pdiparams.info that was written with it, or the .pdparams"
        )
    raise FormatError(
        "its program uses the parameters differently from the network: choose another --model, or give the .pdparams "
        "that it was exported from"
    )


def _forms(model: Network, theirs: Uses, shape: tuple[int, ...]) -> Iterator[_Form]:
    """The forms of the network that a program may have."""
    networks = [model]
    if any(isinstance(module, Fusable) for module in model.modules()):
        networks.append(fuse(model))
    for network in networks:
        plain = uses_of_network(network, shape)
        folded = _norms(theirs) < _norms(plain)
        if not folded:
            yield _Form(network, plain)
        ways: list[dict[str, Any]] = [{"computed": False}]
        if not next(model.parameters()).is_meta:
            ways.append({"computed": False, "gathered": True})
        if folded:
            ways = [{"folded": which, **way} for which in ("all", "dense") for way in ({}, *ways)]
        for way in ways:
            yield _Form(network, uses_of_network(network, shape, **way))


def _norms(uses: Uses) -> int:
    """The number of batch norms."""
    return sum(kind[0] == "mean" for kind in uses.kinds.values())


def _laid_out(form: _Form, names: Mapping[str, str], parameters: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors for one form of the network, in its shapes; None if some do not fit."""
    own = dict([*form.network.named_parameters(), *form.network.named_buffers()])
    linear = {f"{path}.weight" for path, module in form.network.named_modules() if isinstance(module, nn.Linear)}
    tensors = {}
    for key, name in names.items():
        tensor, wanted = parameters[name], own[key]
        if key in form.uses.gathered:
            tensor = _ungathered(wanted, form.uses.gathered[key], tensor)
        elif tensor.dim() == 2 and (key in linear or wanted.dim() == 4):
            tensor = tensor.t()
        elif tensor.dim() == 4 and key in linear:
            tensor = tensor.flatten(1)
        if tensor is None:
            return None
        # A classifier for another number of classes keeps the program's shape.
        same = tensor.numel() == wanted.numel()
        tensors[key] = (tensor.reshape(wanted.shape) if same else tensor).to(wanted.dtype)
    for offset, others in form.uses.norms.items():
        norm = cast(nn.BatchNorm2d, form.network.get_submodule(offset.removesuffix(".bias")))
        one = torch.ones_like(own[offset], device="cpu")
        values = {"scale": one, "mean": one * 0, "variance": one - norm.eps, "bias": one * 0}
        tensors |= {key: values[role] for role, key in others.items() if key}
    return tensors


def _ungathered(table: Tensor, gathered: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor | None:
    """The table from which `gathered` picks the given rows, if it picks all of the table."""
    places = gathered(torch.arange(table.numel(), dtype=torch.float64).reshape(table.shape)).flatten().long()
    if places.numel() != rows.numel() or len(places.unique()) < table.numel():
        return None
    values = torch.empty(table.numel(), dtype=rows.dtype)
    values[places] = rows.flatten()
    return values.reshape(table.shape)


@torch.no_grad()
def _answers_the_same(
    network: Network,
    tensors: Mapping[str, Tensor],
    program: Program,
    parameters: Mapping[str, Tensor],
    shape: tuple[int, ...],
) -> bool:
    """Whether the network with these tensors gives the program's outputs."""
    from utils.programs.paddle_translate import translate  # slow to import, and rarely needed

    arrays = {name: tensor.numpy() for name, tensor in parameters.items()}
    translation = translate(program, arrays, (shape[2], shape[3]), torch.float64, simplified=False)
    classes = [number for number, output in enumerate(translation.outputs) if output.is_classes]
    if not classes:
        raise FormatError("the program has no output of shape (images, classes)")
    images = torch.empty(shape, dtype=torch.float64)
    images.normal_(generator=torch.Generator().manual_seed(0))
    expected = translation.single(classes[0], before_activation=True)(images)
    del translation
    ghost = copy.deepcopy(network).cpu().double().eval()
    for key, tensor in tensors.items():
        path, _, name = key.rpartition(".")
        owner, tensor = ghost.get_submodule(path), tensor.double()
        # (Replaced rather than copied into: a classifier for other classes has another shape.)
        if name in owner._parameters:
            owner._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        else:
            owner._buffers[name] = tensor
    ours = main_output(ghost(images))
    if ours.shape != expected.shape:
        return False
    return bool((ours - expected).abs().max() <= BAR * expected.abs().max())


@torch.no_grad()
def _in_training_form(model: Network, form: Network, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network in its training form, from those of another form."""
    if form is model:
        return dict(tensors)
    deployed, trained = copy.deepcopy(form).cpu(), copy.deepcopy(model).cpu()
    own = dict([*deployed.named_parameters(), *deployed.named_buffers()])
    for key, tensor in tensors.items():
        if own[key].shape == tensor.shape:  # all but a classifier for other classes
            own[key].copy_(tensor)
    weights = {key: tensor for key, tensor in tensors.items() if key in model.state_dict()}
    for path, module in trained.named_modules():
        if isinstance(module, Fusable):
            module.take_fused(deployed.get_submodule(path))
            weights |= {f"{path}.{key}": tensor for key, tensor in module.state_dict().items()}
    return {key: tensor for key, tensor in weights.items() if not key.endswith("num_batches_tracked")}
