"""Compiled programs: their logits are checked against the uncompiled program, and caches are separate per processor."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from utils import devices
from utils.deploy import compiled
from utils.deploy.compiled import CompiledProgram
from utils.devices import keep_compiled_code_by_processor
from utils.errors import UserError, of_the_machine

EPS = torch.finfo(torch.float32).eps


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder for compiled code."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler(monkeypatch):
    """Makes each compilation wrong by a factor, taken from these pairs (for one image, for several) in turn."""
    factors: list[tuple[float, float]] = []
    folders = []

    def compile_(module, **options):
        single, several = factors.pop(0)
        folders.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        return lambda images: module(images) * (single if len(images) == 1 else several)

    monkeypatch.setattr(torch, "compile", compile_)
    return factors, folders


@pytest.fixture
def warnings(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(compiled, "warn", lines.append)
    return lines


def images(count: int) -> torch.Tensor:
    return torch.arange(count * 12.0).view(count, 3, 2, 2)


def test_answers_that_agree_are_taken(cache, compiler, warnings):
    factors, _ = compiler
    factors.append((1 + 1e-6, 1 - 1e-6))
    network = CompiledProgram(nn.Flatten(), "Flat", EPS)
    for count in (4, 1, 3):
        torch.testing.assert_close(network(images(count)), images(count).flatten(1))
    assert not warnings


@pytest.mark.parametrize("wrong", [(1.0, 1.01), (1.01, 1.0), (1.0, float("nan"))])
def test_wrong_code_is_compiled_anew_apart(cache, compiler, warnings, wrong):
    """Wrong code for one image, and for several: both are found before they answer. Its folder is left alone."""
    factors, folders = compiler
    factors += [wrong, (1.0, 1.0)]
    network = CompiledProgram(nn.Flatten(), "Flat", EPS)
    for count in (4, 1, 3, 1):
        assert torch.equal(network(images(count)), images(count).flatten(1))
    before, after = folders
    assert not after.startswith(str(cache)) and os.environ["TORCHINDUCTOR_CACHE_DIR"] == after
    assert len(warnings) == 1 and f"--use_compile: the code for Flat in PyTorch's cache {before} " in warnings[0]


def test_code_that_stays_wrong_never_answers(cache, compiler, warnings):
    factors, _ = compiler
    factors += [(1.0, 2.0)] * 2
    network = CompiledProgram(nn.Flatten(), "Flat", EPS)
    with pytest.raises(UserError, match="Flat gives other logits when PyTorch compiles it: leave"):
        network(images(4))


def test_logits_that_are_not_finite_are_not_compared(cache, compiler, warnings):
    """They are refused by their own line."""
    compiler[0].append((1.0, 1.0))
    assert CompiledProgram(nn.Flatten(), "Flat", EPS)(torch.full((2, 3, 1, 1), torch.inf)).isinf().all()
    assert not warnings


def test_what_the_compiler_complains_of_is_one_line():
    """In the words of the PyTorch that is installed, with pages of the C++ compiler's."""
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import CppCompileError, InductorError

    complaint = CppCompileError(["g++", "x.cpp"], "x.cpp:19:25: error: 'at::vec' has not been declared\n" * 40)
    for error in (BackendCompilerFailed(CompiledProgram, complaint, None), InductorError(complaint, None)):
        line = of_the_machine(error)
        assert line.startswith("--use_compile: PyTorch's compiler fails on this network")
        assert (
            "CppCompileError: C++ compile error" in line
            and line.endswith("leave out the flag that turns it on")
            and "\n" not in line
        )


def test_every_processor_has_its_own_code(cache, monkeypatch):
    folders = []
    for capability, isa in (("AVX512", ""), ("AVX2", ""), ("AVX2", "SSE41")):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        for _ in range(2):  # the second time as in a process that this one starts
            keep_compiled_code_by_processor()
        folders.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert len(set(folders)) == 3 and all(os.path.dirname(folder) == str(cache) for folder in folders)
    assert os.path.basename(folders[0]).startswith("avx512-") and devices.processor() == os.path.basename(folders[2])
