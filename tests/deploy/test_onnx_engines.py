"""The engine and device for an ONNX model, its error messages, and what is read from the model's file."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
import torch
from caffe_files import field
from exports import build, copied, describe, images, refusal

from utils.deploy import onnx_engines
from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.network import DESCRIPTION
from utils.deploy.onnx_engines import NoGpuError, choose_engine, external_files, read_description
from utils.deploy.onnx_export import OnnxForm
from utils.errors import FlagError, UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("device", "dtype", "precision", "with_openvino", "without"),
    [
        (CPU, torch.float32, "float32", "onnxruntime", "onnxruntime"),
        (CPU, torch.float32, "int8", "openvino", "onnxruntime"),
        (CPU, torch.bfloat16, "float32", "openvino", None),
        (GPU, torch.float16, "float32", "onnxruntime", "onnxruntime"),
        (GPU, torch.float32, "int8", "onnxruntime", "onnxruntime"),
    ],
)
def test_the_faster_engine_is_chosen(monkeypatch, device, dtype, precision, with_openvino, without):
    monkeypatch.setattr(onnx_engines, "_is_installed", lambda name: True)
    assert choose_engine("auto", device, dtype, precision) == with_openvino
    monkeypatch.setattr(onnx_engines, "_is_installed", lambda name: False)
    if without:
        assert choose_engine("auto", device, dtype, precision) == without
    else:
        with pytest.raises(FlagError, match="cannot compute in bfloat16 on a CPU: install openvino, or export"):
            choose_engine("auto", device, dtype, precision)


def test_engines_that_cannot_do_it():
    with pytest.raises(NoGpuError, match="--engine=openvino does not use NVIDIA GPUs"):
        choose_engine("openvino", GPU, torch.float32, "float32")
    with pytest.raises(FlagError, match="cannot compute in float16 on a CPU"):
        choose_engine("onnxruntime", CPU, torch.float16, "float32")


@pytest.fixture
def providers(monkeypatch, tmp_path):
    """Execution providers by device, type, --use_tensorrt and memory, with an ONNX Runtime that lacks those named."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def choose(device, dtype, use_tensorrt, gpu_mem=None, without=(), model=b"model"):
        available = [name for name in (onnx_engines.TENSORRT, onnx_engines.CUDA) if name not in without]
        ort = SimpleNamespace(get_available_providers=lambda: available, __version__="1.99")
        monkeypatch.setitem(sys.modules, "onnxruntime", ort)
        return onnx_engines._providers(model, describe("any", 64), device, dtype, 8, use_tensorrt, gpu_mem)

    return choose


def test_execution_providers(providers):
    second = torch.device("cuda", 1)
    assert providers(CPU, torch.float32, False, 5) == [("CPUExecutionProvider", {})]
    assert providers(second, torch.float32, False) == [("CUDAExecutionProvider", {"device_id": 1})]
    limited = "CUDAExecutionProvider", {"device_id": 1, "gpu_mem_limit": 5}
    assert providers(second, torch.float32, False, 5) == [limited]
    with pytest.raises(
        NoGpuError, match="CUDAExecutionProvider is missing from this build of ONNX Runtime: pip uninstall onnxruntime"
    ):
        providers(GPU, torch.float32, False, without=[onnx_engines.CUDA])
    with pytest.raises(FlagError, match=r"give predict\.py --use_tensorrt=True"):
        providers(GPU, torch.float16, False)


