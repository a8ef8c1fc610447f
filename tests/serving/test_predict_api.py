"""POST /predict: hub serving's JSON, forms and plain images, with predict.py's answers; and refusals."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from serving import Client, jpeg, service_of

import predict as predict_script
from utils.serving.service import Service

IMAGES = [jpeg(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def service(export: Path) -> Service:
    service = service_of(export / "model", "--serve_images=3", "--serve_megabytes=1")
    service.decoders._largest = 10000  # --max_image_pixels applies to a whole process
    return service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service) as client:
        yield client


def in_base64(*images: bytes) -> list[str]:
    return [base64.b64encode(image).decode() for image in images]


def refused(answer, status: int) -> str:
    """The sentence of a refusal."""
    assert answer.status_code == status, answer.text
    sentence = answer.json()["error"]
    assert sentence and "\n" not in sentence
    return sentence


def test_the_answers_are_those_of_predict(export, client, tmp_path, run_script_here):
    for number, image in enumerate(IMAGES):
        (tmp_path / f"{number}.jpg").write_bytes(image)
    results = tmp_path / "results.txt"
    run_script_here(
        predict_script, model_file=export / "model", image_path=tmp_path / "*.jpg", topk=4, save_json_path=results
    )
    expected = [json.loads(line.partition("\t")[2]) for line in results.read_text().splitlines()]

    form = client.post("/predict/tiny?topk=4", files=[("a", (f"{n}.jpg", image)) for n, image in enumerate(IMAGES)])
    plain = client.post("/predict?topk=4", content=IMAGES[0], headers={"Content-Type": "image/jpeg"})
    hub = client.post("/predict/clas_system", json={"images": in_base64(*IMAGES), "top_k": 4})
    found = form.json()["predictions"]
    assert [each.pop("image") for each in found] == ["0.jpg", "1.jpg", "2.jpg"]
    assert hub.json()["status"] == "000" and hub.json()["results"]["elapse"] > 0
    for got, hub_form, wanted in zip(found, hub.json()["results"]["prediction"], expected, strict=True):
        assert got["class"] == wanted["class"] == hub_form["class_ids"] == hub_form["clas_ids"]
        assert got["class_name"] == wanted["class_name"] == hub_form["label_names"]
        np.testing.assert_allclose(got["score"], wanted["score"], atol=1e-6)
        np.testing.assert_allclose(hub_form["scores"], wanted["score"], atol=1e-6)
    assert plain.json()["predictions"][0]["class"] == expected[0]["class"]
    of_address = client.post("/predict?topk=4", json={"images": in_base64(IMAGES[0])})
    assert of_address.json()["results"]["prediction"][0]["class_ids"] == expected[0]["class"]
    assert "topk '0'" in refused(client.post("/predict?topk=0", json={"images": in_base64(IMAGES[0])}), 400)


def test_an_array_that_paddleclas_client_has_prepared(service, client):
    served = service.repository.get(None)
    pixels = np.stack([served.transform.decode(image, "") for image in IMAGES])
    prepared = served.classifier.prepare(torch.from_numpy(pixels)).contiguous().numpy()
    expected = client.post("/predict", json={"images": in_base64(*IMAGES)}).json()["results"]["prediction"]
    for array in (pixels, prepared, prepared.astype(np.float64)):
        about = {"shape": array.shape, "dtype": str(array.dtype)}
        body = {"images": in_base64(array.tobytes())[0], "revert_params": about}
        found = client.post("/predict/clas_system", content=json.dumps(body)).json()["results"]["prediction"]
        assert [each["class_ids"] for each in found] == [each["class_ids"] for each in expected]
        np.testing.assert_allclose([each["scores"] for each in found], [e["scores"] for e in expected], atol=1e-5)


IMAGE = {"images": in_base64(IMAGES[0])}


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b"{", "not JSON"),
        (400, b"[" * 100000, "not JSON"),
        (400, b"[]", "must be a JSON object"),
        (400, {}, "images must be a list"),
        (400, {"images": [1]}, "images must be a list"),
        (400, {"images": []}, "no image"),
        (400, {"images": ["%%%"]}, "image 0: is not in base64"),
        (400, {"images": [*IMAGE["images"], "aGVsbG8="]}, "image 1: not an image"),
        (413, {"images": IMAGE["images"] * 4}, "4 images, but may have at most 3"),
        (413, {"images": in_base64(jpeg(0, 101, 100))}, "image 0: has 100 x 101 pixels"),
        (400, {**IMAGE, "top_k": 11}, "tiny has 10 classes"),
        (400, {**IMAGE, "top_k": "many"}, "must be an integer"),
        (400, {**IMAGE, "top_k": 0}, "at least 1"),
        (400, {"images": "AAAA", "revert_params": {"shape": [1, 3, 64, 64], "dtype": "object"}}, "revert_params"),
        (400, {"images": "AAAA", "revert_params": {"shape": [1, 3, 64, 64], "dtype": "float32"}}, "3 bytes"),
        (400, {"images": "AAAA", "revert_params": {"shape": [1, 1, 1, 3], "dtype": "uint8"}}, "takes uint8 of shape"),
        (400, {"images": "AAB+fwAA", "revert_params": {"shape": [1, 3, 1, 1], "dtype": "float16"}}, "takes float16"),
    ],
)
def test_bad_requests_are_one_sentence(client, status, body, said):
    answer = client.post("/predict/tiny", content=body if isinstance(body, bytes) else json.dumps(body))
    assert said in refused(answer, status)
    assert answer.json()["msg"] and answer.json()["status"] != "000"


def test_other_refusals(client):
    assert "the networks are: tiny" in refused(client.post("/predict/nope", json={}), 404)
    assert "openapi.json" in refused(client.get("/nope"), 404)
    assert refused(client.get("/predict/tiny"), 405)
    assert "multipart" in refused(client.post("/predict", content=b"x", headers={"Content-Type": "text/html"}), 415)
    assert "more than 3 images" in refused(client.post("/predict", files=[("a", IMAGES[0])] * 4), 413)
    assert "serve_megabytes" in refused(client.post("/predict", content=bytes((1 << 20) + 1)), 413)

    async def parts() -> AsyncIterator[bytes]:  # of unknown length
        for _ in range(3):
            yield bytes(1 << 19)

    assert "serve_megabytes" in refused(client.post("/predict", content=parts()), 413)
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert "form cannot be read" in refused(client.post("/predict", content=b"--y", headers=form), 400)
    empty = client.post("/predict", files=[("a", ("empty.jpg", b""))])
    assert refused(empty, 400) == "empty.jpg: the file is empty"


def test_the_page_the_description_and_the_figures(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html") and "default-src 'none'" in str(page.headers)
    assert not {"http://", "https://", "src=", "@import"} & {word for word in page.text.split() if "://" in word}
    assert client.get("/health").json() == {"status": "ok", "models": {"tiny": 1}}
    about = client.get("/openapi.json").json()
    assert {"/predict/{model}", "/v2/models/{model}/infer"} <= set(about["paths"])
    assert about["components"]["parameters"]["model"]["schema"]["enum"] == ["tiny"]
    assert client.post("/predict", json=IMAGE).status_code == 200  # other tests' requests may be another process's
    figures = client.get("/metrics").text
    assert 'serve_requests_total{route="predict",status="200"}' in figures
    assert 'serve_batch_images_bucket{le="1.0",model="tiny"}' in figures
    assert 'serve_queue_images{model="tiny"} 0.0' in figures


def test_a_key(service):
    with Client(service, "secret") as client:
        assert client.get("/health").status_code == client.get("/").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            assert "key" in refused(client.post("/predict", json=IMAGE, headers=headers), 401)
        assert refused(client.get("/metrics"), 401)
        for headers in ({"Authorization": "Bearer secret"}, {"X-API-Key": "secret"}):
            assert client.post("/predict", json=IMAGE, headers=headers).status_code == 200


def test_several_labels_by_their_thresholds(export):
    service = service_of(export / "model", "--multi_label=True", "--threshold=0.4")
    with Client(service) as client:
        (found,) = client.post("/predict", files=[("a", IMAGES[0])]).json()["predictions"]
    logits = service.repository.get(None).network(
        service.repository.get(None).classifier.prepare(
            torch.from_numpy(service.repository.get(None).transform.decode(IMAGES[0], ""))[None]
        )
    )
    assert sorted(found["class"]) == (logits[0].sigmoid() >= 0.4).nonzero()[:, 0].tolist()
