"""Facts of the Caffe zoo in tests/fixtures/caffe/, and .caffemodel files made from them.

networks.json.gz has the blobs of 12 networks (layer, type, number, shape, role); logits.npz what OpenCV's importer of
Caffe answers for `image` with the values that `blob` makes from a blob's name alone.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parents[1] / "fixtures" / "caffe"
REAL_FILE = FIXTURES / "resnext50-32x4d.caffemodel.xz"

# name in the zoo -> ours
NETWORKS = {
    "densenet121": "DenseNet121",
    "densenet201": "DenseNet201",
    "inception-resnet-v2": "InceptionResNetV2_caffe",
    "inception-v3": "InceptionV3_caffe",
    "inception-v4": "InceptionV4_caffe",
    "resnet101-v2": "ResNet101_v2",
    "resnet152-v2": "ResNet152_v2",
    "resnet269-v2": "ResNet269_v2",
    "resnext101-32x4d": "ResNeXt101_32x4d",
    "resnext101-64x4d": "ResNeXt101_64x4d",
    "resnext50-32x4d": "ResNeXt50_32x4d",
    "wrn50-2": "WideResNet50_2",
}

TABLE = np.random.RandomState(0).uniform(-1, 1, 4093)


class Blob(NamedTuple):
    layer: str
    kind: str
    number: int
    shape: list[int]
    role: str

    @property
    def name(self) -> str:
        return f"{self.layer}/{self.number}"


@functools.cache
def networks() -> dict[str, Any]:
    with gzip.open(FIXTURES / "networks.json.gz", "rt") as file:
        return json.load(file)


def blobs(name: str) -> list[Blob]:
    return [Blob(*blob) for blob in networks()[name]["blobs"]]


def values(blob: Blob, gain: float) -> np.ndarray:
    """What Caffe had as `blob`; the statistics before they are multiplied by the scale factor, 2."""
    count = math.prod(blob.shape)
    drawn = TABLE[(np.arange(count) + zlib.crc32(blob.name.encode())) % len(TABLE)]
    if blob.role in ("conv", "fc"):
        drawn = drawn * math.sqrt(gain / math.prod(blob.shape[1:]))
    elif blob.role in ("bias", "beta", "mean"):
        drawn = drawn * 0.1
    elif blob.role in ("gamma", "var"):
        drawn = 1 + 0.5 * drawn
    else:
        drawn = np.full(1, 2.0)
    return drawn.astype(np.float32).reshape(blob.shape)


def image(name: str) -> Tensor:
    """The image that Caffe was shown, as RGB."""
    shape = networks()[name]["input_nchw"]
    bgr = np.random.RandomState(7).uniform(-2, 2, shape).astype(np.float32)
    return torch.from_numpy(bgr).flip(1)


def expected(name: str) -> np.ndarray:
    with np.load(FIXTURES / "logits.npz") as logits:
        return logits[name]


# ------------------------------------------------------------------------------------------------- writing messages


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, content: bytes | int) -> bytes:
    """A field of a protocol-buffer message."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob_message(array: np.ndarray, legacy: bool = False) -> bytes:
    """A blob; `legacy`: with four dimensions, as before Caffe had shapes."""
    if legacy:
        dimensions = [1] * (4 - array.ndim) + list(array.shape)
        head = b"".join(field(number, size) for number, size in enumerate(dimensions, 1))
    else:
        head = field(7, field(1, b"".join(map(varint, array.shape))))
    return head + field(5, array.astype("<f4").tobytes())


def layer_message(name: str, kind: str, arrays: list[np.ndarray], legacy: bool = False) -> bytes:
    content = field(1, name.encode()) + field(2, kind.encode())
    return field(100, content + b"".join(field(7, blob_message(array, legacy)) for array in arrays))


def caffemodel(name: str, legacy: bool = False) -> bytes:
    """The file of one of the networks."""
    gain = networks()[name]["gain"]
    layers: dict[tuple[str, str], list[np.ndarray]] = {}
    for blob in blobs(name):
        array = values(blob, gain)
        layers.setdefault((blob.layer, blob.kind), []).append(array * 2 if blob.role in ("mean", "var") else array)
    body = b"".join(layer_message(*layer, arrays, legacy) for layer, arrays in layers.items())
    return field(1, name.encode()) + layer_message("relu1", "ReLU", []) + body
