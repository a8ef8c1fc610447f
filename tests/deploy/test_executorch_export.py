"""--inference_format=executorch: the program, what travels in it and beside it, and its int8 form."""

from __future__ import annotations

import importlib.util
import json
import os

import pytest
import torch
from exports import describe, images, refusal, smallest_network
from torch import nn
from torch.nn import functional as F

from utils.deploy.comparing import export_program
from utils.deploy.executorch_export import quantize_executorch, with_parts_of_xnnpack
from utils.deploy.export import check_format, folded_program, save_inference
from utils.deploy.exported import load_exported
from utils.errors import UserError

SIZE = 16


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="executorch needs the package executorch: pip install -r requirements-mobile"):
        check_format("executorch")


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "padding", "stride"), [(2, 1, 0, 2), ((3, 1), (2, 1), (2, 0), (1, 3))]
)
def test_patches_are_slices(kernel_size, dilation, padding, stride):
    unfold = nn.Unfold(kernel_size, dilation, padding, stride)
    maps = images(2, SIZE - 1)
    program = with_parts_of_xnnpack(torch.export.export(unfold, (maps,)))
    assert torch.ops.aten.im2col.default not in [node.target for node in program.graph.nodes]
    assert torch.equal(program.module()(maps), unfold(maps))


class ComputedBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(F.linear(x, self.fc.weight.T @ self.fc.weight, 2 * self.fc.weight[0]))


def test_computed_biases_are_added():
    model, x = ComputedBias(), torch.randn(2, 3)
    program = with_parts_of_xnnpack(torch.export.export(model, (x,)))
    calls = program.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    assert [len(node.args) for node in calls] == [2, 3]
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, and the folder with its export."""
    pytest.importorskip("executorch", reason="requirements-mobile.txt is not installed")
    folder = tmp_path_factory.mktemp("exported")
    (folder / "model_int8.pte").write_text("of an older export")
    model = smallest_network()
    save_inference(model, describe("Smallest", SIZE), folder, "executorch")
    return model, folder


def test_the_program_answers_as_the_network(exported):
    model, folder = exported
    assert sorted(os.listdir(folder)) == ["labels.txt", "model.pte"]
    network = load_exported(str(folder / "model.pte"))
    assert network.engine == "executorch" and network.description.class_names[1] == "class 1"
    torch.testing.assert_close(network(images(3, SIZE)), model(images(3, SIZE)), atol=1e-5, rtol=0)


def test_what_travels_with_it(exported):
    from executorch.runtime import Runtime

    _, folder = exported
    content = (folder / "model.pte").read_bytes()
    program = Runtime.get().load_program(content)
    told = {name: program.load_method(name).execute([])[0] for name in program.method_names - {"forward"}}
    assert json.loads(told["get_description"])["class_names"][2] == "class 2"
    assert told["get_image_mean"].tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert told["get_image_std"].tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert (folder / "labels.txt").read_text().splitlines() == [f"class {number}" for number in range(10)]
    assert os.fspath(os.getcwd()).encode() not in content, "where the code lay is nobody's business"


def test_int8(exported, tmp_path):
    model, _ = exported
    program = folded_program(model, images(2, SIZE))
    batches = [images(8, SIZE), images(3, SIZE)]
    file = quantize_executorch(program, describe("Smallest", SIZE), tmp_path, batches, "--x")
    network = load_exported(str(file))
    assert file.name == "model_int8.pte" and network.description.precision == "int8"
    expected, found = model(images(8, SIZE)), network(images(8, SIZE))
    difference = (found - expected).abs().max() / expected.abs().max()
    assert 1e-5 < difference < 0.05, "rounded to 8 bits, and no more"


def test_int8_without_images(exported, tmp_path):
    program = folded_program(exported[0], images(2, SIZE))
    with pytest.raises(UserError, match="--calibration_dir: no image could be read"):
        quantize_executorch(program, describe("Smallest", SIZE), tmp_path, [], "--x")


def test_what_executorch_cannot_express(exported, tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x.mean((1, 2, 3))[:, None, None]).real

    program = export_program(Odd(), images(2, SIZE))
    from utils.deploy.executorch_export import write_executorch

    with pytest.raises(UserError, match=r"ExecuTorch cannot express Odd: .*: take --inference_format=onnx"):
        write_executorch(program, describe("Odd", SIZE), tmp_path)


def test_a_program_that_the_runtime_does_not_take(exported, tmp_path):
    from test_executorch_engine import program

    (tmp_path / "model.pte").write_bytes(program())
    message = refusal(tmp_path / "model.pte")
    assert "cannot be run by executorch: " in message and message.endswith("export the network again")
