"""Exported networks, loaded: any batch size, any precision; damaged and foreign files are refused."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import pytest
import torch
from exports import build, copied, describe, export_tiny, images, refusal

from utils.deploy.comparing import relative_difference
from utils.deploy.export import save_inference
from utils.deploy.exported import Description, load_exported
from utils.errors import UserError
from utils.flags.inputs import UNNOTED


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small network exported: its folder and the network."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, export_tiny(folder)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_images(tiny, count):
    folder, model = tiny
    exported = load_exported(str(folder / "model"), batch_size=count)
    with torch.inference_mode():
        expected = model(images(count, 64))
    assert relative_difference(exported(images(count, 64)), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_close(tiny, dtype):
    folder, model = tiny
    exported = load_exported(str(folder / "model"), dtype=dtype)
    logits = exported(images(4, 64).to(exported.dtype))
    assert logits.dtype == torch.float32
    with torch.inference_mode():
        difference = relative_difference(logits, model(images(4, 64)))
    assert 1e-6 < difference < 0.05


def test_the_description_comes_back(tiny):
    folder, _ = tiny
    description = load_exported(str(folder / "model")).description
    wanted = describe("MobileNetV1_x0_25", 64)
    for field in ("network", "class_names", "image_shape", "resize_short_size", "interpolation", "image_mean"):
        assert getattr(description, field) == getattr(wanted, field)


def test_a_description_from_before_the_flags_on_pixels():
    """An old description keeps its old meaning: everything with OpenCV."""
    description = replace(describe("DeiT_tiny_patch16_224", 64), resize_mode="pad", channel_order="bgr")
    assert Description.from_json(description.to_json(), "x") == description
    values = json.loads(description.to_json())
    for name in UNNOTED:
        del values[name]
    old = Description.from_json(json.dumps(values), "x")
    assert {name: getattr(old, name) for name in UNNOTED} == UNNOTED
    with pytest.raises(UserError, match="its description cannot be read"):
        Description.from_json(json.dumps(values | {"resize_backend": "x"}), "x")


# ------------------------------------------------------------------------------------------------------------ bad files


def test_missing_files(tiny, tmp_path):
    folder, _ = tiny
    assert "no such file" in refusal(tmp_path / "model")
    copy = copied(folder, tmp_path)
    (copy / "params").unlink()
    assert "no such file" in refusal(copy / "model")


def test_a_folder_for_its_file(tiny, tmp_path):
    folder, _ = tiny
    assert refusal(folder).endswith(f"is a folder: give its file {folder / 'model'}")
    assert refusal(tmp_path).endswith("is a folder: give the model of an export, such as NAME/model or NAME/model.onnx")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files(tiny, tmp_path, share):
    folder, _ = tiny
    copy = copied(folder, tmp_path)
    for name in ("params", "model"):
        data = (folder / name).read_bytes()
        (copy / name).write_bytes(data[: int(len(data) * share)])
        message = refusal(copy / "model")
        assert f"copy/{name}" in message
        assert "damaged" in message or "cut short" in message


def test_a_changed_byte_of_the_weights(tiny, tmp_path):
    folder, _ = tiny
    copy = copied(folder, tmp_path)
    data = bytearray((folder / "params").read_bytes())
    data[-100] ^= 1
    (copy / "params").write_bytes(data)
    assert "damaged" in refusal(copy / "model")


def test_files_that_do_not_belong_together(tiny, tmp_path):
    folder, _ = tiny
    save_inference(build("MobileNetV1_x0_25", classes=12), describe("MobileNetV1_x0_25", 64, 12), tmp_path)
    assert "does not belong" in refusal(folder / "model", tmp_path / "params") or "cut short" in refusal(
        folder / "model", tmp_path / "params"
    )
    assert "another model" in refusal(tmp_path / "model", folder / "params")


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 and nothing else", b"\x08\x07\xff\xff", b"not a model at all", bytes(64)]
)
def test_other_files(tmp_path, data):
    (tmp_path / "model").write_bytes(data)
    assert "model_file" in refusal(tmp_path / "model")


def test_another_archive(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "model")
    assert "not a program" in refusal(tmp_path / "model")


def test_another_version_of_the_description(tiny, tmp_path):
    folder, _ = tiny
    copy = copied(folder, tmp_path)
    with zipfile.ZipFile(folder / "model") as archive, zipfile.ZipFile(copy / "model", "w") as target:
        for name in archive.namelist():
            target.writestr(name, archive.read(name).replace(b'"format": 1', b'"format": 7'))
    assert "format 7" in refusal(copy / "model")


def test_engines_that_cannot_run_it(tiny):
    folder, _ = tiny
    both = refusal(folder / "model", engine="onnxruntime", use_compile=True)
    assert both.startswith("--use_compile and --engine=onnxruntime exclude each other")
    assert "--inference_format=onnx" in refusal(folder / "model", use_tensorrt=True)
