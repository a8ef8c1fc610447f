"""reader.py: the loader, its order and its memory."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest
import torch
from loading import SIZE, contents, evaluation, numbered_images, save_picture, training

from utils.errors import FlagError, UserError
from utils.flags import parse
from utils.reading.build import share_of_batch, training_images, validation_images
from utils.reading.decode import decode
from utils.reading.loader import Batch, Loader, available_processors
from utils.reading.transforms import EvalTransform


@pytest.fixture
def folder(tmp_path):
    return numbered_images(tmp_path)


def test_batches_are_the_same_for_any_number_of_workers(folder):
    expected = contents(training(folder, seed=3), 5)
    assert [len(labels) for _, labels, _ in expected] == [8, 8, 8, 8]
    for workers in (1, 2):
        loader = training(folder, workers=workers, seed=3)
        assert contents(loader, 5) == expected
        loader.close()
        assert contents(loader, 5) == expected  # and after a restart of the workers
    assert contents(training(folder, seed=4), 5) != expected
    assert contents(training(folder, seed=3), 6) != expected


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_resumes_at_any_step(folder, workers):
    loader = training(folder, batch_size=4, workers=workers)
    whole = contents(loader, 2)
    for step in (0, 1, 5, len(loader)):
        assert contents(loader, 2, start_step=step) == whole[step:]


def test_training_order(folder):
    """Shuffled, no image twice in an epoch, a full last batch, another order each epoch."""
    loader = training(folder)
    assert len(loader) == 4
    orders = []
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        indices = torch.cat([batch.indices for batch in batches]).tolist()
        assert len(indices) == len(set(indices)) == 32
        assert torch.cat([batch.labels for batch in batches]).tolist() == [index % 3 for index in indices]
        orders.append(indices)
    assert orders[0] != orders[1] != sorted(orders[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_images_left_over_make_a_smaller_batch(folder, workers):
    loader = training(folder, workers=workers, drop_last=False)
    sizes = [len(batch) for batch in loader.epoch(0)]
    assert len(loader) == len(sizes) == 5 and sizes == [8, 8, 8, 8, 5]
    indices = torch.cat([batch.indices for batch in loader.epoch(1)]).tolist()
    assert sorted(indices) == list(range(37))
    assert contents(loader, 1, 4) == contents(loader, 1)[4:]
    shares = [training(folder, 4, 0, drop_last=False, rank=rank, world_size=2) for rank in range(2)]
    both = [torch.cat([batch.indices for batch in share.epoch(1)]).tolist() for share in shares]
    assert [len(part) for part in both] == [19, 19] and set(both[0] + both[1]) == set(range(37))
    assert len(training(folder, 64, 0, drop_last=False)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_images_come_again_with_other_crops(folder, workers):
    """DeiT's: three times in a row, spread over the processes, in an epoch that is no longer."""
    loader = training(folder, 4, workers, repeats=3)
    batches = list(loader.epoch(1))
    indices = torch.cat([batch.indices for batch in batches]).tolist()
    assert len(loader) == 9 and len(indices) == 36
    assert all(len({*indices[start : start + 3]}) == 1 for start in range(0, 36, 3)) and len({*indices}) == 12
    assert torch.cat([batch.labels for batch in batches]).tolist() == [index % 3 for index in indices]
    pixels = torch.cat([batch.images for batch in batches])
    assert not torch.equal(pixels[0], pixels[1]) and not torch.equal(pixels[1], pixels[2])
    assert contents(loader, 1, 3) == contents(loader, 1)[3:]


def test_training_in_the_order_of_the_list(folder):
    loader = training(folder, shuffle=False)
    assert torch.cat([batch.indices for batch in loader.epoch(3)]).tolist() == list(range(32))


def test_lists_elsewhere(folder, tmp_path):
    """Of other names, with a validation folder of its own; and a list that is not there."""
    for part, count in (("train", 9), ("val", 3)):
        lines = (folder / f"{part}_list.txt").read_text().splitlines(keepends=True)
        (tmp_path / f"{part}.lst").write_text("".join(lines[:count]))
    flags = [f"--{part}_list={tmp_path}/{part}.lst" for part in ("train", "val")]
    args = parse("train", [f"--data_dir={folder}", f"--val_dir={folder}", "--class_dim=3", *flags])
    assert (len(training_images(args)), len(validation_images(args))) == (9, 3)
    args = parse("train", [f"--data_dir={folder}", "--train_list=nowhere.txt"])
    with pytest.raises(UserError, match=r"--train_list nowhere\.txt: no such file"):
        training_images(args)


def test_global_batches_do_not_depend_on_the_number_of_processes(folder):
    whole = list(training(folder, batch_size=8).epoch(1))
    parts = [list(training(folder, batch_size=4, rank=rank, world_size=2).epoch(1)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step].images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part[step].indices for part in parts]), batch.indices)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_has_each_image_once(folder, workers, world_size):
    seen = []
    for rank in range(world_size):
        loader = evaluation(folder, workers=workers, rank=rank, world_size=world_size)
        batches = list(loader.epoch(0))
        assert len(batches) == len(loader)
        indices = torch.cat([batch.indices for batch in batches]).tolist()
        assert indices == sorted(indices)
        seen += indices
        transform = EvalTransform(SIZE, 40)
        for batch in batches:
            for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
                assert label == index % 3
                expected = transform(decode(loader.images.read(int(index)), loader.images.path(int(index))))
                np.testing.assert_array_equal(image.numpy(), expected)
    assert sorted(seen) == list(range(37))


