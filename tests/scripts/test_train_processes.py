"""Training in two processes does what one process does with the same global batch."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import Launcher
from safetensors.torch import load_file
from training import NETWORK, ROOT, command_line, losses, start

import models


def trained(launch: Launcher, processes: int, data_dir: Path, out: Path, **flags: object) -> str:
    """What train.py prints in so many processes, which has to end well."""
    result = launch("train.py", processes, out.parent, *command_line(data_dir, out, use_gpu=False, **flags))
    assert result.codes == [0] * processes, result.err
    return "\n".join(result.out)


def test_two_processes_are_one(launch, tiny_dataset, tmp_path):
    """With batch norm over all processes, and a rate so small that rounding is not amplified from step to step.

    (At --lr=1e-4 a difference of 3e-5 after the first step has become 3e-4 after the fifth; in float64, below, it is
    none. Mixing differs, too: a process pairs the images of its own part of the batch.)
    """
    torch.manual_seed(0)
    torch.save(models.build("ResNet18", class_dim=4).state_dict(), tmp_path / "start.pth")
    flags = {"model": "ResNet18", "image_shape": "3,64,64", "resize_short_size": 64, "sync_bn": True, "lr": 1e-6}
    flags |= {"pretrained_model": tmp_path / "start.pth"}
    outputs = [trained(launch, count, tiny_dataset, tmp_path / str(count), **flags) for count in (1, 2)]
    one, two = map(losses, outputs)
    assert len(one) == len(two) == 3
    np.testing.assert_allclose(two, one, rtol=0, atol=2e-5)  # printed with five digits after the point

    # Each validation image counts once, however many processes there are.
    accuracies = [re.findall(r"test_acc1 ([\d.]+)", output) for output in outputs]
    assert accuracies[0] == accuracies[1]


@pytest.mark.parametrize(
    "more", [{}, {"accumulate_steps": 2}, {"accumulate_steps": 2, "js": True}], ids=["whole", "in parts", "js in parts"]
)
def test_side_classifiers_in_two_processes(launch, tiny_dataset, tmp_path, more):
    """GoogLeNet: its side classifiers train with it, on labels and from a teacher."""
    torch.manual_seed(0)
    model = models.build("GoogLeNet", class_dim=4)
    torch.save(model.state_dict(), tmp_path / "start.pth")
    flags = {"model": "GoogLeNet", "image_shape": "3,96,96", "resize_short_size": 96, "batch_size": 8, "max_iter": 3}
    flags |= {"validate": False, "pretrained_model": tmp_path / "start.pth", "l2_decay": 0} | more
    if flags.pop("js", False):
        torch.save(models.build(NETWORK, class_dim=4).state_dict(), tmp_path / "teacher.pth")
        flags |= {"use_distill": True, "distill_loss": "js"}
        flags |= {"teacher_model": NETWORK, "teacher_pretrained_model": tmp_path / "teacher.pth"}
    output = trained(launch, 2, tiny_dataset, tmp_path / "out", **flags)
    assert len(losses(output)) == 3 and np.isfinite(losses(output)).all()
    after = load_file(tmp_path / "out" / "GoogLeNet" / "latest" / "weights.safetensors")
    assert [name for name, before in model.named_parameters() if torch.equal(after[name], before)] == []


IN_FLOAT64 = """
import sys, torch, models
from torch.nn.parallel import DistributedDataParallel
from utils.processes import process_group, rank, world_size
from utils.training.sync_batch_norm import synchronize_batch_norm
from utils.training.step import TrainStep
from utils.training.loss import Targets
from utils.training.optimizer import build_optimizer
from utils.training.schedule import Schedule

ends = {}
with process_group(torch.device("cpu")):
    for clip_norm in (0.0, 0.5):
        torch.manual_seed(0)
        model = models.build("ResNet18", class_dim=4).double()
        if world_size() > 1:
            synchronize_batch_norm(model, torch.device("cpu"))
        network = DistributedDataParallel(model, static_graph=True) if world_size() > 1 else model
        optimizer = build_optimizer(model, "default_decay", 0.05, 1e-4)
        schedule = Schedule("default_decay", 0.05, 9, 9)
        step = TrainStep(model, optimizer, schedule, network=network, clip_norm=clip_norm)
        for _ in range(2):
            images, labels = torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.randint(4, (8,))
            share = slice(rank(), None, world_size())
            step(images[share], Targets(labels[share]))
        ends[clip_norm] = model.state_dict()
    if rank() == 0:
        torch.save(ends, sys.argv[1])
"""


def test_two_processes_take_the_same_steps_in_float64(launch, tmp_path):
    """Where rounding does not matter parameters and running statistics agree closely, at an ordinary rate.

    With clipping, too: its norm is that of the gradient over all processes.
    """
    (tmp_path / "script.py").write_text(IN_FLOAT64)
    ends = []
    for count in (1, 2):
        path = tmp_path / f"{count}.pth"
        assert launch(str(tmp_path / "script.py"), count, tmp_path, str(path)).codes == [0] * count
        ends.append(torch.load(path))
    one, two = ends
    for clip_norm, state in one.items():
        for name, tensor in state.items():
            torch.testing.assert_close(two[clip_norm][name], tensor, rtol=1e-8, atol=1e-10, msg=f"{clip_norm} {name}")
    assert (one[0.5]["fc.weight"] - one[0.0]["fc.weight"]).abs().max() > 1e-3  # it does clip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"test_batch_size": 3}, "--test_batch_size 3 does not divide evenly over 2 processes"),
        ({"bach_size": 16}, "unknown flag --bach_size: did you mean --batch_size?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_error_of_all_processes_is_one_line(tiny_dataset, tmp_path, flags, message):
    process = start(tiny_dataset, tmp_path / "out", processes=2, **flags)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert re.findall(r"^train\.py: error: (.*)", output, re.MULTILINE) == [message]
    assert 'File "' + str(Path(__file__).parents[2] / "train.py") not in output  # no traceback of ours
    assert not (tmp_path / "out").exists()


COUNTED = """
import contextlib, os, threading, time, train

