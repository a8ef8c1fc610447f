"""Weights from models that PaddlePaddle exported."""

from __future__ import annotations

import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from paddle_operators import cases
from paddle_programs import PPLCNET, example_files, write_example

import models
from models.network import Network
from models.repvgg import RepVGGBlock
from utils.errors import FormatError, UserError
from utils.formats.inference_model import read_inference_model
from utils.formats.paddle_program import Operation, Program, Variable
from utils.weights import Weights, load_pretrained, load_weights
from utils.weights.from_program import weights_from_program
from utils.weights.uses import uses_of_program

NAME = "PPLCNet_x0_25"


@pytest.fixture
def logits(tmp_path) -> np.ndarray:
    """The original's output for `zoo.images`."""
    path = tmp_path / "expected.npz"
    path.write_bytes(example_files()[f"{NAME}/expected.npz"])
    with np.load(path) as file:
        return file["logits"]


def loaded(path: Path) -> np.ndarray:
    """The logits of the network with the weights of an exported model."""
    model = models.build(NAME, class_dim=20)
    assert load_pretrained(model, path).loaded == 146
    with torch.no_grad():
        return model.eval()(torch.as_tensor(zoo.images(224))).numpy()


@pytest.mark.parametrize("info", [True, False], ids=["named", "by use"])
@pytest.mark.parametrize("name", PPLCNET)
def test_weights_are_exactly_those_of_the_export(name, info, logits, tmp_path):
    folder = write_example(name, tmp_path / "export")
    if not info:
        (folder / "inference.pdiparams.info").unlink(missing_ok=True)
    assert np.abs(loaded(folder) - logits).max() < 1e-5 * np.abs(logits).max()
    model = models.build(NAME, class_dim=20)
    load_pretrained(model, folder)
    parameters = read_inference_model(folder).parameters.values()
    assert sum(array.sum(dtype=np.float64) for array in parameters) == pytest.approx(
        sum(tensor.double().sum().item() for key, tensor in model.state_dict().items() if "num_batches" not in key),
        rel=1e-9,
    )


@pytest.mark.parametrize("form", ["program", "own name", "parameters", "archive", "compressed"])
def test_every_form(form, logits, tmp_path):
    folder = write_example(PPLCNET[0], tmp_path / f"{NAME}_infer")
    path = folder / {"program": "inference.json", "parameters": "inference.pdiparams"}.get(form, "")
    if form == "own name":  # as paddle.Model.save("net", training=False) writes it
        (folder / "inference.pdiparams").rename(folder / "net.pdiparams")
        path = (folder / "inference.json").rename(folder / "net.json")
    if form in ("archive", "compressed"):
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w" if form == "archive" else "w:gz") as archive:
            archive.add(folder, folder.name)
    assert np.abs(loaded(path) - logits).max() < 1e-5 * np.abs(logits).max()


def test_another_network_is_refused(tmp_path):
    folder = write_example(PPLCNET[0], tmp_path / "export")
    with pytest.raises(UserError, match="its program uses the parameters differently from the network"):
        load_pretrained(models.build("MobileNetV1_x0_25", class_dim=20), folder)
    (folder / "inference.pdiparams").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=r"inference\.pdiparams: "):
        load_pretrained(models.build(NAME, class_dim=20), folder)


def program_of(operations: list[Operation], shapes: dict[str, tuple[int, ...]], classes: int) -> Program:
    """A program from images "x", of 8 x 8 pixels, to "y"; `shapes` are the parameters' shapes."""
    variables = {name: Variable(name, shape, "float32", True) for name, shape in shapes.items()}
    channels = next(iter(shapes.values()))[0]
    variables |= {name: Variable(name, (-1, channels, 8, 8), "float32") for name in "ab"}
    variables |= {"x": Variable("x", (-1, 3, 8, 8), "float32"), "y": Variable("y", (-1, classes), "float32")}
    return Program(
        "desc", 2_006_002, tuple(operations), variables, tuple(sorted(shapes)), ("x",), ("y",), ("x",), ("y",)
    )


