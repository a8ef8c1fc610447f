"""The reader's worker processes: images that cannot be read, workers that fail, and how they end."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from loading import SIZE, contents, entries, evaluation, numbered_images, training

import reader
from reader import Loader, OpenCVLoader
from utils.errors import UserError
from utils.reading import workers as reader_workers
from utils.reading.dataset import open_dataset
from utils.reading.loader import available_processors
from utils.reading.transforms import EvalTransform
from utils.reading.workers import ImageRandom


@pytest.fixture
def folder(tmp_path):
    return numbered_images(tmp_path)


# ---------------------------------------------------------------------------------------------------- unreadable images


@pytest.fixture
def faulty(folder):
    """The 37 images, of which 5 are broken, each in its way."""
    whole = (folder / "val" / "0.jpg").read_bytes()
    (folder / "val" / "3.jpg").write_bytes(b"")
    (folder / "val" / "4.jpg").write_bytes(b"not an image at all")
    (folder / "val" / "10.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "val" / "20.jpg").unlink()
    (folder / "val" / "36.jpg").unlink()
    (folder / "val" / "36.jpg").mkdir()
    return folder


BROKEN = {3, 4, 10, 20, 36}


REASONS = {3: "empty", 4: "not an image", 10: "truncated", 20: "no such file", 36: "is a directory"}


def check_reasons(loader: Loader) -> None:
    assert loader.unreadable.keys() == {f"{loader.images.root}/val/{number}.jpg" for number in BROKEN}
    for number, reason in REASONS.items():
        assert reason in loader.unreadable[f"{loader.images.root}/val/{number}.jpg"]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_unreadable_images(faulty, workers):
    loader = evaluation(faulty, batch_size=2, workers=workers)
    seen = [index for batch in loader.epoch(0) for index in batch.indices.tolist()]
    assert seen == [number for number in range(37) if number not in BROKEN]
    check_reasons(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_unreadable_images(faulty, workers):
    loader = training(faulty, batch_size=37, workers=workers)
    (batch,) = loader.epoch(0)
    assert len(batch) == 37 and not BROKEN & set(batch.indices.tolist())
    assert batch.labels.tolist() == [index % 3 for index in batch.indices.tolist()]
    check_reasons(loader)
    assert contents(training(faulty, batch_size=37)) == contents(loader)


def test_training_with_a_single_readable_image(folder):
    for number in range(36):
        (folder / "val" / f"{number}.jpg").write_bytes(b"")
    (batch,) = training(folder, batch_size=37).epoch(0)
    assert set(batch.indices.tolist()) == {36}


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_nothing_readable_is_an_error(folder, workers):
    for number in range(37):
        (folder / "val" / f"{number}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"no readable image.*val/\d+\.jpg: the file is empty"):
        list(training(folder, workers=workers).epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_share_of_which_nothing_is_readable_is_no_error(folder, workers):
    """Other processes may have the images that can be read."""
    for number in range(1, 37, 2):
        (folder / "val" / f"{number}.jpg").write_bytes(b"")
    shares = [evaluation(folder, workers=workers, rank=rank, world_size=2) for rank in range(2)]
    assert [sum(len(batch) for batch in share.epoch(0)) for share in shares] == [19, 0]
    assert [len(share.unreadable) for share in shares] == [0, 18]


# ------------------------------------------------------------------------------------------------------------ processes


def test_a_worker_that_does_not_come_up_is_replaced(folder, monkeypatch):
    """As a fork does that finds a lock of the interpreter held."""
    expected = contents(training(folder))
    forks = iter([True, False])
    state = {"stuck": False}
    os.register_at_fork(
        before=lambda: state.update(stuck=next(forks, False)), after_in_child=lambda: state["stuck"] and time.sleep(600)
    )
    monkeypatch.setattr(reader_workers, "PATIENCE", 1.0)
    monkeypatch.setattr(reader_workers, "ATTEMPTS", 60)  # on a busy machine one that is not stuck may take as long
    monkeypatch.setattr(multiprocessing, "get_context", lambda: multiprocessing.context.ForkContext())
    start = time.monotonic()
    loader = training(folder, workers=1)
    assert contents(loader) == expected
    assert 1 <= time.monotonic() - start < 300
    loader.close()

    monkeypatch.setattr(reader_workers, "PATIENCE", 0.2)
    monkeypatch.setattr(reader_workers, "ATTEMPTS", 3)
    forks = iter([True] * 3)
    with pytest.raises(
        UserError, match=r"no reader worker started within 0\.2 seconds in 3 attempts: lower --reader_th"
    ):
        next(training(folder, workers=1).epoch(0))


def test_spawned_workers_share_the_list(folder, monkeypatch):
    expected = contents(training(folder))
    monkeypatch.setattr(multiprocessing, "get_context", lambda: multiprocessing.context.SpawnContext())
    loader = training(folder, workers=1)
    assert contents(loader) == expected
    assert entries(loader.images)[3] == (f"{folder}/val/3.jpg", 0)
    loader.close()


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_killed_worker_ends_the_epoch_with_an_error(folder, when):
    loader = training(folder, batch_size=1, workers=2, read_ahead_images=4)
    batches = loader.epoch(0)
    next(batches)
    if when == "during":
        next(batches)
    victims = list(loader._processes)
    os.kill(victims[0].pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"worker was killed by signal 9.*memory"):
        # The other worker may finish a whole epoch alone, if the dead one had nothing in hand.
        for _ in batches:
            pass
        for epoch in range(20):
            list(loader.epoch(epoch))
    assert time.monotonic() - started < 100
    assert not any(process.is_alive() for process in victims)
    assert len(list(loader.epoch(0))) == 37  # with new workers


def test_an_error_in_a_worker_is_shown(folder):
    loader = training(folder, workers=1)
    loader._job.transforms = (None,)
    with pytest.raises(RuntimeError, match="AttributeError"):
        list(loader.epoch(0))


class Starved(EvalTransform):
    """Finds no memory, as OpenCV reports it."""

    def decode(self, data, path, rng=None):
        error = cv2.error("no memory")
        error.code, error.err = cv2.Error.StsNoMem, "Failed to allocate 29999400003 bytes"
        raise error


@pytest.mark.parametrize("workers", [0, 1])
def test_too_little_memory_is_not_the_image_s_fault(folder, workers):
    images = open_dataset(str(folder), "val", 3)
    loader = OpenCVLoader(images, Starved(SIZE, 40), 8, training=False, workers=workers)
    with pytest.raises(MemoryError, match="Failed to allocate 29999400003 bytes"):
        list(loader.epoch(0))


class Collecting(EvalTransform):
    """Runs the garbage collector in the worker."""

    def decode(self, data, path, rng=None):
        gc.collect()
        return super().decode(data, path, rng)


def test_workers_do_not_collect_the_garbage_of_their_parent(folder, tmp_path):
    """An object with threads of its own would wait for ever for them."""

    class Owner:
        def __del__(self):
            (tmp_path / f"collected by {os.getpid()}").touch()

    gc.disable()
    try:
        owner = Owner()
        owner.cycle = owner
        del owner
        loader = OpenCVLoader(open_dataset(str(folder), "val", 3), Collecting(SIZE, 40), 8, False, workers=1)
        list(loader.epoch(0))
        assert not list(tmp_path.glob("collected*"))
        gc.collect()
        assert [path.name for path in tmp_path.glob("collected*")] == [f"collected by {os.getpid()}"]
    finally:
        gc.enable()


LOOP = """
import sys, time
import reader
loader = reader.OpenCVLoader(reader.open_dataset(sys.argv[1], "train", 3), reader.TrainTransform((32, 32)), 4, True, 2)
batches = loader.epoch(0)
next(batches)
print(*(process.pid for process in loader._processes), flush=True)
if sys.argv[2] == "exit":
    sys.exit()
