"""The choice of an engine for a program: it follows the measurements, and engines with other logits are not used."""

from __future__ import annotations

import importlib
import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from exports import describe, images, refusal, smallest_network

from utils.deploy import engine_choice
from utils.deploy.comparing import relative_difference
from utils.deploy.engine_choice import Speed, _least_time
from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.network import Settings
from utils.errors import FlagError
from utils.flags import parse

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="requirements-onnx.txt is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An export, and its ONNX model in a cache, which takes a second to make."""
    folder, cache = tmp_path_factory.mktemp("smallest"), tmp_path_factory.mktemp("cache")
    save_inference(smallest_network(), describe("smallest", 16), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        network = load_exported(str(folder / "model"), engine="onnxruntime")
    ours = load_exported(str(folder / "model"), engine="pytorch")
    assert (network.engine, ours.engine) == ("onnxruntime", "pytorch") and network.description == ours.description
    assert relative_difference(network(images(3, 16)), ours(images(3, 16))) < 1e-5
    assert sorted(path.name for path in folder.iterdir()) == ["model", "params"]
    (onnx,) = cache.glob("engines/*/model.onnx")
    return folder / "model", onnx


@pytest.fixture
def model(made):
    return made[0]


@pytest.fixture
def cache(made, monkeypatch, tmp_path):
    """The cache folder; the engines' speeds are given, and OpenVINO is not installed."""
    found = engine_choice.importlib.util.find_spec
    installed = SimpleNamespace(find_spec=lambda name: None if name == "openvino" else found(name))
    metadata = engine_choice.importlib.metadata
    monkeypatch.setattr(engine_choice, "importlib", SimpleNamespace(util=installed, metadata=metadata))
    monkeypatch.setattr(engine_choice._Kept, "_write", lambda kept, *_: shutil.copy(made[1], kept.folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured(monkeypatch, pytorch=2.0, onnxruntime=1.0)
    return tmp_path / "engines"


def measured(monkeypatch, is_busy: bool = False, **seconds: float) -> None:
    """Makes a measurement return these seconds per batch, and whether the machine is busy."""

    def race(networks, batch_size):
        return {name: seconds[name] for name in networks}, is_busy

    monkeypatch.setattr(engine_choice, "_race", race)


WRITE = engine_choice._Kept._write


def load(model, **options):
    return load_exported(str(model), **{"images": math.inf, "measure": True, **options})


def test_what_was_measured_is_kept(model, cache, capsys, monkeypatch):
    assert load(model).engine == "onnxruntime"
    lines = capsys.readouterr()
    assert lines.out == ""
    assert "smallest: timing the engines once, to choose the fastest: pytorch, onnxruntime" in lines.err
    assert "smallest: run by onnxruntime, 2.00 times as fast here as pytorch" in lines.err

    measured(monkeypatch)  # from here on a measurement fails, as no engine has a time
    assert load(model, measure=False).engine == "onnxruntime"
    assert load(model, measure=None).engine == "onnxruntime"
    assert load(model, measure=False, batch_size=3).engine == "pytorch"  # unknown for this batch size
    assert load(model, images=0).engine == "pytorch"
    monkeypatch.setattr(engine_choice, "processor", lambda: "another one")
    assert load(model, measure=False).engine == "pytorch"


def test_what_a_busy_machine_says_is_not_kept(model, cache, capsys, monkeypatch):
    measured(monkeypatch, is_busy=True, pytorch=2.0, onnxruntime=1.0)
    assert load(model).engine == "onnxruntime"
    assert "serve this run only and are not saved" in capsys.readouterr().err
    assert load(model, measure=False).engine == "pytorch"


def test_damaged_files_are_made_again(model, cache, monkeypatch):
    load(model)
    (folder,) = cache.iterdir()
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-100])
    assert load(model, measure=False).engine == "pytorch" and not (folder / "model.onnx").exists()
    assert load(model).engine == "onnxruntime"
    for text in ("{", "[]", '{"speeds": 3}', json.dumps({"speeds": {"any": {"pytorch": [0, -1]}}})):
        (folder / "found.json").write_text(text)
        assert load(model, measure=False).engine == "pytorch"
    (folder / "found.json").write_text('{"differences": 3, "speeds": 3}')
    assert load(model).engine == "onnxruntime"


def test_no_engine_answers_otherwise(model, cache, capsys, monkeypatch):
    monkeypatch.setattr(engine_choice, "relative_difference", lambda found, expected: 2e-5)
    assert load(model).engine == "pytorch"
    assert "onnxruntime is not used: its logits differ by 2.0e-05 of the largest" in capsys.readouterr().err
    assert load(model, engine="onnxruntime").engine == "onnxruntime"  # asked for by name, as an export would be
    (folder,) = cache.iterdir()
    (folder / "found.json").unlink()
    monkeypatch.setattr(engine_choice, "relative_difference", lambda found, expected: math.nan)
    assert "differ from PyTorch's by nan" in refusal(model, engine="onnxruntime")


def test_what_is_not_installed(model, cache, capsys, monkeypatch):
    assert refusal(model, engine="openvino").startswith("openvino is not installed: pip install -r requirements-onnx")
    monkeypatch.setattr(engine_choice, "WRITERS", ("onnx", "no_such_package"))
    monkeypatch.setattr(engine_choice._Kept, "_write", WRITE)
    assert refusal(model, engine="onnxruntime").startswith("writing ONNX models needs no_such_package")
    assert load(model, measure=None).engine == "pytorch" and capsys.readouterr().err == ""
    assert load(model).engine == "pytorch" and "writing ONNX models needs no_such_package" in capsys.readouterr().err
    monkeypatch.setattr(engine_choice, "OTHERS", {})
    assert load(model).engine == "pytorch" and capsys.readouterr().err == ""


def test_a_cache_that_cannot_be(model, cache, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert " for ONNX models (" in refusal(model, engine="onnxruntime")
    assert load(model).engine == "pytorch"
    assert "smallest: run by pytorch: --engine: " in capsys.readouterr().err


def test_what_an_engine_cannot(model, cache):
    message = refusal(model, engine="onnxruntime", dtype=torch.bfloat16)
    assert message.startswith("ONNX Runtime cannot compute in bfloat16 on a CPU")
    source = SimpleNamespace(description=replace(describe("any", 16), class_names=[], class_dim=0))
    with pytest.raises(FlagError, match="--engine=onnxruntime works for class scores only"):
        engine_choice.load_by_engine(source, Settings(torch.device("cpu"), engine="onnxruntime"))
    assert not cache.exists()


def test_the_engine_that_takes_least_time_for_the_images():
    settings = Settings(torch.device("cpu"), batch_size=8)
    speeds = {"pytorch": Speed(0.1, 0.4), "onnxruntime": Speed(0.5, 0.3)}
    assert _least_time(speeds, replace(settings, images=8)) == "pytorch"
    assert _least_time(speeds, replace(settings, images=800)) == "onnxruntime"
    assert _least_time(speeds, replace(settings, images=math.inf)) == "onnxruntime"
    near = {"pytorch": Speed(0.1, 0.4), "onnxruntime": Speed(0.1, 0.39)}
    assert _least_time(near, replace(settings, images=math.inf)) == "pytorch"


def test_long_runs_are_measured(model, cache, monkeypatch):
    monkeypatch.setattr(engine_choice, "LONG", 1e9)
    assert load(model, measure=None, images=10**6).engine == "pytorch" and not cache.exists()
    monkeypatch.setattr(engine_choice, "LONG", 1e-9)
    assert load(model, measure=None, images=100).engine == "pytorch" and not cache.exists()
    assert load(model, measure=None, images=10**6).engine == "onnxruntime"


def test_as_exact_in_fewer_bits(model):
    source = SimpleNamespace(description=describe("smallest", 16), module=smallest_network)
    exact = load_exported(str(model))
    rough = replace(exact, run=lambda images: exact.run(images) * 1.01)
    rougher = replace(exact, run=lambda images: exact.run(images) * 1.03)
    assert engine_choice._is_as_exact(rough, rough, source)
    assert not engine_choice._is_as_exact(rougher, rough, source)


def test_networks_race_in_turns(model, monkeypatch):
    monkeypatch.setattr(engine_choice, "TURN", 0.001)
    monkeypatch.setattr(engine_choice, "REST", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    networks = dict.fromkeys(("pytorch", "other"), load_exported(str(model)))
    best, is_busy = engine_choice._race(networks, 2)
    assert not is_busy  # with one thread processor time is measured
    assert all(0 < seconds < 10 for seconds in best.values()) and best.keys() == networks.keys()


@pytest.mark.parametrize("given", ["auto", "pytorch", None])
def test_eval_hands_the_engine_on(monkeypatch, given):
    class Loaded(Exception):
        pass

    def load(*_, **options):
        raise Loaded(options["engine"], options["images"], options["measure"])

    monkeypatch.setattr("eval.load_exported", load)
    args = parse("eval", ["--model_file=m", *([f"--engine={given}"] if given else [])])
    with pytest.raises(Loaded) as error:
        importlib.import_module("eval").load_exported_network(args, torch.device("cpu"))
    assert error.value.args == (given or "auto", math.inf, given is not None)
