"""Training in two processes does what one process does with the same global batch."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from training import losses, run, start

import models
from utils.checkpoint import read_state
from utils.distributed import CPUSyncBatchNorm


def test_two_processes_are_one(tiny_dataset, tmp_path):
    """With batch-norm over all processes, and a rate so small that rounding is not amplified from step to step.

    (At --lr=1e-4 a difference of 3e-5 after the first step has become 3e-4 after the fifth. Mixing differs, too: a
    process pairs the images of its own part of the batch.)
    """
    torch.manual_seed(0)
    torch.save(models.build("ResNet18", class_dim=4).state_dict(), tmp_path / "start.pth")
    flags = {"model": "ResNet18", "image_shape": "3,64,64", "resize_short_size": 64, "sync_bn": True, "lr": 1e-6}
    flags |= {"num_epochs": 2, "save_step": 2, "pretrained_model": tmp_path / "start.pth"}
    outputs = [run(tiny_dataset, tmp_path / str(count), processes=count, **flags) for count in (1, 2)]
    one, two = map(losses, outputs)
    assert len(one) == len(two) == 6
    np.testing.assert_allclose(two, one, rtol=0, atol=2e-5)  # printed with five digits after the point

    # Steps are too small for the weights to show them; the momentum is what adds up the gradients.
    folders = [tmp_path / str(count) / "ResNet18" / "1" for count in (1, 2)]
    states = [read_state(folder)["training"]["optimizer"]["state"] for folder in folders]
    momenta = [torch.cat([entry["momentum_buffer"].flatten() for entry in state.values()]) for state in states]
    assert (momenta[1] - momenta[0]).norm() < 1e-3 * momenta[0].norm()
    for name, tensor in load_file(folders[0] / "weights.safetensors").items():
        torch.testing.assert_close(load_file(folders[1] / "weights.safetensors")[name], tensor, rtol=1e-4, atol=1e-6)
    # Each validation image counts once, however many processes there are.
    accuracies = [re.findall(r"test_acc1 ([\d.]+)", output) for output in outputs]
    assert accuracies[0] == accuracies[1]


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