if sys.argv[2] == "error":
    raise ValueError
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.parametrize(
    ("how", "to"),
    [
        ("exit", "itself"),
        ("error", "itself"),
        *((number, to) for number in (signal.SIGINT, signal.SIGTERM) for to in ("process", "group")),
        (signal.SIGKILL, "process"),
    ],
)
def test_no_worker_outlives_its_process(folder, how, to):
    script = [sys.executable, "-c", LOOP, str(folder), str(how)]
    root = os.path.dirname(os.path.abspath(reader.__file__))
    with subprocess.Popen(
        script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root, start_new_session=True
    ) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        if to != "itself":
            (os.killpg if to == "group" else os.kill)(process.pid, how)
        process.wait(100)
    assert len(workers) == min(2, available_processors())
    limit = time.monotonic() + 100
    while any(map(alive, workers)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not any(map(alive, workers))


STUCK = """
import os, sys, time
import reader
os.register_at_fork(after_in_child=lambda: time.sleep(600))
loader = reader.OpenCVLoader(reader.open_dataset(sys.argv[1], "train", 3), reader.TrainTransform((32, 32)), 4, True, 2)
os.register_at_fork(after_in_parent=lambda: print("forked", flush=True))
next(loader.epoch(0))
"""


def test_interrupted_while_a_worker_comes_up(folder):
    """multiprocessing would wait at exit for the worker that it tells to end by SIGTERM."""
    root = os.path.dirname(os.path.abspath(reader.__file__))
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=root,
    ) as process:
        assert process.stdout.readline() == "forked\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(100) == -signal.SIGINT


@pytest.mark.parametrize("context", [multiprocessing.context.ForkContext, multiprocessing.context.SpawnContext])
def test_workers_leave_signals_to_their_process(folder, monkeypatch, context):
    """From the moment that they start."""
    monkeypatch.setattr(multiprocessing, "get_context", context)
    expected = contents(training(folder))
    start = context.Process.start

    def start_and_tell(process):
        start(process)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process.pid, number)

    monkeypatch.setattr(context.Process, "start", start_and_tell)
    loader = training(folder, workers=1)
    assert contents(loader) == expected
    (worker,) = loader._processes
    os.kill(worker.pid, signal.SIGTERM)
    assert contents(loader) == expected
    loader.close()
    assert not worker.is_alive()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert not blocked & {signal.SIGTERM, signal.SIGINT}  # in this process as before


# ------------------------------------------------------------------------------------------------------- random numbers


def test_an_image_has_its_own_random_numbers():
    """By seed, epoch and index, whatever was drawn before; far more than one image takes does not reach the next."""
    numbers = ImageRandom(7)
    first = numbers.of_image(2, 5).random(1000)
    numbers.of_image(2, 6).random(3)
    np.testing.assert_array_equal(numbers.of_image(2, 5).random(1000), first)
    np.testing.assert_array_equal(ImageRandom(7).of_image(2, 5).random(1000), first)
    others = [numbers.of_image(*place).random(1000) for place in ((2, 6), (3, 5), (5, 2))]
    others.append(ImageRandom(8).of_image(2, 5).random(1000))
    assert len(np.unique(np.concatenate([first, *others]))) == 5000
