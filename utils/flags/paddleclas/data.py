"""The section DataLoader as flags: lists, transforms, samplers and worker processes."""

from __future__ import annotations

import os
from typing import Any

from utils.flags.paddleclas.inputs import read_evaluation
from utils.flags.paddleclas.section import (
    Section,
    boolean,
    integer,
    positive,
    processes,
    text,
)
from utils.flags.paddleclas.transforms import read_mixing, read_training

_DATASETS = ("ImageNetDataset", "MultiLabelDataset")
_SAMPLERS = ("DistributedBatchSampler", "BatchSampler")


def read_training_data(loaders: Section) -> None:
    """The flags of DataLoader.Train and, for what validation sees, DataLoader.Eval."""
    train = loaders.section("Train")
    evaluation = read_validation_data(loaders, "test_batch_size")
    if not train.values:
        loaders.refuse("Train", "is missing")
        return
    dataset = train.section("dataset")
    if dataset.values.get("name") not in _DATASETS:
        _refuse_dataset(dataset)
        return
    _read_list(dataset, "train")
    reading = loaders.reading
    for flag, value in read_training(dataset, evaluation).items():
        reading.set(flag, value)
    read_mixing(dataset)
    dataset.finish(("transform_ops", "batch_transform_ops"))
    _read_training_sampler(train.section("sampler"))
    _read_workers(train.section("loader"))
    train.finish()


def read_validation_data(loaders: Section, batch_flag: str) -> dict[str, Any]:
    """The flags of DataLoader.Eval; returns the `INPUT_FLAGS` among them.

    Args:
        loaders: DataLoader.
        batch_flag: the flag of the batch size.
    """
    section = loaders.section("Eval")
    loaders.asked.add("Train")
    loaders.finish()
    if "Query" in section or "Gallery" in section:
        section.refuse(None, "retrieval is not here: this is a toolbox of classification")
        return {}
    if not section.values:
        return {}
    dataset = section.section("dataset")
    if dataset.values.get("name") not in _DATASETS:
        _refuse_dataset(dataset)
        return {}
    _read_list(dataset, "val")
    evaluation = read_evaluation(dataset, "transform_ops")
    for flag, value in evaluation.items():
        loaders.reading.set(flag, value)
    dataset.finish()
    sampler = section.section("sampler")
    sampler.only("name", "DistributedBatchSampler", "BatchSampler")
    size = sampler.take("batch_size", positive, 1) * processes()
    if batch_flag == "batch_size" or loaders.reading.flags.get("validate") != "False":
        loaders.reading.set(batch_flag, size)
    sampler.only("drop_last", False)
    sampler.idle("shuffle")
    sampler.finish()
    workers = section.section("loader")
    if batch_flag == "batch_size":
        _read_workers(workers)
    else:
        workers.idle("num_workers", "use_shared_memory")
    section.finish()
    return evaluation


def _refuse_dataset(dataset: Section) -> None:
    name = dataset.values.get("name")
    dataset.refuse("name", f"{name} is not supported; there are {', '.join(_DATASETS)}")


def _read_list(dataset: Section, part: str) -> None:
    """The flags of a list of images.

    Args:
        dataset: the section.
        part: "train" or "val".
    """
    reading = dataset.reading
    dataset.asked.add("name")
    root = dataset.take("image_root", text, "./")
    key = "cls_label_path"
    file = dataset.take(key, text, "")
    if not file:
        dataset.refuse(key, "is missing")
    # In train.py the folder of the training images is the one that lists are relative to.
    if part == "train" or reading.flags.get("data_dir") is None:
        other = str(reading.flags.get("data_dir", root))
        if os.path.normpath(other) != os.path.normpath(root):
            reading.set("val_dir", other)
        reading.set("data_dir", root)
    if os.path.normpath(file) != os.path.normpath(os.path.join(root, f"{part}_list.txt")):
        reading.set(f"{part}_list", file)
    # A line's label is what follows its last blank or tab.
    dataset.only("delimiter", " ", "\t")
    # The loss asks for the shares of the labels.
    dataset.asked.add("label_ratio")
    dataset.idle("relabel")


def _read_training_sampler(sampler: Section) -> None:
    """The flags of the sampler of training."""
    reading = sampler.reading
    batches = processes() * int(str(reading.flags.get("accumulate_steps", 1)))
    name = sampler.take("name", text, "DistributedBatchSampler")
    if name not in _SAMPLERS:
        sampler.refuse("name", f"{name} is not supported; there are {', '.join(_SAMPLERS)}")
        return
    reading.set("batch_size", sampler.take("batch_size", positive, 1) * batches)
    if not sampler.take("drop_last", boolean, False):
        reading.set("drop_last", False)
    if not sampler.take("shuffle", boolean, False):
        reading.set("shuffle", False)
    sampler.finish(("batch_size",))


def _read_workers(loader: Section) -> None:
    """The flags of worker processes."""
    loader.reading.set("reader_thread", loader.take("num_workers", integer, 0))
    loader.idle("use_shared_memory", "prefetch_factor", "timeout")
    loader.finish()
