"""Models that PaddlePaddle exported, run like our own exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from paddle_programs import PPLCNET, example_files, write_example

from utils.deploy import paddle_model
from utils.deploy.exported import load_exported
from utils.deploy.network import ExportedNetwork
from utils.deploy.paddle_model import _checked_shape, _read_post, choose_output, free, in_parts, read_paddle
from utils.deploy.paddle_settings import described_input, usual_input
from utils.errors import FlagError, UserError
from utils.flags.inputs import INPUT_FLAGS
from utils.formats.inference_model import InferenceModel
from utils.formats.inference_yml import PostProcess, read_inference_yml
from utils.formats.paddle_program import Operation, Program, Variable
from utils.programs.paddle_translate import Input, Output, translate
from utils.reading.class_names import imagenet_names

FIRST_OF_WIDE = "save_infer_model/scale_0.tmp_0"


def recorded(name: str, folder: Path) -> dict[str, np.ndarray]:
    """The original's output."""
    path = folder / "expected.npz"
    path.write_bytes(example_files()[name])
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def pplcnet(tmp_path_factory):
    return write_example(PPLCNET[1], tmp_path_factory.mktemp("pplcnet") / "PPLCNet_x0_25_infer")


@pytest.fixture
def custom(tmp_path):
    return write_example("custom_net", tmp_path / "custom_net")


@pytest.fixture
def wide(tmp_path):
    return write_example("custom_wide", tmp_path / "custom_wide")


@torch.inference_mode()
def probabilities(network: ExportedNetwork, images: np.ndarray | torch.Tensor) -> np.ndarray:
    images = torch.as_tensor(images).to(network.dtype).to(memory_format=network.memory_format)
    return network(images).softmax(1).numpy()


@pytest.mark.parametrize("name", PPLCNET)
def test_pplcnet_answers_as_recorded(name, tmp_path):
    folder = write_example(name, tmp_path / "model")
    network = load_exported(str(folder), batch_size=2)
    expected = recorded("PPLCNet_x0_25/expected.npz", tmp_path)
    images = zoo.images(224)
    assert np.abs(probabilities(network, images) - expected["output"]).max() < 1e-6
    with torch.inference_mode():
        logits = network(torch.as_tensor(images)).numpy()
    assert np.abs(logits - expected["logits"]).max() < 1e-5 * np.abs(expected["logits"]).max()


def test_inference_yml_describes_the_network(pplcnet, capfd):
    network = load_exported(str(pplcnet / "inference.pdmodel"))
    about = network.description
    assert about.network == "PPLCNet_x0_25"
    assert network.topk == 5
    assert about.class_names[:2] == ["tench, Tinca tinca", "goldfish, Carassius auratus"]
    assert len(about.class_names) == 20
    assert {name: getattr(about, name) for name in INPUT_FLAGS} == {**usual_input([3, 224, 224]), "interpolation": 1}
    assert "assumed" not in "".join(capfd.readouterr())


def test_without_inference_yml_the_assumptions_are_said(custom, tmp_path, capfd):
    network = load_exported(str(custom / "model"), input_flags={"image_mean": [0.5, 0.5, 0.5]})
    expected = recorded("custom_net_expected.npz", tmp_path)
    assert np.abs(probabilities(network, expected["images"]) - expected["out0"]).max() < 1e-6
    about = network.description
    assert (about.network, about.image_shape, about.resize_short_size) == ("custom_net", [3, 32, 32], 37)
    assert about.image_mean == [0.5, 0.5, 0.5]
    assert (about.class_names, about.class_dim) == ([], 10)
    said = capfd.readouterr()
    lines = [line for line in said.err.splitlines() if "assumed" in line]
    assert len(lines) == 1 and not said.out
    assert "--image_shape=3,32,32 --resize_short_size=37 --image_std=0.229,0.224,0.225" in lines[0]
    assert "image_mean" not in lines[0]


