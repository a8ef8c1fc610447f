"""predict.py: the answers of the network that was exported, from the files alone."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import small_classifier
from paddle_programs import PPLCNET, write_example
from torch import nn

import infer
import predict
from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.network import Description
from utils.errors import FlagError, UserError
from utils.flags import parse
from utils.reading.build import eval_transform
from utils.reading.decode import decode
from utils.reading.normalize import normalize

REPOSITORY = Path(__file__).parents[2]

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401

    FORMATS = ["torch", "onnx"]
except ImportError:
    FORMATS = ["torch"]
TWO_FILES = {"onnx": ["--onnx_external_data=True"]}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_dataset):
    """A network exported by infer.py in every format that can be tried here: the folder, and infer.py's answers."""
    folder = tmp_path_factory.mktemp("exported")
    model = small_classifier()
    # So that the four colours of the images have different answers.
    colours = torch.tensor([[40, 40, 200], [40, 200, 40], [120, 120, 120], [200, 40, 40]]) / 60 - 2
    model.fc.bias.sub_(model(colours[:, :, None, None].expand(4, 3, 32, 40)).mean(0))
    torch.save(model.state_dict(), folder / "weights.pth")
    # Nothing here is the default, so that a setting that is not stored shows.
    flags = [
        "infer.py",
        "--model=MobileNetV1_x0_25",
        "--class_dim=4",
        "--image_shape=3,32,40",
        "--resize_short_size=44",
        "--interpolation=2",
        "--resize_mode=crop",
        "--resize_backend=pil",
        "--decode_backend=pil",
        "--channel_order=bgr",
        "--image_mean=0.4,0.5,0.6",
        "--image_std=0.2,0.3,0.4",
        f"--pretrained_model={folder}/weights.pth",
        f"--class_map_path={tiny_dataset}/label_names.txt",
        "--use_gpu=False",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for more in [[f"--data_dir={tiny_dataset}/val", "--topk=4", "--save_json_path=infer.txt"]] + [
            ["--save_inference=True", f"--inference_format={name}", *TWO_FILES.get(name, [])] for name in FORMATS
        ]:
            patch.setattr(sys, "argv", [*flags, *more])
            infer.main()
    return folder


@pytest.fixture
def run(exported, monkeypatch, capsys, tmp_path):
    """Calls predict.py with flags; returns its answers by image."""
    monkeypatch.chdir(tmp_path)

    def run_predict(*flags: str, model: str = "model", gpu_id: int | None = -1) -> dict[str, dict]:
        device = [] if gpu_id is None else [f"--gpu_id={gpu_id}"]
        argv = ["predict.py", f"--model_file={exported}/MobileNetV1_x0_25/{model}", *device, *flags]
        monkeypatch.setattr(sys, "argv", argv)
        predict.main()
        return answers(capsys.readouterr().out)

    return run_predict


def answers(text: str) -> dict[str, dict]:
    lines = [line.partition("\t") for line in text.splitlines()]
    return {name: json.loads(answer) for name, tab, answer in lines if tab}


def assert_same(found: dict[str, dict], expected: dict[str, dict], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, answer in expected.items():
        ours = dict(zip(found[name]["class"], found[name]["score"], strict=True))
        theirs = dict(zip(answer["class"], answer["score"], strict=True))
        assert ours == pytest.approx(theirs, abs=tolerance)
        assert found[name]["class"][0] == answer["class"][0]
        assert found[name]["class_name"][0] == answer["class_name"][0]


def distance(found: dict[str, dict], expected: dict[str, dict]) -> float:
    """How far scores are from those expected, as a share of how these differ from image to image: 0 if they are equal,
    1 for answers that do not depend on the image."""
    ours, theirs = (
        torch.tensor([[score for _, score in sorted(zip(one["class"], one["score"], strict=True))] for one in answers])
        for answers in ([found[name] for name in expected], expected.values())
    )
    return ((ours - theirs).square().mean() / (theirs - theirs.mean(0)).square().mean()).sqrt().item()


@pytest.mark.parametrize("inference_format", FORMATS)
def test_the_answers_are_those_of_infer(run, exported, tiny_dataset, inference_format):
    model = {"torch": "model", "onnx": "model.onnx"}[inference_format]
    found = run(f"--image_path={tiny_dataset}/val", "--topk=4", "--batch_size=3", model=model)
    expected = answers((exported / "infer.txt").read_text())
    assert len(expected) == 16 and len({answer["class"][0] for answer in expected.values()}) > 1
    assert_same(found, expected)


@pytest.fixture
def run_paddle(monkeypatch, capsys, tmp_path):
    """Calls predict.py for models that PaddlePaddle exported; returns what it prints, and the folder of models."""

    def run_predict(name: str, *flags: str) -> str:
        write_example(name, tmp_path / name)
        monkeypatch.setattr(sys, "argv", ["predict.py", f"--model_file={tmp_path / name}", "--gpu_id=-1", *flags])
        predict.main()
        return capsys.readouterr().out

    return run_predict


def test_a_model_that_paddlepaddle_exported(run_paddle, tiny_dataset, tmp_path, monkeypatch):
    images = f"--image_path={tiny_dataset}/val"
    found = answers(run_paddle(PPLCNET[0], images))
    assert len(found) == 16
    assert {len(answer["class"]) for answer in found.values()} == {5}  # topk of inference.yml
    network = load_exported(str(tmp_path / PPLCNET[0]))
    about = network.description
    pixels = eval_transform(about)(decode((tiny_dataset / "val/red/00.jpg").read_bytes(), "x"))
    scores = network(normalize(torch.from_numpy(pixels)[None], about.image_mean, about.image_std)).softmax(1)[0]
    assert found["red/00.jpg"]["score"][0] == pytest.approx(scores.max().item(), abs=1e-6)
    assert found["red/00.jpg"]["class_name"][0] == about.class_names[int(scores.argmax())]
    other = answers(run_paddle(PPLCNET[0], images, "--topk=1", "--image_std=0.5,0.5,0.5"))
    assert {len(answer["class"]) for answer in other.values()} == {1}
    assert other["red/00.jpg"]["score"] != found["red/00.jpg"]["score"][:1]


def test_an_output_that_is_no_classes(run_paddle, tiny_dataset, tmp_path):
    images, name = f"--image_path={tiny_dataset}/val/red", "--output_name=save_infer_model/scale_1.tmp_0"
    printed = run_paddle("custom_wide", images, name, f"--features_path={tmp_path}/x.npy")
    names = (tmp_path / "x.npy.txt").read_text().split()
    assert (np.load(tmp_path / "x.npy").shape, len(names), answers(printed)) == ((4, 3), 4, {})
    with pytest.raises(FlagError, match=r"ending in \.npy"):
        run_paddle("custom_wide", images, name, "--features_path=x.txt")
    answered = answers(run_paddle("custom_wide", images))
    assert all(0 < answer["score"][0] < 1 for answer in answered.values())


def test_scores_in_place_of_classes(run_paddle, tiny_dataset, tmp_path):
    images, name = f"--image_path={tiny_dataset}/val/red", "--output_name=save_infer_model/scale_1.tmp_0"
    run_paddle("custom_wide", images, name, f"--features_path={tmp_path}/x.npy")
    found = answers(run_paddle("custom_wide", images, name, "--score_decimals=3", f"--save_json_path={tmp_path}/x"))
    expected = dict(zip((tmp_path / "x.npy.txt").read_text().split(), np.load(tmp_path / "x.npy"), strict=True))
    assert found.keys() == expected.keys()
    for image, answer in found.items():
        assert answer == {"score": [round(value, 3) for value in expected[image].tolist()]}
    assert "4 results kept" in run_paddle(
        "custom_wide", images, name, "--score_decimals=3", f"--save_json_path={tmp_path}/x", "--resume=True"
    )
    with pytest.raises(FlagError, match="--features_path and --score_decimals both write"):
        run_paddle("custom_wide", images, "--score_decimals=3", "--features_path=x.npy")


def test_flags_of_exported_models_with_others(run, tiny_dataset):
    image = f"--image_path={tiny_dataset}/val/red/00.jpg"
    with pytest.raises(FlagError, match="--features_path or --score_decimals is for models that PaddlePaddle exported"):
        run(image, "--features_path=x.npy")
    with pytest.raises(FlagError, match="--output_name is for models that PaddlePaddle exported"):
        run(image, "--output_name=x")
    with pytest.raises(
        FlagError, match=r"takes only images of .*, not \[3, 96, 96\]: leave the flag for their size out"
    ):
        run(image, "--image_shape=3,96,96")
    assert run(image) != run(image, "--image_mean=0.1,0.1,0.1")


def test_only_an_image_and_a_model_are_needed_and_no_models_folder(exported, tiny_dataset, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(REPOSITORY / "utils", elsewhere / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    for script in ("predict.py", "reader.py"):
        shutil.copy(REPOSITORY / script, elsewhere)
    command = [sys.executable, "predict.py", f"--model_file={exported}/MobileNetV1_x0_25/model"]
    command += [f"--params_file={exported}/MobileNetV1_x0_25/params", f"--image_path={tiny_dataset}/val/red/02.jpg"]
    run = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    expected = answers((exported / "infer.txt").read_text())["red/02.jpg"]
    first = {key: values[:1] for key, values in expected.items()}
    assert_same(answers(run.stdout), {"02.jpg": first})


def test_results_file_and_other_names(run, tiny_dataset, tmp_path):
    (tmp_path / "names.txt").write_text("0 zero\n1 one\n2 two\n3 three\n")
    flags = [f"--image_path={tiny_dataset}/val/*/00.jpg", "--class_map_path=names.txt", "--save_json_path=out/p.txt"]
    found = run(*flags)
    assert len(found) == 4
    assert all(
        answer["class_name"] == [["zero", "one", "two", "three"][answer["class"][0]]] for answer in found.values()
    )
    assert answers((tmp_path / "out/p.txt").read_text()) == found
    assert run(*flags, "--resume=True") == {}


def test_several_labels(run, tiny_dataset):
    """The sigmoids of all classes that reach their thresholds, best first."""
    flags = [f"--image_path={tiny_dataset}/val/*/00.jpg", "--multi_label=True"]
    everything = run(*flags, "--threshold=0")
    assert all(sorted(answer["class"]) == [0, 1, 2, 3] for answer in everything.values())
    assert all(answer["score"] == sorted(answer["score"], reverse=True) for answer in everything.values())
    for name, answer in run(*flags, "--threshold=1,0,1,0").items():
        kept = [number for number in everything[name]["class"] if number in (1, 3)]
        assert answer["class"] == kept


# Three times what the rounding to 8 and to 11 binary digits makes here, 0.086 and 0.015.
@pytest.mark.parametrize(("flag", "bar"), [("--use_bf16=True", 0.25), ("--use_fp16=True", 0.05)])
def test_reduced_precision(run, exported, tiny_dataset, flag, bar):
    expected = answers((exported / "infer.txt").read_text())
    found = run(f"--image_path={tiny_dataset}/val", "--topk=4", flag)
    assert 0 < distance(found, expected) < bar


def test_gpu_memory_is_limited_only_on_request(monkeypatch):
    limits, current = [], []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(device.index))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=8000 * 2**20))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *limit: limits.append(limit))
    for flags in ([], ["--gpu_id=1", "--gpu_mem=2000"], ["--gpu_mem=9000"]):
        predict.choose_device(parse("predict", ["--model_file=x", "--image_path=x", *flags]))
    assert limits == [(0.25, torch.device("cuda", 1)), (1.0, torch.device("cuda", 0))]
    assert current == [0, 1, 0]  # which the reader takes


