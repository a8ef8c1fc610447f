"""The section DataLoader as flags: lists, transforms, samplers and worker processes."""

from __future__ import annotations

import os
from typing import Any

from utils.flags.paddleclas.inputs import read_evaluation
from utils.flags.paddleclas.mixing import read_mixing
from utils.flags.paddleclas.section import (
    Section,
    boolean,
    delimiter,
    integer,
    list_of,
    positive,
    processes,
    shown,
    text,
    width_and_height,
    written_size,
)
from utils.flags.paddleclas.transforms import read_training

_DATASETS = ("ImageNetDataset", "MultiLabelDataset")
_TRAINING_DATASETS = (*_DATASETS, "MultiScaleDataset", "CustomLabelDataset")
_SAMPLERS = ("DistributedBatchSampler", "BatchSampler", "RASampler", "MultiScaleSampler")
# CustomLabelDataset.label_key -> --label_from.
_LABELS = {"blur_image": "blur", "random_rot90_orientation": "random_rot90"}


def read_training_data(loaders: Section) -> None:
    """The flags of DataLoader.Train, and of DataLoader.Eval for validation."""
    train = loaders.section("Train")
    evaluation = read_validation_data(loaders, "test_batch_size")
    if not train.values:
        loaders.refuse("Train", "is missing")
        return
    dataset, sampler = train.section("dataset"), train.section("sampler")
    name = dataset.values.get("name")
    if name not in _TRAINING_DATASETS:
        _refuse_dataset(dataset, _TRAINING_DATASETS)
        return
    _read_list(dataset, "train")
    reading = loaders.reading
    scaled = name == "MultiScaleDataset"
    for flag, value in read_training(dataset, evaluation, scaled=scaled).items():
        reading.set(flag, value)
    if name == "CustomLabelDataset":
        key = dataset.take("label_key", text, "")
        if key not in _LABELS:
            dataset.refuse("label_key", f"{shown(key)} is not supported; choose from {', '.join(_LABELS)}")
        reading.set("label_from", _LABELS.get(key, "blur"))
    read_mixing(dataset)
    dataset.finish(("transform_ops", "batch_transform_ops"))
    if scaled != (sampler.values.get("name") == "MultiScaleSampler"):
        sampler.refuse("name", "MultiScaleDataset and MultiScaleSampler only work together")
        return
    _read_training_sampler(sampler)
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
        section.refuse(None, "retrieval is not supported, only classification")
        return {}
    if not section.values:
        return {}
    dataset = section.section("dataset")
    if dataset.values.get("name") not in _DATASETS:
        _refuse_dataset(dataset, _DATASETS)
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


def _refuse_dataset(dataset: Section, known: tuple[str, ...]) -> None:
    name = dataset.values.get("name")
    dataset.refuse("name", f"{name} is not supported; choose from {', '.join(known)}")


def _read_list(dataset: Section, part: str) -> None:
    """The flags of a list of images.

    Args:
        dataset: the section.
        part: "train" or "val".
    """
    reading = dataset.reading
    dataset.asked.add("name")
    root = dataset.take("image_root", text, "./")
    key = "sample_list_path" if dataset.values.get("name") == "CustomLabelDataset" else "cls_label_path"
    file = dataset.take(key, text, "")
    if not file:
        dataset.refuse(key, "is missing")
    # In train.py, lists are relative to the folder of the training images.
    if part == "train" or reading.flags.get("data_dir") is None:
        other = str(reading.flags.get("data_dir", root))
        if os.path.normpath(other) != os.path.normpath(root):
            reading.set("val_dir", other)
        reading.set("data_dir", root)
    if os.path.normpath(file) != os.path.normpath(os.path.join(root, f"{part}_list.txt")):
        reading.set(f"{part}_list", file)
    sign = dataset.take("delimiter", delimiter, " ")
    # A line's label follows its last blank or tab.
    if sign not in (" ", "\t"):
        reading.set("list_delimiter", sign)
    # The loss needs the labels' frequencies.
    dataset.asked.add("label_ratio")
    dataset.only("relabel", False, why=", so number the classes from 0")


def _read_training_sampler(sampler: Section) -> None:
    """The flags of the training sampler."""
    reading = sampler.reading
    batches = processes() * int(str(reading.flags.get("accumulate_steps", 1)))
    name = sampler.take("name", text, "DistributedBatchSampler")
    if name not in _SAMPLERS:
        sampler.refuse("name", f"{name} is not supported; choose from {', '.join(_SAMPLERS)}")
        return
    if name == "MultiScaleSampler":
        _read_scales(sampler, batches)
        return
    reading.set("batch_size", sampler.take("batch_size", positive, 1) * batches)
    if not sampler.take("drop_last", boolean, False):
        reading.set("drop_last", False)
    if not sampler.take("shuffle", boolean, False):
        reading.set("shuffle", False)
    if name == "RASampler":
        reading.set("augment_repeats", sampler.take("num_repeats", positive, 3))
    sampler.finish(("batch_size",))


def _read_scales(sampler: Section, batches: int) -> None:
    """The flags of a MultiScaleSampler; `batches` of its batches make one of ours."""
    reading = sampler.reading
    scales = sampler.take("scales", list_of(width_and_height), [])
    if not scales:
        sampler.refuse("scales", "is missing: give a list of sizes")
    reading.set("multi_scale", [written_size(scale) for scale in scales])
    if "first_bs" not in sampler:
        sampler.refuse("first_bs", "is missing")
    reading.set("batch_size", sampler.take("first_bs", positive, 1) * batches)
    if (factor := sampler.take("divided_factor", positive, 32)) != 32:
        reading.set("multi_scale_factor", factor)
    sampler.only("is_training", True)
    if "seed" in sampler:
        sampler.refuse("seed", "is not supported: Global.seed draws sizes and order")
    sampler.finish(("first_bs",))


def _read_workers(loader: Section) -> None:
    """The flags of worker processes."""
    loader.reading.set("reader_thread", loader.take("num_workers", integer, 0))
    loader.idle("use_shared_memory", "prefetch_factor", "timeout")
    loader.finish()
