"""No run is ever lost: killed, stopped or out of disk space, it goes on as if nothing had happened, to the last bit."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
from pathlib import Path

import pytest
from launch import Launcher, Running
from training import NETWORK, ROOT, assert_same_checkpoint, command_line, losses, start, wait_for

from utils.training import checkpoint
from utils.training.checkpoint import find_checkpoint, read_state

# 12 steps in 2 epochs; the average, mixing and a schedule that moves with every step are to be restored too.
RESUMABLE = {"num_epochs": 2, "batch_size": 8, "use_ema": True, "use_mixup": True, "checkpoint": "auto", "save_iter": 1}
RESUMABLE |= {"lr_strategy": "cosine_decay_warmup", "warm_up_epochs": 0.5, "reader_thread": 1}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start_here(launch: Launcher, data_dir: Path, out: Path, script: Path = ROOT / "train.py", **flags) -> Running:
    """Starts train.py, or a script that calls it, in one process."""
    out.mkdir(exist_ok=True)
    return launch.start(str(script), out, *command_line(data_dir, out, **flags))


def test_killed_again_and_again(launch, tiny_dataset, tmp_path):
    assert launch("train.py", 1, tmp_path, *command_line(tiny_dataset, tmp_path / "whole", **RESUMABLE)).code == 0
    folder = tmp_path / "killed" / NETWORK
    rng = random.Random(7)
    step = 0
    for _ in range(2):
        step = min(step + rng.randint(1, 4), 11)
        process = start_here(launch, tiny_dataset, tmp_path / "killed", **RESUMABLE)
        wait_for(process, rf"\[Pass {step // 6}, train batch {step % 6}\]")
        process.kill()  # after the line of a step: while it is saved, or in the next one
        process.communicate()
        step = read_state(find_checkpoint("auto", folder))["training"]["step"]
    result = launch("train.py", 1, tmp_path, *command_line(tiny_dataset, tmp_path / "killed", **RESUMABLE))
    output = "\n".join(result.out)
    assert result.code == 0 and "resumed from" in output and len(losses(output)) == 12 - step
    for name in ("1", "latest"):
        assert_same_checkpoint(tmp_path / "whole" / NETWORK / name, folder / name)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
def test_two_processes_one_of_them_killed(launch, tiny_dataset, tmp_path):
    """The launcher starts both again, and --checkpoint=auto goes on where they were."""
    whole = launch("train.py", 2, tmp_path, *command_line(tiny_dataset, tmp_path / "whole", **RESUMABLE))
    assert whole.codes == [0, 0], whole.err
    process = start(tiny_dataset, tmp_path / "killed", processes=2, restarts=1, **RESUMABLE)
    wait_for(process, r"\[Pass 1, train batch 1\]")
    os.kill(random.Random(7).choice(children(process.pid)), signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert output.count("resumed from") == 1
    assert_same_checkpoint(tmp_path / "whole" / NETWORK / "latest", tmp_path / "killed" / NETWORK / "latest")


@pytest.fixture
def slow_reader(tmp_path):
    """train.py as from a slow disk: it is nearly always waiting for its reader's workers."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import time, train\n"
        "from utils.errors import run_script\n"
        "from utils.reading.transforms import TrainTransform\n"
        "decode = TrainTransform.decode\n"
        "TrainTransform.decode = lambda *inputs: time.sleep(0.03) or decode(*inputs)\n"
        "run_script(train.main)\n"
    )
    return {"script": script, "reader_thread": 2, "reader_buf_size": 16}


def check_stopped(process: Running, code: int, folder: Path) -> None:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output and "--checkpoint=auto continues from there" in output
    last = [tuple(map(int, step)) for step in re.findall(r"\[Pass (\d+), train batch (\d+)\]", output)][-1:]
    state = read_state(folder / "latest")
    if last:  # the step printed last is the last one done
        assert state["training"]["step"] == last[0][0] * 3 + last[0][1] + 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_stop(launch, tiny_dataset, tmp_path, number, code):
    process = start_here(launch, tiny_dataset, tmp_path, num_epochs=1000, validate=False)
    wait_for(process, r"\[Pass 0, train batch 1\]")
    process.send_signal(number)
    check_stopped(process, code, tmp_path / NETWORK)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_its_process_group_told_to_stop(launch, tiny_dataset, tmp_path, slow_reader, number, code):
    """As by a launcher, systemd, scancel, timeout and Ctrl-C: the workers of the reader hear it too."""
    process = start_here(launch, tiny_dataset, tmp_path, num_epochs=1000, validate=False, **slow_reader)
    wait_for(process, r"\[Pass 0, train batch 1\]")
    os.killpg(process.pid, number)
    check_stopped(process, code, tmp_path / NETWORK)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
def test_two_processes_told_to_stop(launch, tiny_dataset, tmp_path, slow_reader):
    """The launcher passes the signal on; both stop after the same step, and what they saved can be resumed."""
    process = start(tiny_dataset, tmp_path, processes=2, num_epochs=1000, validate=False, **slow_reader)
    wait_for(process, r"\[Pass 0, train batch 1\]")
    workers = children(process.pid)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert "train.py: error" not in output and "--checkpoint=auto continues from there" in output
    state = read_state(find_checkpoint("auto", tmp_path / NETWORK))
    assert len(state["position"].random) == 2
    flags = {"checkpoint": "auto", "max_iter": state["training"]["step"] + 2}
    result = launch("train.py", 2, tmp_path, *command_line(tiny_dataset, tmp_path, **flags))
    assert result.codes == [0, 0] and any("resumed from" in line for line in result.out), result.err


