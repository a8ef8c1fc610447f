"""ONNX models in one file or two, and in the requested opset."""

from __future__ import annotations

import os

import pytest
import torch
from exports import build, copied, describe, images, refusal

from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.onnx_export import OnnxForm, _set_opset, onnx_form
from utils.errors import FlagError
from utils.flags import parse

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NAME, SIZE = "MobileNetV1_x0_25", 32


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, and the folder with its export in opset 18."""
    folder = tmp_path_factory.mktemp("exported")
    model = build(NAME, SIZE)
    (folder / "model.onnx.data").write_text("of an older export")
    save_inference(model, describe(NAME, SIZE), folder, "onnx", OnnxForm(opset=18))
    return model, folder


def opset_of(path) -> int:
    return next(entry.version for entry in onnx.load(path, load_external_data=False).opset_import if not entry.domain)


def test_a_model_is_one_file(exported, tmp_path):
    model, folder = exported
    assert os.listdir(folder) == ["model.onnx"] and opset_of(folder / "model.onnx") == 18
    moved = copied(folder, tmp_path) / "model.onnx"
    expected = model(images(2, SIZE))
    found = load_exported(str(moved))(images(2, SIZE))
    assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max().item())
    # What others run is the file as it is.
    session = onnxruntime.InferenceSession(str(moved), providers=["CPUExecutionProvider"])
    assert session.run(None, {"images": images(2, SIZE).numpy()})[0].shape == (2, 10)


def test_a_weight_that_has_changed_is_noticed(exported, tmp_path):
    folder = copied(exported[1], tmp_path)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    assert "is damaged: its checksum is wrong; export the network again" in refusal(folder / "model.onnx")


def test_weights_of_their_own_are_none_of_one_file(exported, tmp_path):
    message = refusal(exported[1] / "model.onnx", exported[1] / "model.onnx")
    assert message.endswith("leave --params_file out")


@pytest.mark.parametrize("opset", [11, 13, 15, 17])
def test_older_opsets(exported, opset):
    model, folder = exported
    proto = onnx.load(folder / "model.onnx")
    _set_opset(proto, opset, folder, NAME)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == opset and proto.ir_version <= 8
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": images(2, SIZE).numpy()})[0])
    expected = model(images(2, SIZE))
    assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max().item())


def graph_of(*nodes, constants=()):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 4])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(list(nodes), "g", [value], [result], list(constants))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])


def test_what_an_older_opset_cannot_say(tmp_path):
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor
    scale = tensor("s", onnx.TensorProto.FLOAT, [4], [1.0] * 4)
    normed = graph_of(node("LayerNormalization", ["x", "s"], ["y"]), constants=[scale])
    _set_opset(normed, 17, tmp_path, "net")
    with pytest.raises(FlagError, match="--onnx_opset 16: net needs LayerNormalization of a newer opset"):
        _set_opset(normed, 16, tmp_path, "net")
    computed = graph_of(node("Shape", ["x"], ["n"]), node("ReduceMean", ["x", "n"], ["y"]))
    with pytest.raises(FlagError, match="needs ReduceMean of a newer opset"):
        _set_opset(computed, 17, tmp_path, "net")
    with pytest.raises(FlagError, match="--onnx_opset 29: this version of PyTorch writes 18 at most"):
        _set_opset(graph_of(node("Relu", ["x"], ["y"])), 29, tmp_path, "net")
    axes = tensor("a", onnx.TensorProto.INT64, [1], [1])
    emptied = graph_of(node("ReduceMean", ["x", "a"], ["y"], noop_with_empty_axes=1), constants=[axes])
    with pytest.raises(FlagError, match="needs ReduceMean"):
        _set_opset(emptied, 17, tmp_path, "net")


def test_int8_needs_a_scale_for_each_channel():
    words = ["--pretrained_model=w", "--calibration_dir=x", "--onnx_external_data=1"]
    with pytest.raises(FlagError, match=r"--onnx_opset 11: int8 \(--calibration_dir\) needs 13 or higher"):
        onnx_form(parse("infer", [*words, "--onnx_opset=11"]))
    assert onnx_form(parse("infer", [*words, "--onnx_opset=13"])) == OnnxForm(13, True)