def test_batches_may_be_kept(folder):
    """Memory is lent: a batch that is kept keeps its pixels, however many are."""
    loader = training(folder, batch_size=2, workers=2, read_ahead_images=8)
    expected = contents(training(folder, batch_size=2))
    kept = list(loader.epoch(0))
    assert [batch.images.numpy().tobytes() for batch in kept] == [pixels for pixels, _, _ in expected]
    assert len(loader._lent) > 0
    del kept
    gc.collect()
    assert contents(loader, 1) == contents(training(folder, batch_size=2), 1)


def test_a_batch_is_the_workers_memory(folder):
    """No copy on the way: the tensor of a batch points into the shared slots."""
    loader = training(folder, workers=1)
    slots = loader._job.slots.array
    start = slots.ctypes.data
    for batch in loader.epoch(0):
        assert start <= batch.images.data_ptr() < start + slots.nbytes


class Event:
    """In place of CUDA's: whether what was queued before it is done."""

    copied = True

    def record(self):
        pass

    def query(self):
        return Event.copied


class Cuda:
    """In place of CUDA's library."""

    def __init__(self) -> None:
        self.error = 0
        self.registered: list[tuple[int, int]] = []

    def cudaHostRegister(self, address, size, flags):
        self.registered.append((address, size))
        return self.error

    def cudaHostUnregister(self, address):
        self.registered.remove(next(entry for entry in self.registered if entry[0] == address))


@pytest.fixture
def cuda(monkeypatch):
    cuda = Cuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return cuda


def slot_of(batch: Batch, loader: Loader) -> int | None:
    """Which slot a batch is in; None for a copy."""
    slots = loader._job.slots.array
    slot = (batch.images.data_ptr() - slots.ctypes.data) // slots[0].nbytes
    return slot if 0 <= slot < len(slots) else None


def test_memory_waits_for_copies_to_the_gpu(folder, cuda, monkeypatch):
    """A freed batch's memory is used again only when the event behind its copy has come."""
    monkeypatch.setattr(Event, "copied", False)
    loader = training(folder, batch_size=4, workers=1, read_ahead_images=12, pin_memory=True)
    expected = contents(training(folder, batch_size=4))

    def lent(loader: Loader, epoch: int) -> list[int]:
        return [slot for batch in loader.epoch(epoch) if (slot := slot_of(batch, loader)) is not None]

    first = lent(loader, 0)
    assert len(cuda.registered) == 1 and cuda.registered[0][1] == loader._job.slots.array.nbytes
    assert len(first) == len(set(first)) == 3  # the fourth is the workers'
    assert lent(loader, 1) == []
    Event.copied = True
    assert len(lent(loader, 2)) > 4
    assert contents(loader) == expected
    loader.close()
    del loader
    gc.collect()
    assert not cuda.registered


def test_large_batches_for_a_gpu_are_page_locked(folder, cuda):
    """Also where few are read ahead, while one is copied and the one before is computed on: as `to_device` has it."""
    loader = training(folder, batch_size=4, workers=1, read_ahead_images=1, pin_memory=True)
    copied = None
    for batch in loader.epoch(0):
        assert slot_of(batch, loader) is not None
        computed_on, copied = copied, batch
    assert len(loader) > 4 and computed_on is not copied


def test_memory_that_cannot_be_page_locked(folder, cuda, monkeypatch, capsys):
    """A warning, and CUDA's error is spent on a kernel that nobody needs."""
    kernels = []

    def kernel(size, device):
        kernels.append(device)
        raise RuntimeError("CUDA error: out of memory")

    cuda.error = 2
    expected = contents(training(folder))
    loader = training(folder, workers=1, pin_memory=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", kernel)
        assert contents(loader) == expected == contents(loader)
    assert kernels == ["cuda"]
    assert capsys.readouterr().err == (
        "warning: the reader's memory cannot be page-locked (CUDA error 2): copies to the GPU will be slower\n"
    )


def test_given_up_epochs_leave_nothing_behind(folder):
    loader = training(folder, workers=2)
    expected = contents(loader, 1)
    for stop in (1, 2, 4):
        for number, _ in enumerate(loader.epoch(0), 1):
            if number == stop:
                break
        assert contents(loader, 1) == expected
    older = loader.epoch(0)
    next(older)
    assert contents(loader, 1) == expected
    with pytest.raises(RuntimeError, match="a later call of epoch"):
        next(older)


def test_bad_sizes_are_refused(folder):
    with pytest.raises(UserError, match="--batch_size 38 is larger than the 37 training images"):
        training(folder, batch_size=38)
    with pytest.raises(UserError, match="--batch_size 40 is larger"):
        training(folder, batch_size=20, world_size=2)
    assert len(training(folder, batch_size=37)) == 1
    with pytest.raises(FlagError, match="--batch_size 10 does not divide evenly over 4 processes"):
        share_of_batch("batch_size", 10, 4)


def test_workers_are_capped(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert available_processors() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_processors() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert available_processors() == 1


def test_paths_with_blanks_and_other_scripts(tmp_path):
    names = ["a b/c d.jpg", "日本/画像 1.jpg", "ünï.png"]
    for number, name in enumerate(names):
        save_picture(tmp_path / name, number)
    (tmp_path / "val_list.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)), encoding="utf-8")
    loader = evaluation(tmp_path, workers=1)
    (batch,) = loader.epoch(0)
    assert batch.labels.tolist() == [0, 1, 2] and not loader.unreadable
