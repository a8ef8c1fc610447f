"""Training in two processes does what one process does with the same global batch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from training import environment, losses, run, start

import models
from utils.distributed import CPUSyncBatchNorm


def test_two_processes_are_one(tiny_dataset, tmp_path):
    """With batch-norm over all processes, and a rate so small that rounding is not amplified from step to step.

    (At --lr=1e-4 a difference of 3e-5 after the first step has become 3e-4 after the fifth; in float64, below, it is
    none. Mixing differs, too: a process pairs the images of its own part of the batch.)
    """
    torch.manual_seed(0)
    torch.save(models.build("ResNet18", class_dim=4).state_dict(), tmp_path / "start.pth")
    flags = {"model": "ResNet18", "image_shape": "3,64,64", "resize_short_size": 64, "sync_bn": True, "lr": 1e-6}
    flags |= {"num_epochs": 2, "save_step": 2, "pretrained_model": tmp_path / "start.pth"}
    outputs = [run(tiny_dataset, tmp_path / str(count), processes=count, **flags) for count in (1, 2)]
    one, two = map(losses, outputs)
    assert len(one) == len(two) == 6
    np.testing.assert_allclose(two, one, rtol=0, atol=2e-5)  # printed with five digits after the point

    # Each validation image counts once, however many processes there are.
    accuracies = [re.findall(r"test_acc1 ([\d.]+)", output) for output in outputs]
    assert accuracies[0] == accuracies[1]


IN_FLOAT64 = """
import sys, torch, models
from torch.nn.parallel import DistributedDataParallel
from utils.distributed import process_group, rank, synchronize_batch_norm, world_size
from utils.engine import TrainStep
from utils.loss import Targets
from utils.optimizer import Schedule, build_optimizer

torch.manual_seed(0)
with process_group(torch.device("cpu")):
    model = models.build("ResNet18", class_dim=4).double()
    if world_size() > 1:
        model = synchronize_batch_norm(model, torch.device("cpu"))
    network = DistributedDataParallel(model, static_graph=True) if world_size() > 1 else model
    optimizer = build_optimizer(model, "default_decay", 0.05, 1e-4)
    step = TrainStep(model, optimizer, Schedule("default_decay", 0.05, 9, 9), network=network)
    for _ in range(2):
        images, labels = torch.randn(8, 3, 64, 64, dtype=torch.float64), torch.randint(4, (8,))
        share = slice(rank(), None, world_size())
        step(images[share], Targets(labels[share]))
    if rank() == 0:
        torch.save(model.state_dict(), sys.argv[1])
"""


def test_two_processes_take_the_same_steps_in_float64(tmp_path):
    """Where rounding does not matter parameters and running statistics agree closely, at an ordinary rate."""
    (tmp_path / "script.py").write_text(IN_FLOAT64)
    ends = []
    for count in (1, 2):
        path = tmp_path / f"{count}.pth"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        command = [sys.executable, *launcher, str(tmp_path / "script.py"), str(path)]
        subprocess.run(command, env=environment(), check=True, timeout=120)
        ends.append(torch.load(path))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-8, atol=1e-10, msg=name)


def test_what_does_not_fit_two_processes(tiny_dataset, tmp_path):
    for flags in ({"batch_size": 15}, {"test_batch_size": 3}):
        output, _ = start(tiny_dataset, tmp_path, processes=2, **flags).communicate(timeout=120)
        ((flag, value),) = flags.items()
        assert f"train.py: error: --{flag} {value} does not divide evenly over 2 processes" in output
        assert 'File "' + str(Path(__file__).parent.parent / "train.py") not in output  # no traceback of ours


@pytest.fixture
def group_of_one(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_batch_norm_of_one_process_is_pytorchs(group_of_one):
    torch.manual_seed(0)
    own, reference = CPUSyncBatchNorm(3), nn.BatchNorm2d(3)
    images = torch.randn(4, 3, 5, 5)
    inputs = [images.clone().requires_grad_() for _ in range(2)]
    for norm, x in zip((own, reference), inputs, strict=True):
        (norm(x) * torch.arange(5.0)).square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-4)
    for key, tensor in reference.state_dict().items():
        torch.testing.assert_close(own.state_dict()[key], tensor)
    torch.testing.assert_close(own.eval()(images), reference.eval()(images))