def test_tensorrt(providers, tmp_path):
    """One engine for every batch, cached for the next run with the same weights; CUDA runs what TensorRT cannot."""
    (name, options), cuda = providers(GPU, torch.float16, True, 5)
    assert (name, cuda) == (
        "TensorrtExecutionProvider",
        ("CUDAExecutionProvider", {"device_id": 0, "gpu_mem_limit": 5}),
    )
    folder = options.pop("trt_engine_cache_path")
    assert folder.startswith(f"{tmp_path}/tensorrt_engines/") and os.path.isdir(folder)
    assert options == {
        "device_id": 0,
        "trt_profile_min_shapes": "images:1x3x64x64",
        "trt_profile_opt_shapes": "images:8x3x64x64",
        "trt_profile_max_shapes": "images:8x3x64x64",
        "trt_engine_cache_enable": True,
        "trt_fp16_enable": True,
        "trt_max_workspace_size": 5,
    }
    assert providers(GPU, torch.bfloat16, True)[0][1]["trt_bf16_enable"]
    assert providers(GPU, torch.float32, True, model=b"other")[0][1]["trt_engine_cache_path"] != folder
    with pytest.raises(UserError, match="TensorrtExecutionProvider is missing from this build") as error:
        providers(GPU, torch.float32, True, without=[onnx_engines.TENSORRT])
    assert not isinstance(error.value, NoGpuError)


def test_a_folder_for_engines_that_cannot_be_made(providers, tmp_path):
    (tmp_path / "tensorrt_engines").write_text("")
    with pytest.raises(UserError, match=r"--use_tensorrt: cannot make .*XDG_CACHE_HOME"):
        providers(GPU, torch.float32, True)


def model_of(texts: dict[str, str]) -> bytes:
    """An ONNX model with only a version and metadata."""
    entries = [field(1, key.encode()) + field(2, value.encode()) for key, value in texts.items()]
    return field(1, 8) + b"".join(field(14, entry) for entry in entries)


def test_the_description_is_in_the_metadata():
    wanted = describe("MobileNetV1_x0_25", 64)
    model = model_of({"author": "x", DESCRIPTION: wanted.to_json()})
    assert read_description(model, "model.onnx") == wanted


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of({"author": "x"}), "x.onnx has no description: export the network with infer.py"),
        (model_of({})[2:] + field(14, field(1, b"key")), "neither a PyTorch program nor an ONNX model"),
        (field(14, field(1, b"key") + field(2, b"value")), "neither a PyTorch program nor an ONNX model"),
        (model_of({DESCRIPTION: "{}"})[:-1], "neither a PyTorch program nor an ONNX model"),
        (b"", "neither a PyTorch program nor an ONNX model"),
    ],
)
def test_models_of_others(model, message):
    with pytest.raises(UserError, match=message):
        read_description(model, "x.onnx")


def test_a_missing_engine_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino is not installed: pip install -r requirements-onnx\.txt"):
        onnx_engines.import_engine("openvino")


# ------------------------------------------------------------------------------------------------- with the engines