def test_scores_that_are_not_finite(run, tiny_dataset, tmp_path):
    """Half precision ends at 65504."""
    description = Description("Large", ["a", "b"], [3, 32, 32], 32, 1, [0.0] * 3, [1.0] * 3)
    model = nn.Sequential(nn.Conv2d(3, 2, 32), nn.Flatten())
    nn.init.constant_(model[0].weight, 1000.0)
    save_inference(model.eval().requires_grad_(False), description, tmp_path / "large")
    flags = [f"--image_path={tiny_dataset}/val/red/00.jpg", f"--model_file={tmp_path}/large/model"]
    run(*flags)
    with pytest.raises(UserError, match=r"00.jpg: the network's scores are not finite numbers: leave out --use_fp16"):
        run(*flags, "--use_fp16=True")


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    """The flags for a network that is compiled in seconds."""
    folder = tmp_path_factory.mktemp("smallest")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    description = Description("Smallest", list("abcd"), [3, 32, 32], 32, 1, [0.5] * 3, [0.25] * 3)
    save_inference(model.eval().requires_grad_(False), description, folder)
    return [f"--model_file={folder}/model", "--topk=4"]


needs_compiler = pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler")


@needs_compiler
def test_compiled(run, smallest, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    image = f"--image_path={tiny_dataset}/val/*/00.jpg"
    assert_same(run(*smallest, image, "--use_compile=True"), run(*smallest, image))


@pytest.mark.full
@needs_compiler
def test_compiled_here_and_on_a_lesser_processor(run, smallest, tiny_dataset, tmp_path, monkeypatch):
    """With the same folder of compiled code. (tests/deploy/test_compiled.py has the parts of it.)"""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    image = f"--image_path={tiny_dataset}/val/*/00.jpg"
    expected = run(*smallest, image)
    assert_same(run(*smallest, image, "--use_compile=True"), expected)

    command = [sys.executable, str(REPOSITORY / "predict.py"), *smallest, image, "--use_compile=True", "--gpu_id=-1"]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    lesser = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (lesser.returncode, lesser.stderr) == (0, "")
    assert_same(answers(lesser.stdout), expected)


def test_compiled_without_a_compiler(smallest, tiny_dataset, tmp_path):
    command = [sys.executable, str(REPOSITORY / "predict.py"), *smallest, "--use_compile=True", "--gpu_id=-1"]
    command += [f"--image_path={tiny_dataset}/val/red/00.jpg"]
    environment = {**os.environ, "CXX": str(tmp_path / "g++"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.count("\n") == 1 and "--use_compile" in run.stderr and "install gcc and g++" in run.stderr


def test_too_little_memory_names_flags_of_its_own(tiny_dataset, monkeypatch, capsys):
    def load_exported(*arguments, **options):
        raise MemoryError("9 GB")

    monkeypatch.setattr("utils.deploy.answering.load_exported", load_exported)
    monkeypatch.setattr(
        sys, "argv", ["predict.py", "--model_file=x", f"--image_path={tiny_dataset}/val", "--gpu_id=-1"]
    )
    with pytest.raises(SystemExit, match="1"):
        runpy.run_path(str(REPOSITORY / "predict.py"), run_name="__main__")
    line = "predict.py: error: out of memory: lower --batch_size, or raise --gpu_mem if it was given (9 GB)\n"
    assert capsys.readouterr().err == line


def test_bad_flags(run, tiny_dataset):
    image = f"--image_path={tiny_dataset}/val/red/00.jpg"
    with pytest.raises(FlagError, match="--topk 5"):
        run(image, "--topk=5")
    with pytest.raises(FlagError, match="exclude each other"):
        run(image, "--use_fp16=True", "--use_bf16=True")
    with pytest.raises(UserError, match="nowhere"):
        run("--image_path=nowhere.jpg")
    with pytest.raises(FlagError, match="usable GPU"):
        run(image, "--gpu_id=99")


def test_no_images(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image"):
        run("--image_path=empty")


def test_bad_files_are_one_line_and_an_exit_code(exported, tiny_dataset, tmp_path):
    """Of predict.py itself: no traceback."""
    model = exported / "MobileNetV1_x0_25"
    (tmp_path / "model").write_bytes((model / "model").read_bytes()[:5000])
    command = [sys.executable, str(REPOSITORY / "predict.py"), f"--image_path={tiny_dataset}/val/red/00.jpg"]
    command += [f"--model_file={tmp_path}/model", f"--params_file={model}/params"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.count("\n") == 1 and "damaged" in run.stderr


# ------------------------------------------------------------------------------------------------------- ONNX

needs_onnx = pytest.mark.skipif("onnx" not in FORMATS, reason="needs requirements-onnx.txt")


@needs_onnx
@pytest.mark.parametrize("flags", [[], ["--use_bf16=True"]])
def test_openvino(run, exported, tiny_dataset, flags):
    pytest.importorskip("openvino")
    expected = answers((exported / "infer.txt").read_text())
    flags = [f"--image_path={tiny_dataset}/val", "--topk=4", "--engine=openvino", *flags]
    found = run(*flags, model="model.onnx")
    if "--use_bf16=True" not in flags:
        assert_same(found, expected)
    assert distance(found, expected) < 0.25  # of bfloat16's rounding, as above


@needs_onnx
def test_onnx_files_may_be_renamed(run, exported, tiny_dataset, tmp_path, monkeypatch):
    source = exported / "MobileNetV1_x0_25"
    shutil.copy(source / "model.onnx", exported / "MobileNetV1_x0_25/other")
    shutil.copy(source / "model.onnx.data", tmp_path / "weights.bin")
    image = f"--image_path={tiny_dataset}/val/red/00.jpg"
    assert run(image, f"--params_file={tmp_path}/weights.bin", model="other") == run(image, model="model.onnx")


@needs_onnx
@pytest.mark.parametrize("damage", ["no weights", "short weights", "other weights", "short model", "flipped model"])
def test_damaged_onnx_files(run, exported, tiny_dataset, tmp_path, damage):
    source = exported / "MobileNetV1_x0_25"
    model, data = (source / "model.onnx").read_bytes(), (source / "model.onnx.data").read_bytes()
    if damage == "short weights":
        data = data[:-10]
    elif damage == "other weights":
        data = data[:-4] + b"\0\0\0\0"
    elif damage == "short model":
        model = model[: len(model) // 2]
    elif damage == "flipped model":
        # In the graph, where a number becomes another; what that does is the engine's to say.
        model = model.replace(b"Conv", b"Cnov")
    (tmp_path / "model.onnx").write_bytes(model)
    if damage != "no weights":
        (tmp_path / "model.onnx.data").write_bytes(data)
    with pytest.raises(UserError) as error:
        run(f"--image_path={tiny_dataset}/val/red/00.jpg", f"--model_file={tmp_path}/model.onnx")
    assert "\n" not in str(error.value)


@needs_onnx
def test_an_onnx_model_of_another_origin(run, tiny_dataset, tmp_path):
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 32, 32])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 32, 32])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [result])), tmp_path / "x.onnx")
    with pytest.raises(UserError, match="no description"):
        run(f"--image_path={tiny_dataset}/val/red/00.jpg", f"--model_file={tmp_path}/x.onnx")


