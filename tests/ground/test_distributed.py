"""Several processes: meeting, ending together, agreeing, stopping; batch norm over all of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from training import environment

import models
from models.names import l2_overrides, paddleclas_names, published_names
from utils import processes
from utils.errors import UserError
from utils.processes import StopSignal, broadcast_object, check_agreement, gather_dict, process_group, rank, world_size
from utils.training.optimizer import build_optimizer
from utils.training.sync_batch_norm import (
    CPUSyncBatchNorm1d,
    CPUSyncBatchNorm2d,
    _CPUSyncBatchNorm,
    synchronize_batch_norm,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR expected"),
        ({"MASTER_PORT": None}, "MASTER_PORT expected"),
        ({"MASTER_PORT": "x"}, "invalid literal"),
        ({"RANK": None}, "RANK expected"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
        ({"MASTER_PORT": "in use"}, "address already in use"),
    ],
    ids=str,
)
def test_processes_that_cannot_meet(monkeypatch, changes, message):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} | changes
        if settings["MASTER_PORT"] == "in use":
            settings["MASTER_PORT"] = str(taken.getsockname()[1])
        for name, value in settings.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=re.escape(message)) as caught, process_group(torch.device("cpu")):
            pass
    assert "python -m torch.distributed.run" in str(caught.value) and "\n" not in str(caught.value)


FAILING = """
import atexit, errno, os, signal, sys, time, torch
import torch.distributed as dist
from utils.processes import process_group, rank
from utils.errors import UserError, run_script

# As on GPUs, while another process is in the middle of an operation.
dist.destroy_process_group = lambda: time.sleep(300)
atexit.register(time.sleep, 300)

def main():
    with process_group(torch.device("cpu")):
        dist.barrier()
        if rank() == 1:
            time.sleep(0.5)  # the other one waits in the middle of an operation
            if sys.argv[1] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {
                "user": UserError("1 fails", exit_code=2),
                "bug": ValueError("1 has a bug"),
                "disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.jpg"),
                "memory": MemoryError("1 needs more"),
                "pipe": BrokenPipeError(),  # as of `| head`
                "ctrl-c": KeyboardInterrupt(),
            }[sys.argv[1]]
        dist.all_reduce(torch.zeros(1))

run_script(main)
"""


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("bug", "ValueError: 1 has a bug"),
        ("killed", "failing.py: error: another process of this run is gone"),
    ],
)
def test_one_process_fails_under_the_launcher(tmp_path, how, line):
    """It says why, once; the other one ends with it and says nothing of the operation that it was in."""
    (tmp_path / "failing.py").write_text(FAILING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["--monitor_interval=1", str(tmp_path / "failing.py"), how]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr.count(line) == 1
    assert result.stderr.count("failing.py: error: ") == (how != "bug")
    assert ('failing.py", line' in result.stderr) == (how == "bug")
    assert "gloo" not in result.stderr.lower()
    assert {"bug": "exitcode  : 1", "killed": "Signal 9 (SIGKILL)"}[how] in result.stderr


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("user", 2, "failing.py: error: 1 fails"),
        ("disk", 1, "failing.py: error: a.jpg: no space left on device"),
        ("memory", 1, "failing.py: error: out of memory: lower --batch_size, or --image_shape (1 needs more)"),
        ("killed", -9, "failing.py: error: another process of this run is gone"),
        ("pipe", 141, None),
        ("ctrl-c", 130, "failing.py: interrupted"),
    ],
)
def test_one_process_fails(launch, tmp_path, how, code, line):
    (tmp_path / "failing.py").write_text(FAILING)
    result = launch(str(tmp_path / "failing.py"), 2, tmp_path, how)
    assert result.codes[1] == code and result.codes[0] not in (0, -9)
    assert len(result.err) == (how != "pipe")
    assert line is None or result.err[0].startswith(line)


# ---------------------------------------------------------------------------------------------------- one process alone


def test_without_a_launcher_a_process_agrees_with_itself():
    with process_group(torch.device("cpu")):
        assert (rank(), world_size()) == (0, 1)
        assert gather_dict({"a.jpg": "empty"}) == {"a.jpg": "empty"}
        assert broadcast_object("x") == "x"
        check_agreement({"lr": 0.1})


def test_processes_with_other_flags_disagree(monkeypatch):
    monkeypatch.setattr(processes, "gather_objects", lambda values: [values, {**values, "lr": 0.2}])
    check_agreement({"model": "ResNet50"})
    with pytest.raises(UserError, match=r"--lr is 0\.1 in process 0, 0\.2 in process 1"):
        check_agreement({"model": "ResNet50", "lr": 0.1})


def test_a_signal_is_noted_and_its_handler_restored():
    """The second Ctrl-C counts only when it is not the launcher's copy of the first."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert stop.poll() == stop.agree() == 0
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.poll() == stop.agree() == stop.received == signal.SIGINT
        stop._since -= processes.PATIENCE
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.fixture
def group_of_one(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "reference", "shape"),
    [
        (CPUSyncBatchNorm2d, nn.BatchNorm2d, (4, 3, 5, 5)),
        (CPUSyncBatchNorm1d, nn.BatchNorm1d, (4, 3, 5)),
        (CPUSyncBatchNorm1d, nn.BatchNorm1d, (6, 5)),
    ],
)
def test_batch_norm_of_one_process_is_pytorchs(group_of_one, kind, reference, shape):
    torch.manual_seed(0)
    own, reference = kind(shape[1]), reference(shape[1])
    images = torch.randn(shape)
    inputs = [images.clone().requires_grad_() for _ in range(2)]
    for norm, x in zip((own, reference), inputs, strict=True):
        (norm(x) * torch.arange(5.0)).square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-4)
    for key, tensor in reference.state_dict().items():
        torch.testing.assert_close(own.state_dict()[key], tensor)
    torch.testing.assert_close(own.eval()(images), reference.eval()(images))


def test_batch_norm_of_half_precision_adds_up_in_float32(group_of_one):
    own, reference = CPUSyncBatchNorm2d(3), nn.BatchNorm2d(3)
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16() + 5
    assert own(images).dtype == torch.bfloat16
    reference(images.float())
    for key, tensor in reference.state_dict().items():
        torch.testing.assert_close(own.state_dict()[key], tensor)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("name", "names"),
    [("PPLCNet_x0_25", published_names), ("MobileNetV1_x0_25", published_names), ("LeViT_128S", paddleclas_names)],
)
def test_a_network_with_synchronized_batch_norm_trains_as_before(name, names, device):
    """The same groups of parameters for the optimizer, published names and logits; every batch norm takes part."""
    model = models.build(name, class_dim=5).eval()
    images = torch.randn(2, 3, *[models.input_config(name).image_size] * 2)

    def says():
        groups = [
            (group["weight_decay"], [id(parameter) for parameter in group["params"]])
            for group in build_optimizer(model, "default_decay", 0.1, 1e-4).param_groups
        ]
        return groups, l2_overrides(model), names(model), list(model.state_dict())

    with torch.inference_mode():
        before, logits = says(), model(images)
        norms = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        synchronize_batch_norm(model, torch.device(device))
        assert says() == before
        torch.testing.assert_close(model(images), logits, rtol=0, atol=0)
    kinds = (_CPUSyncBatchNorm, nn.SyncBatchNorm)
    assert sum(isinstance(module, kinds[device == "cuda"]) for module in model.modules()) == norms > 0
