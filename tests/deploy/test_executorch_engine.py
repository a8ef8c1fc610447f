"""Programs of ExecuTorch: what is read of them, and what is refused, before ExecuTorch is given anything."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch
from exports import describe, refusal

from utils.deploy.executorch_engine import BLANK, is_executorch, read_description, seal
from utils.deploy.exported import load_exported
from utils.errors import UserError

HEAD = b"\x3c\0\0\0ET12eh00"


def program(description=None) -> bytes:
    """Bytes such as ExecuTorch writes, with a description."""
    about = replace(description or describe("Smallest", 16), params_sha256=BLANK)
    text = about.to_json().encode()
    return seal(b"".join((HEAD, b"before", len(text).to_bytes(4, "little"), text, b"\0weights")), about)


@pytest.fixture
def model_file(tmp_path):
    file = tmp_path / "model.pte"
    file.write_bytes(program())
    return file


def test_a_program_is_known_by_its_first_bytes():
    assert is_executorch(program()[:8])
    assert not any(map(is_executorch, (b"", b"PK\3\4\x14\0\0\0", b"\0\0\0\0ETxx", b"\x08\x08\x12\x07pytorch")))


def test_its_description_is_read():
    about = read_description(program(), "model.pte")
    assert replace(about, params_sha256="") == describe("Smallest", 16) and about.params_sha256 != BLANK


@pytest.mark.parametrize("place", [2, 15, -1])
def test_a_change_is_noticed(model_file, place):
    content = bytearray(model_file.read_bytes())
    content[place] ^= 1
    model_file.write_bytes(content)
    assert "is damaged: it is not what was exported; export the network again" in refusal(model_file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:200], "its description cannot be read"),
        (lambda content: content.replace(b'"format": 1', b'"format": 7'), "has format 7"),
        (lambda content: content.replace(b'{\n "network": ', b'{\n "nettwork": '), "has no description"),
        (lambda content: HEAD, "has no description"),
    ],
)
def test_other_programs(model_file, change, message):
    model_file.write_bytes(change(model_file.read_bytes()))
    assert message in refusal(model_file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params_file": "params"}, "--params_file params: the weights are in --model_file"),
        ({"engine": "onnxruntime"}, "--engine=onnxruntime: ExecuTorch alone runs"),
        ({"use_compile": True}, "--use_compile: ExecuTorch alone runs"),
        ({"use_tensorrt": True}, "--use_tensorrt: ExecuTorch alone runs"),
        ({"dtype": torch.float16}, "--use_fp16: "),
        ({"dtype": torch.bfloat16}, "--use_bf16: "),
        ({"device": "cuda", "cpu_flag": "--gpu_id=-1"}, "for the CPU give --gpu_id=-1"),
    ],
)
def test_what_a_program_cannot(model_file, options, message):
    with pytest.raises(UserError) as error:
        load_exported(str(model_file), **options)
    assert error.value.exit_code == 2 and message in str(error.value)


def test_without_the_package(model_file, monkeypatch):
    def without(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", without)
    assert refusal(model_file) == "executorch is not installed: pip install -r requirements-mobile.txt"


def test_a_gpu_that_nobody_asked_for(model_file, capsys, monkeypatch):
    monkeypatch.setattr("utils.deploy.executorch_engine._load_program", lambda program, model_file: None)
    assert load_exported(str(model_file), device="cuda", may_use_cpu=True).device.type == "cpu"
    assert "running on the CPU: programs of ExecuTorch" in capsys.readouterr().err