def conv2d(images: str, weight: str, result: str, padding: int = 0) -> Operation:
    attributes = {"strides": [1, 1], "paddings": [padding] * 2, "dilations": [1, 1], "groups": 1}
    return Operation("conv2d", {"Input": (images,), "Filter": (weight,)}, {"Output": (result,)}, attributes)


def plus(one: str, other: str, result: str) -> Operation:
    return Operation("elementwise_add", {"X": (one,), "Y": (other,)}, {"Out": (result,)}, {"axis": 1})


def averaged(x: str) -> list[Operation]:
    """The end of a program: the averages of all channels."""
    attributes = {"dim": [2, 3], "keep_dim": False, "reduce_all": False}
    return [Operation("reduce_mean", {"X": (x,)}, {"Out": ("y",)}, attributes)]


def random_parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


class Parallel(Network):
    """Two layers that differ only in where their results go."""

    def __init__(self, activation: bool = True) -> None:
        super().__init__()
        self.one = torch.nn.Conv2d(3, 2, 1, bias=False)
        self.other = torch.nn.Conv2d(3, 2, 1, bias=False)
        self.activation = activation

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # The other layer is used first, but comes second.
        other = self.other(images)
        x = torch.cat([self.one(images), other], 1)
        return (x.relu() if self.activation else x.abs()).mean((2, 3))


def test_what_could_change_places_is_told_by_where_it_goes():
    shapes = {"conv2d_0.w_0": (2, 3, 1, 1), "conv2d_1.w_0": (2, 3, 1, 1)}
    joined = Operation("concat", {"X": ("a", "b")}, {"Out": ("c",)}, {"axis": 1})
    relu = Operation("relu", {"X": ("c",)}, {"Out": ("d",)}, {})
    layers = [conv2d("x", "conv2d_0.w_0", "a"), conv2d("x", "conv2d_1.w_0", "b")]
    program, parameters = program_of([*layers, joined, relu, *averaged("d")], shapes, 4), random_parameters(shapes)
    weights, absent = weights_from_program(Parallel(), program, parameters)
    assert torch.equal(weights["one.weight"], parameters["conv2d_0.w_0"])
    assert torch.equal(weights["other.weight"], parameters["conv2d_1.w_0"])
    assert not absent
    # The same uses, but another network.
    with pytest.raises(FormatError, match="no assignment that was tried gives its results"):
        weights_from_program(Parallel(activation=False), program, parameters)


def folded(program: Program, parameters: dict[str, torch.Tensor]) -> tuple[Program, dict[str, torch.Tensor]]:
    """A program with batch norms folded as by PaddlePaddle's passes, which skip depthwise convolutions."""
    parameters, operations, made = dict(parameters), [], {}
    for operation in program.operations:
        made |= {name: operation for names in operation.outputs.values() for name in names}
        if operation.kind == "batch_norm" and (conv := made[operation.inputs["X"][0]]).kind == "conv2d":
            scale, offset, mean, variance = (
                parameters.pop(operation.inputs[slot][0]) for slot in ("Scale", "Bias", "Mean", "Variance")
            )
            factor = scale / (variance + operation.attributes["epsilon"]).sqrt()
            name = f"fuse_conv_bn/conv2d_eltwise_y_in/{len(parameters)}"
            parameters[name] = offset - mean * factor
            parameters[conv.inputs["Filter"][0]] *= factor[:, None, None, None]
            operation = plus(conv.outputs["Output"][0], name, operation.outputs["Y"][0])
        operations.append(operation)
    variables = program.variables | {
        name: Variable(name, tuple(tensor.shape), "float32", True) for name, tensor in parameters.items()
    }
    changed = replace(program, operations=tuple(operations), variables=variables, parameters=tuple(sorted(parameters)))
    return changed, parameters


