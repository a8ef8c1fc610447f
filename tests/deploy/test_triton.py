"""--inference_format=triton: the ONNX model, its Triton configuration, and KServe's manifest."""

from __future__ import annotations

import re

import pytest
import torch
import yaml
from exports import build, describe, images

from utils.deploy import triton
from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.network import Description


def test_a_model_of_a_repository(tmp_path):
    pytest.importorskip("onnxscript", reason="requirements-onnx.txt is not installed")
    model, folder = build("MobileNetV1_x0_25"), tmp_path / "repository" / "Mobile_Net"
    model_file = save_inference(model, describe("MobileNetV1_x0_25", 64), folder, "triton")
    assert model_file == folder / "1" / "model.onnx"
    with torch.no_grad():
        torch.testing.assert_close(
            load_exported(str(model_file))(images(2, 64)), model(images(2, 64)), atol=1e-4, rtol=0
        )

    text = (folder / "config.pbtxt").read_text()
    assert 'name: "Mobile_Net"\nplatform: "onnxruntime_onnx"\n' in text and "dynamic_batching {" in text
    assert 'name: "images" data_type: TYPE_FP32 dims: [ 3, 64, 64 ]' in text
    assert 'name: "logits" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt"' in text
    told = dict(re.findall(r'key: "(\w+)" value { string_value: "(.*)" }', text))
    assert told["image_mean"] == "0.485 0.456 0.406" and told["channel_order"] == "rgb"
    assert (folder / "labels.txt").read_text().splitlines() == [f"class {number}" for number in range(10)]
    manifest = yaml.safe_load((folder / "kserve.yaml").read_text())
    assert manifest["kind"] == "InferenceService" and manifest["metadata"]["name"] == "mobile-net"


def test_names_that_would_break_a_line(tmp_path):
    triton.write_model(tmp_path, Description("n", ["a\nb", None], [3, 2, 2], 2, 1, [0.5], [0.5]), "--x")
    assert (tmp_path / "labels.txt").read_text() == "a b\n1\n"
