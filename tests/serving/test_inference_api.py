"""The Open Inference Protocol: metadata, tensors in JSON and binary, classification, and refusals."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving import Client, jpeg, service_of
from torch import Tensor

from utils.serving.service import Service

IMAGES = [jpeg(seed) for seed in range(2)]
INFER = "/v2/models/tiny/infer"
HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def service(export: Path) -> Service:
    return service_of(export / "model", "--serve_images=4")


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service) as client:
        yield client


@pytest.fixture(scope="module")
def pixels(service: Service) -> np.ndarray:
    transform = service.repository.get(None).transform
    return np.stack([transform.decode(image, "") for image in IMAGES])


@pytest.fixture(scope="module")
def logits(service: Service, pixels: np.ndarray) -> Tensor:
    served = service.repository.get(None)
    return served.network(served.classifier.prepare(torch.from_numpy(pixels)))


def tensor(name: str, datatype: str, shape: list[int], data: Any = None, size: int | None = None) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    return {**about, "data": data} if size is None else {**about, "parameters": {"binary_data_size": size}}


def ask(client: Client, inputs: Any, binary: bytes = b"", **more: Any):
    text = json.dumps({"inputs": inputs, **more}).encode()
    headers = {HEADER: str(len(text))} if binary else {}
    return client.post(INFER, content=text + binary, headers=headers)


def test_what_is_known_of_server_and_network(client):
    assert "binary_tensor_data" in client.get("/v2").json()["extensions"]
    assert client.get("/v2/health/live").status_code == client.get("/v2/health/ready").status_code == 200
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        about = client.get(path).json()
        assert (about["name"], about["versions"]) == ("tiny", ["1"])
        assert about["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}
        assert client.get(f"{path}/ready").json()["ready"] is True
    assert client.get("/v2/models/tiny/versions/2").status_code == 404
    assert client.get("/v2/models/nope/ready").status_code == 404
    assert client.post("/v2/repository/index").json()[0]["name"] == "tiny"


def test_every_input_in_json(client, service, pixels, logits):
    prepare = service.repository.get(None).classifier.prepare
    normalized = prepare(torch.from_numpy(pixels)).contiguous().numpy()
    files = [base64.b64encode(image).decode() for image in IMAGES]
    for given in (
        tensor("images", "BYTES", [2], files),
        tensor("images", "BYTES", [2, 1], [[file] for file in files]),
        tensor("pixels", "UINT8", list(pixels.shape), pixels.tolist()),
        tensor("input", "FP32", list(normalized.shape), normalized.flatten().tolist()),
    ):
        answer = ask(client, [given], id="7").json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "7")
        (output,) = answer["outputs"]
        assert (output["name"], output["shape"]) == ("probabilities", [2, 10])
        np.testing.assert_allclose(output["data"], logits.softmax(1).flatten(), atol=1e-5)


def test_binary_tensors(client, pixels, logits):
    files = b"".join(struct.pack("<I", len(image)) + image for image in IMAGES)
    for given, data in (
        (tensor("images", "BYTES", [2], size=len(files)), files),
        (tensor("pixels", "UINT8", list(pixels.shape), size=pixels.nbytes), pixels.tobytes()),
    ):
        outputs = [
            {"name": "logits", "parameters": {"binary_data": True}},
            {"name": "probabilities", "parameters": {"binary_data": True, "classification": 2}},
        ]
        answer = ask(client, [given], data, outputs=outputs)
        length = int(answer.headers[HEADER])
        first, second = json.loads(answer.content[:length])["outputs"]
        size = first["parameters"]["binary_data_size"]
        rows = np.frombuffer(answer.content[length : length + size], "<f4").reshape(2, 10)
        np.testing.assert_allclose(rows, logits, atol=1e-4)
        words = answer.content[length + size :]
        assert second["shape"] == [2, 2] and len(words) == second["parameters"]["binary_data_size"]
        (size,) = struct.unpack_from("<I", words)
        score, number, name = words[4 : 4 + size].decode().split(":")
        best = int(logits[0].argmax())
        assert (int(number), name) == (best, f"class {best}")
        assert float(score) == pytest.approx(logits[0].softmax(0).max().item(), abs=1e-5)


FLOATS = [1, 3, 64, 64]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, "one tensor"),
        ([tensor("image", "BYTES", [1], ["x"])], "name or datatype"),
        ([tensor("input", "FP64", FLOATS, [0])], "name or datatype"),
        ([tensor("input", "FP32", [-1], [0])], "must be a list of lengths"),
        ([tensor("input", "FP32", [0, 3, 64, 64], [])], "no image"),
        ([tensor("input", "FP32", [5, 3, 64, 64], [])], "5 images"),
        ([tensor("input", "FP32", FLOATS, [0])], "1 values"),
        ([tensor("input", "FP32", FLOATS, ["x"])], "must be an array of numbers"),
        ([tensor("input", "FP32", [1, 3, 1, 1], [0, 1, 2])], "takes float32 of shape"),
        ([tensor("input", "FP32", FLOATS, [1e300] * 12288)], "not finite"),
        ([tensor("pixels", "UINT8", [1, 64, 64, 3], [256] * 12288)], "between 0 and 255"),
        ([tensor("pixels", "UINT8", [1, 64, 64, 3], size=5)], "binary_data_size"),
        ([tensor("images", "BYTES", [2], ["aGVsbG8="])], "there are 1"),
        ([tensor("images", "BYTES", [1], "x")], "must be a list of files"),
        ([tensor("images", "BYTES", [1], ["aGVsbG8="])], "image 0: not an image"),
    ],
)
def test_bad_tensors_are_one_sentence(client, inputs, said):
    answer = ask(client, inputs)
    assert answer.status_code in (400, 413) and said in answer.json()["error"]


def test_other_refusals(client):
    cut_short = tensor("images", "BYTES", [1], size=5)
    assert "within an element" in ask(client, [cut_short], struct.pack("<I", 9) + b"x").json()["error"]
    assert "not a length" in client.post(INFER, content=b"{}", headers={HEADER: "9"}).json()["error"]
    assert client.post(INFER, content=b"{}", headers={"Content-Encoding": "gzip"}).status_code == 415
    good = tensor("images", "BYTES", [1], [base64.b64encode(IMAGES[0]).decode()])
    for outputs in (
        [{"name": "x"}],
        "x",
        {},
        [{"name": "logits", "parameters": {"classification": -1}}],
        [{"name": "logits", "parameters": [None]}],
    ):
        assert ask(client, [good], outputs=outputs).status_code == 400
    assert ask(client, [good], id=7).status_code == 400