TWO_FILES = OnnxForm(external_data=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a small ONNX model."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("onnx")
    save_inference(build("MobileNetV1_x0_25"), describe("MobileNetV1_x0_25", 64), folder, "onnx", TWO_FILES)
    return folder


@pytest.fixture
def gpu_build(exported, monkeypatch):
    """ONNX Runtime for CPUs behaves like one for GPUs whose libraries do not load: it silently uses the CPU."""
    import onnxruntime

    if onnx_engines.CUDA in onnxruntime.get_available_providers():
        pytest.skip("the ONNX Runtime for GPUs is installed")
    everything = [onnx_engines.TENSORRT, onnx_engines.CUDA, onnx_engines.CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_gpu_that_is_not_used_is_never_silent(exported, gpu_build, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = exported / "model.onnx"
    message = refusal(model, device="cuda", cpu_flag="--gpu_id=-1")
    assert "CUDAExecutionProvider does not load" in message and message.endswith("; to use the CPU, give --gpu_id=-1")
    assert "TensorrtExecutionProvider does not load" in refusal(
        model, device="cuda", use_tensorrt=True, may_use_cpu=True
    )
    network = load_exported(str(model), device="cuda", may_use_cpu=True)
    assert torch.equal(network(images(2, 64)), load_exported(str(model))(images(2, 64)))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("warning: running on the CPU: ONNX Runtime's CUDAExecutionProvider does not load")
    assert captured.err.count("\n") == 1


def test_libraries_that_raise_an_error(exported, gpu_build, monkeypatch, tmp_path):
    import onnxruntime

    def session(*arguments, **options):
        raise RuntimeError("/a/file.cc:729 Please install TensorRT libraries as mentioned in the GPU requirements page")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    assert "'s CUDAExecutionProvider does not load" in refusal(exported / "model.onnx", device="cuda")
    options = {"device": "cuda", "use_tensorrt": True}
    assert "'s TensorrtExecutionProvider does not load" in refusal(exported / "model.onnx", **options)


def test_tensorrt_is_for_gpus_and_onnxruntime(exported):
    assert "--use_tensorrt needs an NVIDIA GPU" in refusal(exported / "model.onnx", use_tensorrt=True)
    options = {"engine": "openvino", "device": "cuda", "use_tensorrt": True, "may_use_cpu": True}
    assert "--use_tensorrt needs an NVIDIA GPU" in refusal(exported / "model.onnx", **options)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_no_other_file_is_read(exported, tmp_path, engine):
    """The checksum belongs to the weights next to the model, not to other files in the folder."""
    import onnx

    pytest.importorskip(engine)
    folder = copied(exported, tmp_path)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = "other.data"
    onnx.save(model, folder / "model.onnx")
    (folder / "model.onnx.data").with_name("other.data").write_bytes((folder / "model.onnx.data").read_bytes())
    message = refusal(folder / "model.onnx", engine=engine)
    assert "it names weight files other than model.onnx.data" in message


def test_external_files_are_found_wherever_tensors_are():
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper

    def tensor(location: str) -> onnx.TensorProto:
        made = onnx.TensorProto(name=location, data_location=onnx.TensorProto.EXTERNAL)
        made.external_data.add(key="offset", value="0")
        made.external_data.add(key="location", value=location)
        return made

    def sparse(location: str) -> onnx.SparseTensorProto:
        return onnx.SparseTensorProto(values=tensor(f"{location}1"), indices=tensor(f"{location}2"))

    inner = helper.make_graph([], "inner", [], [], [tensor("in a graph of a node")])
    node = helper.make_node("If", [], ["x"], then_branch=inner, more=[inner], value=tensor("é"), values=[tensor("b")])
    node.attribute.append(helper.make_attribute("sparse", sparse("c")))
    graph = helper.make_graph([node], "outer", [], [], [tensor("d")], sparse_initializer=[sparse("e")])
    function = helper.make_node("Constant", [], ["x"], value=tensor("in a function"))
    functions = [helper.make_function("domain", "f", [], ["x"], [function], [])]
    model = helper.make_model(graph, functions=functions)
    model.training_info.add().algorithm.initializer.append(tensor("f"))
    expected = {"in a graph of a node", "é", "b", "c1", "c2", "d", "e1", "e2", "in a function", "f"}
    assert external_files(model.SerializeToString()) == expected


def test_the_numbers_of_the_fields_are_those_of_onnx():
    """No message on the way to tensors is missing."""
    onnx = pytest.importorskip("onnx")
    for kind, ours in onnx_engines.MESSAGES.items():
        fields = getattr(onnx, kind).DESCRIPTOR.fields
        theirs = {field.number: field.message_type.name for field in fields if field.message_type}
        followed = {*onnx_engines.MESSAGES, *(["StringStringEntryProto"] if kind == "TensorProto" else [])}
        expected = {number: name for number, name in theirs.items() if name in followed}
        if kind == "TensorProto":
            expected = {number: expected[number] for number in expected if number != 16}  # its own metadata
        assert ours == expected


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_model_that_fails_when_it_runs_is_one_line(exported, tmp_path, engine):
    import onnx

    pytest.importorskip(engine)
    folder = copied(exported, tmp_path)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(UserError, match=f"--model_file .* cannot be run by {engine}: ") as error:
        load_exported(str(folder / "model.onnx"), engine=engine)(images(1, 64))
    assert "\n" not in str(error.value)


def test_memory_that_an_engine_lacks_is_memory():
    text = "Non-zero status code: Failed to allocate memory for requested buffer of size 9"
    with pytest.raises(MemoryError, match="size 9"), onnx_engines._one_line("model.onnx", "onnxruntime"):
        raise RuntimeError(text)
