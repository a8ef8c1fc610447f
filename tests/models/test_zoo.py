"""Every published network, compared with the originals: names, shapes, initializers, layers' settings, logits."""

import collections
import functools
import math
import re

import pytest
import torch
import zoo
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import models
from models.layers import Dropout
from models.names import l2_overrides, published_names
from utils.weights import Weights, load_weights

ENTRIES = [entry for kind in zoo.KINDS for entry in zoo.entries(kind)]
FLUID = zoo.entries("fluid")


def by_entry(entries):
    return pytest.mark.parametrize("entry", entries, ids=[f"{entry.kind}-{entry.name}" for entry in entries])


# PyTorch's operator -> the published name of what it does, and the arguments that it leaves out where they are these
FILLS = {
    "normal_": ("gaussian", [0.0, 1.0]),
    "uniform_": ("uniform", [0.0, 1.0]),
    "fill_": ("constant", [0.0]),
    "zero_": ("constant", [0.0]),
}


class Initializers(TorchDispatchMode):
    """Records how each tensor was last filled. Meta tensors are enough, as nothing is computed."""

    def __init__(self):
        super().__init__()
        # Keeps tensors alive: a freed tensor's id can be reused.
        self.tensors, self.fills = {}, {}

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        result = operator(*arguments, **(keywords or {}))
        name = operator.__name__.split(".")[0]
        if name.endswith("_") and isinstance(arguments[0], torch.Tensor):
            tensor, *given = arguments
            kind, defaults = FILLS.get(name, (name, []))
            self.tensors[id(tensor)] = tensor
            self.fills[id(tensor)] = kind, [*given, *defaults[len(given) :]]
        return result


@functools.lru_cache(maxsize=1)
def blueprint(network, options):
    """A network without memory for its tensors, and the initializers of them."""
    initializers = Initializers()
    with initializers, torch.device("meta"):
        model = models.build(network, **dict(options))
    return model, initializers


def test_every_network_is_checked_against_an_original():
    assert len(FLUID) == 158
    assert len(zoo.entries("paddleclas")) == 107
    assert len(zoo.entries("paddleclas_extended")) == 187
    assert len(zoo.entries("paddleclas_rest")) == 46
    # Architectures with other published weights, trained otherwise.
    for name in models.list_models("*_ssld*"):
        architecture = re.sub(r"^Fix_|_ssld(_v2)?$", "", name)
        assert getattr(models, name) is getattr(models, architecture)
    assert models.ResNet50_vd_v2 is models.ResNet50_vd


# Consecutive entries of a network share its blueprint.
@by_entry(sorted(ENTRIES, key=lambda entry: (entry.network, str(entry.options))))
def test_architecture(entry):
    model, initializers = blueprint(entry.network, tuple(entry.options.items()))
    check_names_and_shapes(entry, model)
    if entry.kind == "fluid":
        check_initializers(entry, model, initializers)
        check_settings(entry, model)


def check_names_and_shapes(entry, model):
    shapes = {**entry.shapes, **entry.tables}
    # Raises if one is missing, superfluous or of another shape.
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    report = load_weights(model, Weights(entry.kind, tensors), entry.name)
    assert (report.loaded, report.ignored, report.left_out) == (len(entry.shapes), len(entry.tables), 0)


def check_initializers(entry, model, initializers):
    published = {name: initializer for name, _, _, initializer in entry.facts["params"]}
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for key, name in published_names(model).items():
        kind, *numbers = published[name]
        our_kind, our_numbers = initializers.fills[id(state[key])]
        assert our_kind == kind, key
        assert our_numbers == pytest.approx(numbers, rel=1e-4), key


def check_settings(entry, model):
    """Batch norm's momentum and epsilon, dropout's rate and convention, L2 decays that depart from the global one."""
    batch_norms = collections.Counter(
        (round(1 - layer.momentum, 6), layer.eps) for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)
    )
    assert batch_norms == {(kind["momentum"], kind["epsilon"]): kind["layers"] for kind in entry.facts["batch_norm"]}
    dropouts = [[layer.p, layer.mode] for layer in model.modules() if isinstance(layer, Dropout)]
    assert sorted(dropouts) == sorted(entry.facts["dropout"])
    names = published_names(model)
    decays = {names[key]: decay for key, decay in l2_overrides(model).items()}
    assert decays == {name: decay for name, _, decay, _ in entry.facts["overrides"]}


def parameters(entry):
    return sum(math.prod(shape) for shape in entry.shapes.values())


def smallest_of_each_family(entries):
    """The entry with the fewest parameters of each module in models/."""
    smallest = {}
    for entry in sorted(entries, key=parameters):
        family = next(family for family, names in models.FAMILIES.items() if entry.network in names)
        smallest.setdefault(family, entry)
    return list(smallest.values())


# The fastest network of every family, old and new, and of PaddleClas's forms.
QUICK = [entry for entry in smallest_of_each_family(FLUID) if parameters(entry) < 80e6]
QUICK += smallest_of_each_family(zoo.entries("paddleclas_extended"))
QUICK += [entry for entry in smallest_of_each_family(zoo.entries("paddleclas_rest")) if parameters(entry) < 30e6]
QUICK += [entry for entry in smallest_of_each_family(zoo.entries("paddleclas")) if parameters(entry) < 20e6]


def check_logits(entry):
    if entry.kind == "fluid":
        torch.manual_seed(0)
        model = entry.build()
        check_spread(entry, model)
    else:
        model = entry.build_blank()
    assert zoo.logits_error(entry, model) < zoo.bar(entry)


def check_spread(entry, model):
    """The initial values themselves, and not only the calls that made them."""
    published = {name: initializer for name, _, _, initializer in entry.facts["params"]}
    state = model.state_dict()
    for key, name in published_names(model).items():
        tensor, (kind, *numbers) = state[key], published[name]
        if tensor.numel() >= 1000:
            spread = {"constant": 0.0, "gaussian": numbers[-1], "uniform": (numbers[-1] - numbers[0]) / 12**0.5}[kind]
            assert tensor.std().item() == pytest.approx(spread, rel=4 / tensor.numel() ** 0.5, abs=1e-12), key


@by_entry(QUICK)
def test_logits(entry):
    check_logits(entry)


@pytest.mark.full
@by_entry([entry for entry in ENTRIES if entry not in QUICK])
def test_logits_of_all(entry):
    check_logits(entry)


def test_auxiliary_logits_of_googlenet():
    entry = next(entry for entry in FLUID if entry.name == "GoogLeNet")
    model = entry.build().train()
    zoo.load(model, entry)
    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.eval()
    with torch.no_grad():
        outputs = model(zoo.images(entry.facts["image_size"]))
    for number, logits in enumerate(outputs):
        assert zoo.relative_error(logits.softmax(1), zoo.expected(entry, number)) < zoo.BAR