def name(number):
    with contextlib.suppress(OSError):  # it has ended since it was listed
        return open(f"/proc/self/task/{number}/comm").read().strip()

try:
    train.main()
finally:
    # The kernel wakes who joins a thread a moment before it takes that thread off the list.
    patience = time.monotonic() + 10
    while len(numbers := os.listdir("/proc/self/task")) > threading.active_count() and time.monotonic() < patience:
        time.sleep(0.05)
    names = [name(number) for number in numbers]
    print(f"process {os.environ['RANK']}: {len(names) - threading.active_count()} threads not Python's, of {names}")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="threads are counted in /proc")
def test_the_group_ends_before_the_interpreter(launch, tiny_dataset, tmp_path):
    """No thread of gloo's is left when main returns: one that ends with the interpreter may abort the process."""
    (tmp_path / "counted.py").write_text(COUNTED)
    flags = {"accumulate_steps": 2, "use_ema": True, "sync_bn": True, "max_iter": 2, "validate": False}
    script = str(tmp_path / "counted.py")
    result = launch(script, 2, tmp_path, *command_line(tiny_dataset, tmp_path / "out", use_gpu=False, **flags))
    assert result.codes == [0, 0], result.err
    counts = re.findall(r"process (\d): (-?\d+) threads not Python's", "\n".join(result.out))
    assert sorted(counts) == [("0", "0"), ("1", "0")], result.out


# ------------------------------------------------------------------------------------------- what the processes share


@pytest.mark.parametrize("processes", [1, 3, 4])
def test_fewer_validation_images_than_processes(launch, data, tmp_path, processes):
    """One that has none takes part in everything; what cannot be read is reported once."""
    lines = (data / "val_list.txt").read_text().splitlines(keepends=True)
    (data / "val_list.txt").write_text("".join(lines[:2]))
    (data / lines[0].split()[0]).write_bytes(b"")
    flags = {"batch_size": 12, "test_batch_size": 12, "use_ema": True, "use_gpu": False}
    result = launch("train.py", processes, tmp_path, *command_line(data, tmp_path / "out", **flags))
    assert result.code == 0, result.err
    (end,) = [line for line in result.out if line.startswith("[End pass 0]")]
    assert re.search(r"test_loss [\d.]+, .*test_ema_loss [\d.]+", end)
    (warning,) = [line for line in result.err if line.startswith("warning: ")]
    assert "1 unreadable image file was left out" in warning


def test_evaluation_of_fewer_images_than_processes(launch, data, tmp_path):
    """The figures of one process."""
    lines = (data / "val_list.txt").read_text().splitlines(keepends=True)
    (data / "val_list.txt").write_text("".join(lines[:2]))
    torch.manual_seed(0)
    torch.save(models.build(NETWORK, class_dim=4).state_dict(), tmp_path / "start.pth")
    flags = [f"--data_dir={data}", f"--model={NETWORK}", "--class_dim=4", "--image_shape=3,32,32", "--batch_size=12"]
    flags += [f"--pretrained_model={tmp_path}/start.pth", "--use_gpu=False", "--reader_thread=0"]
    ends = []
    for processes in (1, 2, 3, 4):
        result = launch("eval.py", processes, tmp_path, *flags)
        assert result.code == 0, result.err
        ends.append(result.out[-1])
    assert ends[0].startswith("Test_loss ") and set(ends) == {ends[0]}


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_hosts_with_other_lists(launch, data, tmp_path, script):
    """As many images, and others: every process has a data set of its own."""
    for name in ("0", "1"):
        (tmp_path / name).symlink_to(data)
    (tmp_path / "1").unlink()
    (tmp_path / "1").mkdir()
    for name in ("train", "val"):
        (tmp_path / "1" / name).symlink_to(data / name)
        lines = (data / f"{name}_list.txt").read_text().splitlines(keepends=True)
        (tmp_path / "1" / f"{name}_list.txt").write_text("".join(reversed(lines)))
    (tmp_path / script).write_text(
        "import os, runpy, sys\n"
        "sys.argv.append(f'--data_dir={os.environ[\"RANK\"]}')\n"
        f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
    )
    flags = command_line(Path("."), tmp_path / "out", use_gpu=False)
    if script == "eval.py":
        torch.save(models.build(NETWORK, class_dim=4).state_dict(), tmp_path / "start.pth")
        flags = [f"--model={NETWORK}", "--class_dim=4", "--image_shape=3,32,32", "--use_gpu=False"]
        flags += [f"--pretrained_model={tmp_path}/start.pth"]
    result = launch(str(tmp_path / script), 2, tmp_path, *flags)
    assert result.code == 1
    (line,) = [line for line in result.err if not line.startswith("warning: ")]
    assert re.search(r"error: the processes disagree: --data_dir is '\d+ images with the checksum \w+", line)
    assert not (tmp_path / "out").exists()
