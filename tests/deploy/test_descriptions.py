"""Invalid descriptions of exported networks, and invalid outputs."""

import json

import pytest
import torch
from exports import describe

from utils.deploy.network import Description, ExportedNetwork
from utils.errors import UserError


@pytest.mark.parametrize(
    "change",
    [
        {"params_name": 5},
        {"params_name": "\n"},
        {"params_name": "\0"},
        {"params_sha256": ["a"]},
        {"network": "\ud800"},
        {"class_names": ["\ud800"] * 10},
        {"image_mean": "123"},
        {"image_std": {"1": 1, "2": 2, "3": 3}},
        {"format": "x" * 5_000_000},
        {"precision": None},
    ],
)
def test_what_makes_no_sense_is_one_short_line(change):
    values = json.loads(describe("MobileNetV1_x0_25", 64).to_json())
    with pytest.raises(UserError) as error:
        Description.from_json(json.dumps({**values, **change}), "model")
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_brackets_without_end():
    with pytest.raises(UserError, match="damaged"):
        Description.from_json("[" * 100_000, "model")


@pytest.mark.parametrize("output", [5, [1, 2], ZeroDivisionError("division\nby zero"), RuntimeError("x" * 5000)])
def test_what_fails_only_when_it_runs(output):
    def run(images):
        if isinstance(output, Exception):
            raise output
        return output

    description = describe("MobileNetV1_x0_25", 64)
    network = ExportedNetwork(description, "pytorch", torch.device("cpu"), torch.float32, torch.contiguous_format, run)
    for call in (network, network.features):
        with pytest.raises(UserError, match="--model_file") as error:
            call(torch.zeros(1, 3, 64, 64))
        assert len(str(error.value)) < 500 and "\n" not in str(error.value)


def test_memory_that_is_missing_is_no_fault_of_the_file():
    def run(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    description = describe("MobileNetV1_x0_25", 64)
    network = ExportedNetwork(description, "pytorch", torch.device("cpu"), torch.float32, torch.contiguous_format, run)
    with pytest.raises(torch.OutOfMemoryError):
        network(torch.zeros(1, 3, 64, 64))