def test_folded_batch_norms(logits, tmp_path):
    exported = read_inference_model(write_example(PPLCNET[1], tmp_path / "export"))
    tensors = {name: torch.tensor(array) for name, array in exported.parameters.items()}
    program, parameters = folded(exported.program, tensors)
    assert 0 < sum(operation.kind == "batch_norm" for operation in program.operations) < 27
    model = models.build(NAME, class_dim=20)
    load_weights(model, Weights("folded", parameters, program=lambda: program), "export")
    with torch.no_grad():
        answers = model.eval()(torch.as_tensor(zoo.images(224))).numpy()
    assert np.abs(answers - logits).max() < 1e-5 * np.abs(logits).max()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert sum(bool((norm.weight == 1).all() and (norm.running_mean == 0).all()) for norm in norms) == 14


class Summed(Network):
    """A block of RepVGG, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.block = RepVGGBlock(3, 3, 1, 1, has_se=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.block(images).mean((2, 3))


@pytest.mark.parametrize("name", ["residuals", "padded", "attention", "shuffled"])
def test_what_engines_make_part_of_layers_is_spelled_out(name):
    """oneDNN's operators with a fused addend and activation use parameters like the plain operators."""
    programs = {case.name: case.program for case in cases("optimized_2.6")}
    plain, fused = (uses_of_program(programs[f"{name}:{engine}"]) for engine in ("plain", "onednn"))
    ways = [
        Counter(
            (uses.kinds[key], uses.kinds.get(other), way) for key, pairs in uses.before.items() for other, way in pairs
        )
        for uses in (plain, fused)
    ]
    assert ways[0] == ways[1] and len(ways[0]) > 2
    assert Counter(plain.kinds.values()) == Counter(fused.kinds.values())


def test_branches_that_were_summed_up():
    shapes = {"conv2d_0.w_0": (3, 3, 3, 3), "conv2d_0.b_0": (3,)}
    relu = Operation("relu", {"X": ("b",)}, {"Out": ("c",)}, {})
    layers = [conv2d("x", "conv2d_0.w_0", "a", padding=1), plus("a", "conv2d_0.b_0", "b"), relu, *averaged("c")]
    program, parameters = program_of(layers, shapes, 3), random_parameters(shapes)
    model = Summed().eval()
    weights, absent = weights_from_program(model, program, parameters)
    assert all(key.startswith("block.rbr_") for key in absent)
    model.load_state_dict(weights, strict=False)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    conv = torch.nn.functional.conv2d(images, parameters["conv2d_0.w_0"], parameters["conv2d_0.b_0"], padding=1)
    with torch.no_grad():
        torch.testing.assert_close(model(images), conv.relu().mean((2, 3)))


class Table(Network):
    """An offset for every pixel, picked from a table."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1, bias=False)
        self.table = torch.nn.Parameter(torch.zeros(15, 4))
        self.places: torch.Tensor
        self.register_buffer("places", torch.arange(64) % 15, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        offset = self.table[self.places].view(8, 8, 4).permute(2, 0, 1)
        return (self.conv(images) + offset).relu().mean((2, 3))


def test_a_table_of_which_the_program_holds_the_rows():
    shapes = {"conv2d_0.w_0": (4, 3, 1, 1), "eager_tmp_0": (4, 8, 8)}
    relu = Operation("relu", {"X": ("b",)}, {"Out": ("c",)}, {})
    layers = [conv2d("x", "conv2d_0.w_0", "a"), plus("a", "eager_tmp_0", "b"), relu, *averaged("c")]
    parameters, table = random_parameters(shapes), torch.randn(15, 4)
    parameters["eager_tmp_0"] = table[torch.arange(64) % 15].view(8, 8, 4).permute(2, 0, 1).contiguous()
    weights, absent = weights_from_program(Table(), program_of(layers, shapes, 4), parameters)
    assert torch.equal(weights["table"], table)
    assert not absent