def test_bfloat16_is_near(pplcnet):
    images = zoo.images(224)
    expected = probabilities(load_exported(str(pplcnet)), images)
    answer = probabilities(load_exported(str(pplcnet), dtype=torch.bfloat16), images)
    assert 1e-7 < np.abs(answer - expected).max() < 0.02


def test_flags_win_over_the_description(pplcnet):
    given = {"resize_short_size": 232, "channel_order": "bgr", "image_shape": [3, 224, 224]}
    about = load_exported(str(pplcnet), input_flags=given).description
    assert (about.resize_short_size, about.channel_order) == (232, "bgr")
    with pytest.raises(FlagError, match=r"takes only images of \[3, 224, 224\]"):
        load_exported(str(pplcnet), input_flags={"image_shape": [3, 192, 192]})


def test_outputs_are_chosen_by_name(wide, tmp_path):
    expected = recorded("custom_wide_expected.npz", tmp_path)
    images = torch.from_numpy(expected["images"])
    network = load_exported(str(wide), output_name=FIRST_OF_WIDE)
    assert np.abs(probabilities(network, images) - expected["out0"]).max() < 1e-6
    for number in range(4):
        network = load_exported(str(wide), output_name=f"save_infer_model/scale_{number}.tmp_0", features=True)
        rows = expected[f"out{number}"]
        assert np.abs(network.features(images).numpy() - rows.reshape(len(rows), -1)).max() < 1e-6
    with pytest.raises(FlagError, match="several possible outputs"):
        load_exported(str(wide), features=True)
    with pytest.raises(FlagError, match="--output_name nothing: the outputs of"):
        load_exported(str(wide), output_name="nothing")
    with pytest.raises(FlagError, match=r"scale_3.*: not one number per image and class"):
        load_exported(str(wide), output_name="save_infer_model/scale_3.tmp_0")


def test_only_output_of_probabilities_is_taken():
    images = Output("p", (None, 4), torch.float32, "softmax")
    others = Output("q", (None, 7), torch.float32, None), Output("f", (None, 8, 1, 1), torch.float32, None)
    assert choose_output((*others, images), None, features=False, model_file="m") == 2
    assert choose_output((*others, images), None, features=True, model_file="m") == 1
    with pytest.raises(FlagError, match=r"no output of shape \(images, classes\): f \(N, 8, 1, 1\)"):
        choose_output(others[1:], None, features=False, model_file="m")


