"""Readers of foreign files, each with whole files, what damages them, and the call that a script makes.

Each makes a case of a number, reads it, and returns; whatever a file holds, nothing but a `UserError` of one line may
come of it.
"""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from archives import tar_of
from caffe_files import field, layer_message
from damage import (
    IMAGE_MUTATORS,
    mutated_fields,
    mutated_header,
    mutated_message,
    mutated_parts,
    mutated_pickle,
    mutated_tar,
    mutated_text,
    mutated_zip,
)
from mutations import damaged, mutate_json, mutated_parameters
from PIL import Image
from safetensors.torch import save

from utils.formats.paddle import variable_header
from utils.reading.class_names import read_names
from utils.reading.content import examine
from utils.reading.decode import decode, parse_jpeg
from utils.reading.image_list import ImageList
from utils.reading.list_file import list_text, parse_label_list, parse_list
from utils.reading.tar_shards import TarShards
from utils.reading.transforms import TrainTransform
from utils.weights import read_input_notes, read_weights
from utils.weights.notes import read_class_notes, read_network_notes

ARRAYS = {
    "conv1_weights": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "fc_0.w_0": np.ones((3, 2), np.float32),
    "@LR_DECAY_COUNTER@": np.array([7], np.int64),
}


def written(content: bytes, name: str = "x") -> Path:
    """A file with this content, in the working directory."""
    path = Path(name)
    path.write_bytes(content)
    return path


# ------------------------------------------------------------------------------------------------------- of weights


def _read(content: bytes, name: str = "x") -> None:
    """Reads a file of weights, and all of the numbers in it."""
    weights = read_weights(written(content, name))
    for tensor in (*weights.tensors.values(), *weights.unnamed):
        assert tensor.numel() * tensor.element_size() <= max(len(content) * 2000, 1 << 20), "out of proportion"
        tensor.double().sum()


def pdparams(rng: random.Random) -> None:
    _read(mutated_pickle(rng, pickle.dumps(ARRAYS, rng.choice((2, 4)))))


def fluid(rng: random.Random) -> None:
    """Variables in a combined file, and as an archive."""
    variables = [variable_header(array) + array.tobytes() for array in ARRAYS.values()]
    if rng.random() < 0.5:
        parts = mutated_parts(rng, variables, mutated_parameters)
        _read(b"".join(parts))
    else:
        _read(mutated_tar(rng, tar_of({f"pretrained/{n}": v for n, v in zip(ARRAYS, variables, strict=True)})))


@functools.cache
def _torch_file(legacy: bool = False) -> bytes:
    content = io.BytesIO()
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    state = {"state_dict": tensors, "epoch": 3, "arch": "x", "history": [1.5, None, (True,)]}
    torch.save(state, content, _use_new_zipfile_serialization=not legacy)
    return content.getvalue()


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {member.filename: archive.read(member) for member in archive.infolist()}


def _torch_member(rng: random.Random, name: str, content: bytes) -> bytes:
    return mutated_pickle(rng, content) if name.endswith("data.pkl") else damaged(rng, content)


def torch_file(rng: random.Random) -> None:
    if rng.random() < 0.3:
        _read(damaged(rng, _torch_file(legacy=True)))
        return
    members = members_of(_torch_file())
    if rng.random() < 0.7:  # the pickle, rather than what it points to
        members = {name: mutated_pickle(rng, c) if name.endswith(".pkl") else c for name, c in members.items()}
        _read(mutated_zip(rng, members, lambda rng, name, content: content))
    else:
        _read(mutated_zip(rng, members, _torch_member))


def safetensors(rng: random.Random) -> None:
    notes = {"model": "ResNet50", "class_dim": "4", "image_shape": "[3, 32, 32]", "resize_short_size": "40"}
    notes |= {"interpolation": "null", "image_mean": "[0.5, 0.5, 0.5]", "image_std": "[0.5, 0.5, 0.5]"}
    notes |= {"class_names": '["a", "b"]', "dropout": "x"}
    content = mutated_header(rng, save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}, notes))
    path = written(content, "x.safetensors")
    for read in (read_input_notes, read_network_notes, read_class_notes):
        read(path)
    _read(content, "x.safetensors")


@functools.cache
def _caffemodel() -> bytes:
    layers = [layer_message(name, "Convolution", [array, array[0]]) for name, array in list(ARRAYS.items())[:2]]
    layers.append(layer_message("fc", "InnerProduct", [ARRAYS["fc_0.w_0"]], legacy=True))
    return field(1, b"net") + layer_message("relu", "ReLU", []) + b"".join(layers)