@needs_onnx
def test_what_an_onnx_model_cannot(run, tiny_dataset):
    image = f"--image_path={tiny_dataset}/val/red/00.jpg"
    with pytest.raises(FlagError, match="--inference_format=torch"):
        run(image, "--use_compile=True", model="model.onnx")
    with pytest.raises(FlagError, match="GPU"):
        run(image, "--use_tensorrt=True", model="model.onnx")
    with pytest.raises(FlagError, match="bfloat16"):
        run(image, "--use_bf16=True", "--engine=onnxruntime", model="model.onnx")


@needs_onnx
@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_a_gpu_that_the_engine_does_not_use(run, exported, tiny_dataset, monkeypatch, engine):
    """On a machine with a GPU and the packages of requirements-onnx.txt."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    elif "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the ONNX Runtime for GPUs is installed")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    flags = [f"--image_path={tiny_dataset}/val", "--topk=4", f"--engine={engine}"]
    warnings = []
    monkeypatch.setattr("utils.deploy.onnx_engines.warn", warnings.append)
    assert_same(run(*flags, model="model.onnx", gpu_id=None), answers((exported / "infer.txt").read_text()))
    assert len(warnings) == 1 and warnings[0].startswith("running on the CPU: ")
    with pytest.raises(UserError, match="; to use the CPU, give --gpu_id=-1"):
        run(*flags, model="model.onnx", gpu_id=0)