def test_what_is_not_supported_is_named(pplcnet, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    for file in pplcnet.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = (folder / "inference.yml").read_text()
    (folder / "inference.yml").write_text(settings.replace("  Topk:\n", "  MultiLabelThreshOutput:\n"))
    with pytest.raises(UserError, match=r"PostProcess of inference.yml: MultiLabelThreshOutput.topk: unknown key"):
        load_exported(str(folder))
    several = settings.replace("  Topk:\n", "  MultiLabelThreshOutput:\n").replace("    topk: 5\n", "")
    (folder / "inference.yml").write_text(several)
    with pytest.raises(UserError, match=r"MultiLabelThreshOutput .* is for several classes .* is a softmax"):
        load_exported(str(folder))
    (folder / "inference.yml").write_text(settings.replace("size: 224", "size: 192"))
    with pytest.raises(FlagError, match=r"only images of \[3, 224, 224\], not \[3, 192, 192\]"):
        load_exported(str(folder))
    assert load_exported(str(folder), input_flags={"image_shape": [3, 224, 224]}).description.image_shape[1] == 224
    (folder / "inference.yml").write_text(settings[: settings.index("    - tench")] + "    - one\n    - two\n")
    about = load_exported(str(folder)).description
    assert (about.class_names, about.class_dim) == ([], 20)


@pytest.mark.parametrize(
    ("shape", "dtype", "shown"),
    [
        ((None, 3, 32, 32), torch.uint8, "x (N, 3, 32, 32) as uint8"),
        ((None, 32, 32, 3), torch.float32, "x (N, 32, 32, 3) as float32"),
        ((None, 1, 28, 28), torch.float32, "x (N, 1, 28, 28) as float32"),
    ],
)
def test_inputs_other_than_images(shape, dtype, shown):
    with pytest.raises(UserError) as caught:
        _checked_shape((Input("x", shape, dtype),), {}, "m")
    wanted = "its input must be images (N, 3, height, width) as float32"
    assert str(caught.value) == f"--model_file m takes {shown}; {wanted}"


def test_engines_for_other_formats_are_refused(pplcnet):
    with pytest.raises(FlagError, match=r"--use_tensorrt runs ONNX models only: convert .*utils/convert_model.py"):
        load_exported(str(pplcnet), use_tensorrt=True)
    with pytest.raises(FlagError, match="--use_compile and --engine=openvino exclude each other"):
        load_exported(str(pplcnet), engine="openvino", use_compile=True)


def test_another_engine_runs_it(custom, tmp_path, monkeypatch):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    network, ours = load_exported(str(custom), engine="onnxruntime"), load_exported(str(custom), engine="pytorch")
    assert (network.engine, ours.engine) == ("onnxruntime", "pytorch")
    assert (network.description, network.topk, network.remedy) == (ours.description, ours.topk, ours.remedy)
    images = torch.rand(3, *network.description.image_shape)
    assert np.abs(probabilities(network, images) - probabilities(ours, images)).max() < 1e-5


# ----------------------------------------------------------------------------------------------------- inference.yml


def described(*transforms: str, **given: object) -> dict[str, object]:
    text = "PreProcess:\n  transform_ops:\n" + "".join(f"  - {transform}\n" for transform in transforms)
    return described_input(read_inference_yml(text), given, "m")


def test_scale_is_part_of_mean_and_std():
    found = described(
        "ResizeImage: {size: [40, 30]}", "NormalizeImage: {scale: 1.0, mean: [51, 102, 0], std: [51, 1, 255]}"
    )
    assert found["image_mean"] == pytest.approx([0.2, 0.4, 0])
    assert found["image_std"] == pytest.approx([0.2, 1 / 255, 1])
    assert (found["image_shape"], found["resize_mode"]) == ([3, 30, 40], "exact")
    # Without NormalizeImage a network gets 0 to 255.
    assert described("ResizeImage: {size: 8}")["image_std"] == pytest.approx([1 / 255] * 3)


def test_resizing_is_that_of_the_flags():
    found = described(
        "DecodeImage: {to_rgb: False, backend: pil}",
        "ResizeImage: {resize_short: 300, interpolation: bicubic, backend: pil}",
        "CropImage: {size: 288}",
    )
    names = ("resize_short_size", "resize_mode", "interpolation", "resize_backend", "decode_backend", "channel_order")
    assert [found[name] for name in names] == [300, "short", 2, "pil", "pil", "bgr"]
    assert found["image_shape"] == [3, 288, 288]


@pytest.mark.parametrize(
    ("transforms", "what"),
    [
        (["CropImage: {size: 8}"], "does not resize images: give --resize_mode"),
        (["ResizeImage: {size: 9}", "CropImage: {size: 8}"], "crops images after resizing them to a fixed size"),
        (
            ["ResizeImage: {size: 9}", "NormalizeImage: {scale: 0.00392, mean: [123.675, 116.28, 103.53]}"],
            "with the scale 0.00392 of its inference.yml, its image_mean .* is not for pixels scaled to 0..1",
        ),
        (["ResizeImage: {size: 9, interpolation: hamming, backend: pil}"], "filter hamming.*give --interpolation"),
    ],
)
def test_preparation_without_flags_for_it(transforms, what):
    with pytest.raises(FlagError, match=what):
        described(*transforms)
    described(*transforms, resize_mode="short", interpolation=1, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def test_imagenet_names():
    names = imagenet_names()
    assert len(names) == 1000
    assert "tench" in names[0]


def test_what_is_made_of_a_sigmoid():
    several = Output("p", (None, 19), torch.float32, "sigmoid")
    assert _read_post(several, None, "m") == {"multi_label": True}
    found = _read_post(several, PostProcess("VehicleAttribute", {"color_threshold": 0.25}), "m")
    assert found == {"multi_label": True, "attributes": "vehicle", "threshold": [0.25] * 10 + [0.5] * 9}
    two = Output("p", (None, 2), torch.float32, "softmax")
    binary = PostProcess("ThreshOutput", {"threshold": 0.9, "label_0": "nobody", "label_1": "someone"})
    assert _read_post(two, binary, "m") == {"threshold": [0.9], "class_names": ["nobody", "someone"]}
    with pytest.raises(UserError, match="PostProcess ThreshOutput does not fit 19 classes"):
        _read_post(several, binary, "m")
    with pytest.raises(
        UserError, match=r"ScoreOutput gives no classes: write its numbers with predict.py --score_decimals"
    ):
        _read_post(several, PostProcess("ScoreOutput", {}), "m")


@pytest.mark.parametrize("number", [1, 4])
def test_a_program_for_a_fixed_number_of_images(number, tmp_path):
    folder = write_example(PPLCNET[0], tmp_path / "model")
    text = (folder / "inference.json").read_text()
    # The fixed number of images, which is also in the shape of the pooled features.
    (folder / "inference.json").write_text(text.replace("[-1,", f"[{number},"))
    assert read_paddle(str(folder)).images is None
    expected = recorded("PPLCNet_x0_25/expected.npz", tmp_path)["output"]
    network = load_exported(str(folder), batch_size=2)
    images = torch.as_tensor(zoo.images(224)).repeat(2, 1, 1, 1)[:3]
    assert np.abs(probabilities(network, images) - np.tile(expected, (2, 1))[:3]).max() < 1e-6


def test_what_computes_for_two_images_only():
    seen = []

    def run(images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape))
        return images.sum((2, 3)) + images.mean() * 0

    images = torch.rand(5, 3, 4, 4)
    torch.testing.assert_close(in_parts(run, 2)(images), images.sum((2, 3)))
    assert seen == [(2, 3, 4, 4)] * 3


def test_a_program_that_mixes_its_images_keeps_their_number():
    # It subtracts the average over all images, so another number of images would change the results.
    operations = (
        Operation("reduce_mean", {"X": ("x",)}, {"Out": ("mean",)}, {"dim": [0], "keep_dim": True}),
        Operation("elementwise_sub", {"X": ("x",), "Y": ("mean",)}, {"Out": ("rest",)}, {"axis": -1}),
        Operation("square", {"X": ("rest",)}, {"Out": ("square",)}, {}),
        Operation("reduce_mean", {"X": ("square",)}, {"Out": ("y",)}, {"dim": [2, 3], "keep_dim": False}),
    )
    variables = {name: Variable(name, shape, "float32") for name, shape in (("x", (2, 3, 4, 4)), ("y", (2, 3)))}
    program = Program("desc", 2_006_002, operations, variables, (), ("x",), ("y",), ("x",), ("y",))
    model = InferenceModel(program, {}, None, {})
    translation, images = free(translate(program, {}), model)
    assert images == 2
    assert translation.outputs[0].shape == (None, 3)


def test_attributes_and_remedy_reach_the_network(pplcnet, monkeypatch):
    monkeypatch.setattr(paddle_model, "_read_post", lambda *_: {"attributes": "PersonAttribute", "topk": 3})
    network = load_exported(str(pplcnet))
    assert (network.attributes, network.topk) == ("PersonAttribute", 3)
    broken = replace(network, run=lambda images: images)
    with pytest.raises(UserError, match="give the files as PaddlePaddle wrote them"):
        broken(torch.zeros(1, 3, 8, 8))