def caffe(rng: random.Random) -> None:
    _read(mutated_message(rng, _caffemodel(), "caffe"))


# ------------------------------------------------------------------------------------------------ of lists and names


def _names(images: ImageList) -> None:
    for index in range(min(len(images), 100)):
        os.fsencode(images.path(index))
        images.label(index)


def image_list(rng: random.Random) -> None:
    lines = b"".join(b"train/a/%d.jpg %d\n" % (number, number % 4) for number in range(20))
    kind = rng.random()
    if kind < 0.6:
        path = str(written(mutated_text(rng, lines), "list.txt"))
        starts, lengths, labels = parse_list(list_text(path), path, rng.choice((4, None)))
        assert len(starts) == len(lengths) == len(labels) and int(labels.min()) >= 0
    elif kind < 0.8:
        path = str(written(mutated_text(rng, b"a.jpg 0,1,0\nb b.jpg 1,1,0\n" * 5), "list.txt"))
        parse_label_list(list_text(path), path, 3)
    else:
        _names(ImageList.find(str(written(mutated_text(rng, lines), "list.txt"))))


@functools.cache
def _shard() -> bytes:
    image = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    files = {f"a/{n}.{kind}": data for n in range(3) for kind, data in (("png", image), ("cls", b"1"), ("json", b"{}"))}
    return tar_of(files)


def shard(rng: random.Random) -> None:
    images = TarShards([str(written(mutated_tar(rng, _shard()), "train1.tar"))], 4)
    _names(images)
    for index in range(min(len(images), 5)):
        images.read(index)


CLASS_MAPS = {
    "names.txt": b"0 cat\n1 dog\n2 5 cent\n3 \xe6\xbc\xa2\n",
    "plain.txt": b"cat\ndog\n5 cent\n",
    "names.json": b'{"names": {"0": "cat", "1": "dog"},\n "nc": 2}\n',
    "list.json": b'[["n01", "cat"],\n ["n02", "dog"]]\n',
    "data.yaml": b"path: x\nnames:\n  0: cat\n  1: 'dog'\nnc: 2\n",
}


def class_map(rng: random.Random) -> None:
    name = rng.choice(sorted(CLASS_MAPS))
    content = CLASS_MAPS[name]
    if name.endswith("json") and rng.random() < 0.5:
        value = json.loads(content)
        for _ in range(rng.choice((1, 1, 2, 5))):
            mutate_json(rng, value)
        content = json.dumps(value).encode()
    else:
        content = mutated_text(rng, content)
    for found in read_names(str(written(content, name))):
        found.encode()


# --------------------------------------------------------------------------------------------------------- of images


@functools.cache
def images() -> dict[str, bytes]:
    """A small image of each kind."""
    pixels = np.random.RandomState(0).randint(0, 256, (24, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = {}
    options: dict[str, dict[str, Any]] = {
        "jpg": {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}
    }
    for kind in ("jpg", "png", "gif", "bmp", "tiff", "webp", "avif", "jp2", "ppm"):
        content = io.BytesIO()
        image.save(content, {"jpg": "JPEG", "jp2": "JPEG2000"}.get(kind, kind.upper()), **options.get(kind, {}))
        found[kind] = content.getvalue()
    content = io.BytesIO()
    image.save(content, "JPEG", progressive=True)
    found["progressive"] = content.getvalue()
    found["deep"] = cv2.imencode(".png", np.full((9, 9, 4), 40_000, np.uint16))[1].tobytes()
    found["lzw"] = cv2.imencode(".tif", pixels)[1].tobytes()
    try:
        import pillow_heif
    except ImportError:
        return found
    content = io.BytesIO()
    pillow_heif.from_pillow(image).save(content)
    return {**found, "heic": content.getvalue()}


def image(rng: random.Random) -> None:
    kind = rng.choice(sorted(images()))
    data = IMAGE_MUTATORS.get(kind, mutated_fields)(rng, images()[kind])
    how = rng.random()
    if how < 0.2:
        transform = TrainTransform((16, 16), 0.1, 3 / 4, 4 / 3, None, flip_prob=0.5)
        assert transform.decode(data, "x", np.random.default_rng(0)).shape == (16, 16, 3)
        return
    options = {} if how < 0.6 else {"background": (255, 255, 255), "depth_range": (0, 4095)}
    pixels = decode(data, "x", rng.choice(("cv2", "cv2", "pil")), **options)
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    parse_jpeg(data, "x")
    examine(data)
