"""Devices: what is said of types that a processor is slow in."""

from __future__ import annotations

import pytest
import torch

from utils import devices


@pytest.mark.parametrize(
    ("dtype", "amx", "avx512_bf16", "limit", "slow", "slow_training"),
    [
        (torch.bfloat16, True, True, "", False, False),
        (torch.bfloat16, False, True, "", False, True),
        (torch.bfloat16, False, False, "", True, True),
        (torch.bfloat16, True, True, "AVX2", True, True),
        (torch.bfloat16, True, True, "AVX512_CORE_BF16", False, True),
        (torch.float16, True, True, "", True, True),
    ],
)
def test_types_that_a_processor_is_slow_in(monkeypatch, capsys, dtype, amx, avx512_bf16, limit, slow, slow_training):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_amx_fp16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit or "DEFAULT")
    for training, expected in ((False, slow), (True, slow_training)):
        devices.note_slow_type(torch.device("cpu"), dtype, "--use_bf16", training)
        said = capsys.readouterr().err
        assert said.count("\n") == expected and ("--use_bf16: this processor has no instructions" in said) == expected
    devices.note_slow_type(torch.device("cuda"), dtype, "--use_bf16")
    devices.note_slow_type(torch.device("cpu"), None, "--use_bf16")
    assert capsys.readouterr().err == ""