@pytest.fixture
def in_background(tmp_path):
    """train.py as nohup, cron and a script's `&` start it: deaf to SIGINT."""
    script = tmp_path / "background.py"
    script.write_text(
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import train\n"
        "from utils.errors import run_script\n"
        "run_script(train.main)\n"
    )
    return script


def test_a_run_in_the_background_is_not_interrupted(launch, tiny_dataset, tmp_path, in_background):
    """The Ctrl-C that ends a foreground job leaves it running; SIGTERM stops it in order."""
    process = start_here(launch, tiny_dataset, tmp_path, num_epochs=1000, validate=False, script=in_background)
    wait_for(process, r"\[Pass 0, train batch 1\]")
    process.send_signal(signal.SIGINT)
    for _ in range(9):
        wait_for(process, "train batch")
    process.send_signal(signal.SIGTERM)
    check_stopped(process, 143, tmp_path / NETWORK)


def test_a_launcher_in_the_background_interrupted(tiny_dataset, tmp_path, in_background):
    """The launcher hears SIGINT all the same, passes it on, and would kill what ignores it after 30 seconds."""
    process = start(tiny_dataset, tmp_path, processes=2, num_epochs=1000, validate=False, script=in_background)
    wait_for(process, r"\[Pass 0, train batch 1\]")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "--checkpoint=auto continues from there" in output
    assert len(read_state(find_checkpoint("auto", tmp_path / NETWORK))["position"].random) == 2


def test_stopped_while_it_validates(train_here, monkeypatch, tiny_dataset, tmp_path):
    """The validation is done again when the run is resumed, and nothing else is."""
    flags = {"num_epochs": 2, "test_batch_size": 2, "use_ema": True}
    assert train_here(tiny_dataset, tmp_path / "whole", **flags).code == 0

    from utils.evaluation.metrics import Meter

    add = Meter.add

    def add_and_stop(self, loss, logits, labels, *more):
        add(self, loss, logits, labels, *more)
        if len(labels) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "add", add_and_stop)
        result = train_here(tiny_dataset, tmp_path / "stopped", **flags)
    assert result.code == 143
    assert "End pass" not in result.out
    result = train_here(tiny_dataset, tmp_path / "stopped", **flags, checkpoint="auto")
    assert result.code == 0 and len(losses(result.out)) == 3
    for name in ("0", "1", "best_model"):
        assert_same_checkpoint(tmp_path / "whole" / NETWORK / name, tmp_path / "stopped" / NETWORK / name)


def test_full_disk(train_here, monkeypatch, tiny_dataset, tmp_path):
    """What cannot be saved is a warning; earlier checkpoints stay, and the next one is tried."""
    save_weights = checkpoint.save_weights
    calls = []

    def full_once(model, path, notes):
        calls.append(path)
        if len(calls) != 2:
            return save_weights(model, path, notes)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            save_weights(model, path, notes)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(checkpoint, "save_weights", full_once)
    result = train_here(tiny_dataset, tmp_path, num_epochs=3)
    assert result.code == 0 and len(calls) == 3
    (warning,) = result.err.splitlines()
    assert "could not save" in warning and "earlier checkpoints are untouched" in warning
    folder = tmp_path / NETWORK
    assert (folder / "0").exists() and not (folder / "1").exists() and (folder / "2").exists()
    assert read_state(folder / "latest")["position"].epoch == 3

    calls.clear()
    calls.append("the first save is the one that fails")
    result = train_here(tiny_dataset, tmp_path, num_epochs=4, checkpoint="auto")
    assert result.code == 1 and "the last checkpoint could not be written" in result.err
    assert read_state(find_checkpoint("auto", folder))["position"].epoch == 3


# --------------------------------------------------------------------------------------------------- everything at once


EVERYTHING = {
    "model": "DeiT_tiny_patch16_224", "lr": 1e-3, "lr_strategy": "cosine_decay_warmup", "warm_up_epochs": 0.5,
    "min_lr": 1e-5, "optimizer": "adamw", "clip_norm": 1.0, "drop_path": 0.2, "use_ra": True, "random_erasing": 0.25,
    "use_mixup": True, "mixup_alpha": 0.8, "use_cutmix": True, "use_label_smoothing": True, "use_ema": True,
    "num_epochs": 2, "validate": False,
}  # fmt: skip


@pytest.mark.parametrize("extra", [{}, {"use_fp16": True, "accumulate_steps": 2, "with_mem_opt": True}])
def test_all_at_once_and_resumed_to_the_last_bit(train_here, tiny_dataset, tmp_path, extra):
    flags = EVERYTHING | extra
    assert train_here(tiny_dataset, tmp_path / "whole", **flags).code == 0
    assert train_here(tiny_dataset, tmp_path / "parts", **flags, max_iter=4).code == 0
    result = train_here(tiny_dataset, tmp_path / "parts", **flags, checkpoint="auto")
    assert result.code == 0 and "resumed from" in result.out
    name = EVERYTHING["model"]
    assert_same_checkpoint(tmp_path / "whole" / name / "latest", tmp_path / "parts" / name / "latest")
