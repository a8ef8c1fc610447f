"""The server as a whole: exports that come, change and go; overload; a worker that ends; a network that fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from serving import Client, jpeg, service_of

import predict
from utils.errors import UserError
from utils.flags import parse
from utils.reading.transforms import EvalTransform
from utils.serving import decoders
from utils.serving.decoders import Decoders
from utils.serving.refusal import Refusal
from utils.serving.service import Service

IMAGE = {"content": jpeg(0), "headers": {"Content-Type": "image/jpeg"}}


def look(client: Client, service: Service) -> None:
    """Makes the server check its files until they have settled."""
    for _ in range(2):
        client._portal.call(service.repository.look)


def test_exports_come_change_and_go(export, tmp_path, capsys):
    root = tmp_path / "exports"
    shutil.copytree(export, root / "one")
    (root / "notes").mkdir()
    service = service_of(root)
    with Client(service) as client:
        before = client.post("/predict/one", **IMAGE).json()["predictions"]
        assert "no network of that name" in client.post("/predict/two", **IMAGE).json()["error"]
        shutil.copytree(export, root / "two")
        look(client, service)
        assert client.get("/health").json()["models"] == {"one": 1, "two": 1}
        assert "the networks are: one, two" in client.post("/predict", **IMAGE).json()["error"]

        params = (root / "one" / "params").read_bytes()
        (root / "one" / "params").write_bytes(params[:-4])  # as of a copy under way
        look(client, service)
        look(client, service)
        assert capsys.readouterr().err.count("warning: one cannot be loaded") == 1
        assert client.post("/predict/one", **IMAGE).json()["predictions"] == before

        old = service.repository.get("one")
        (root / "one" / "params").write_bytes(params)
        look(client, service)
        assert client.get("/health").json()["models"] == {"one": 2, "two": 1}
        assert client.post("/predict/one", **IMAGE).json()["predictions"] == before
        # Requests that started with the old one keep it.
        assert client._portal.call(service.predictions, old, [jpeg(0)], ["a"])[0].classes == before[0]["class"]

        shutil.rmtree(root / "two")
        look(client, service)
        assert client.get("/health").json()["models"] == {"one": 2}


def test_too_many_requests_and_then_again(export):
    service = service_of(export / "model", "--serve_requests=2")
    may, computes = threading.Event(), threading.Event()
    forward = service.repository.get(None).batcher._forward

    def slow(inputs):
        computes.set()
        assert may.wait(60)
        return forward(inputs)

    service.repository.get(None).batcher._forward = slow
    with Client(service) as client:
        first = client.posting("/predict", **IMAGE)
        assert computes.wait(60)
        second = client.posting("/predict", **IMAGE)
        while "in_progress 2.0" not in client.get("/metrics").text:
            pass
        third = client.post("/predict", **IMAGE)
        assert third.status_code == 429 and third.headers["Retry-After"] == "1" and "try again" in third.json()["error"]
        assert client.get("/health").status_code == 200
        may.set()
        assert first.result(60).status_code == second.result(60).status_code == 200
        assert client.post("/predict", **IMAGE).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("it is damaged"), 500, "it is damaged"),
        (MemoryError(), 503, "out of memory"),
        (KeyError(1), 500, "log"),
    ],
)
def test_a_network_that_fails(export, error, status, said):
    service = service_of(export / "model")

    def fail(_):
        raise error

    service.repository.get(None).batcher._forward = fail
    with Client(service) as client:
        answer = client.post("/predict", **IMAGE)
        assert answer.status_code == status and said in answer.json()["error"]
        assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)


def test_a_worker_that_ends_costs_the_image_that_it_had(monkeypatch, tmp_path):
    transform, begun = EvalTransform((64, 64), 64), tmp_path / "begun"

    async def ask() -> None:
        workers = Decoders(1, 1 << 20)
        try:
            expected = transform.decode(jpeg(0), "")
            np.testing.assert_array_equal(await workers(jpeg(0), transform), expected)
            os.kill(workers.processes[0], 9)  # between two images
            with pytest.raises(Refusal, match="truncated"):
                await workers(b"\xff\xd8nothing", transform)
            task = asyncio.ensure_future(workers(bytes(begun), Stopped((64, 64), 64)))
            while not begun.exists():
                await asyncio.sleep(0.01)
            waiting = asyncio.ensure_future(workers(jpeg(0), transform))
            os.kill(workers.processes[0], 9)  # with an image
            with pytest.raises(Refusal, match="crashed: send it again"):
                await task
            np.testing.assert_array_equal(await waiting, expected)
            monkeypatch.setattr(decoders, "PATIENCE", 0.05)
            with pytest.raises(Refusal, match="longer than"):
                await workers(bytes(begun), Stopped((64, 64), 64))
        finally:
            workers.close()

    asyncio.run(ask())


class Stopped(EvalTransform):
    """A transform that never ends; it records its start in a file, whose name it gets as the image."""

    def decode(self, data, path, rng=None):
        Path(data.decode()).touch()
        threading.Event().wait()


def test_a_request_that_does_not_arrive(export, monkeypatch):
    service = service_of(export / "model")
    object.__setattr__(service.limits, "seconds", 0.05)

    async def trickle():
        yield b"x"
        await asyncio.sleep(60)

    monkeypatch.setattr("utils.serving.gate.LINGER", 0.05)
    with Client(service) as client:
        answer = client.post("/predict", content=trickle())
    assert answer.status_code == 408 and "did not arrive" in answer.json()["error"]


def test_bad_starts(export, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for flags, said in (
        ([f"--model_file={tmp_path}"], "a folder without exports"),
        ([f"--model_file={tmp_path}", "--params_file=x"], "is for a single export"),
        ([f"--model_file={export}/model", "--topk=11"], "--topk 11 is more"),
        ([f"--model_file={export}/model", "--serve_host=no.such.host.invalid"], "--serve_host no.such.host"),
    ):
        args = parse("predict", [*flags, "--serve_port=0", "--reader_thread=0"])
        with pytest.raises(UserError, match=said):
            predict.serve(args, predict.choose_device(args), predict.choose_dtype(args))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--serve_port runs in a single process"):
        predict.serve(args, predict.choose_device(args), predict.choose_dtype(args))


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "utils.serving.server", None)
    args = parse("predict", ["--model_file=x", "--serve_port=0"])
    with pytest.raises(UserError, match=r"requirements-serve\.txt"):
        predict.serve(args, predict.choose_device(args), predict.choose_dtype(args))


def test_what_predict_needs_without_a_port(run_script_here, tmp_path: Path):
    with pytest.raises(UserError, match="--image_path is required, or --serve_port"):
        run_script_here(predict, model_file=tmp_path)
