"""Reads Caffe's weight files (.caffemodel) without Caffe.

A file is a NetParameter, a protocol-buffer message. The parts that matter here (field numbers in brackets):

    NetParameter [100] layer, repeated     [2] layers, repeated: the V1 layers of Caffe before November 2014
    layer        [1] name   [2] type       [7] blobs, repeated
    blob         [7] shape, with dimensions [1]; in older files: [1] num  [2] channels  [3] height  [4] width
                 [5] data, float32         [8] double_data

Every length is checked against the size of the file, and values are views of the buffer wherever possible.
"""

from __future__ import annotations

import math
import mmap
from typing import NamedTuple

import numpy as np

from utils.errors import FormatError
from utils.formats.protobuf import read_fields, read_varints

# A NetParameter begins with its name, a V1 layer, an input or a layer.
HEADS = (b"\x0a", b"\x12", b"\x1a", b"\xa2\x06")

_NET_V1_LAYERS, _NET_LAYER = 2, 100
_LAYER_NAME, _LAYER_TYPE, _LAYER_BLOBS = 1, 2, 7
_BLOB_DATA, _BLOB_SHAPE, _BLOB_DOUBLE_DATA = 5, 7, 8
_SHAPE_DIM = 1

# Far more than any network has, with room for the layers without weights.
_MAX_LAYERS = 20_000
_MAX_BLOBS = 16
_MAX_DIMENSIONS = 16


class Layer(NamedTuple):
    """A layer that has weights: its name, its type (Convolution, ...) and its blobs."""

    name: str
    kind: str
    blobs: list[np.ndarray]


def looks_like_caffe(head: bytes) -> bool:
    """Whether a file that starts with `head` may be a .caffemodel; the format has no magic number."""
    return head.startswith(HEADS)


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):
        raise FormatError("a name in it is a number")
    return str(value, "utf-8", "replace")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise FormatError("a part of it is a number")
    return value


def _read_blob(message: memoryview) -> np.ndarray:
    legacy = {1: 1, 2: 1, 3: 1, 4: 1}
    shape: list[int] | None = None
    values: memoryview | bytearray = memoryview(b"")
    dtype = np.dtype("<f4")
    for number, value in read_fields(message):
        if number in legacy and isinstance(value, int):
            legacy[number] = value
        elif number == _BLOB_SHAPE:
            shape = shape or []
            for field, dimensions in read_fields(_message(value)):
                if field == _SHAPE_DIM:
                    shape += [dimensions] if isinstance(dimensions, int) else read_varints(dimensions)
                if len(shape) > _MAX_DIMENSIONS:
                    raise FormatError(f"a blob has more than {_MAX_DIMENSIONS} dimensions")
        elif number in (_BLOB_DATA, _BLOB_DOUBLE_DATA):
            dtype = np.dtype("<f4" if number == _BLOB_DATA else "<f8")
            # Usually one packed list, which needs no copy; a writer may split it, down to single values.
            if not values:
                values = _message(value)
            else:
                values = values if isinstance(values, bytearray) else bytearray(values)
                values += _message(value)
    shape = list(legacy.values()) if shape is None else shape
    count = math.prod(shape)
    if len(values) % dtype.itemsize or count != len(values) // dtype.itemsize or not count:
        raise FormatError(f"a blob of shape {shape} has {len(values) / dtype.itemsize:g} values (damaged?)")
    return np.frombuffer(values, dtype).reshape(shape).astype(np.float32, copy=False)


def _read_layer(message: memoryview) -> Layer:
    name = kind = ""
    blobs: list[np.ndarray] = []
    for number, value in read_fields(message):
        if number == _LAYER_NAME:
            name = _text(value)
        elif number == _LAYER_TYPE:
            kind = _text(value)
        elif number == _LAYER_BLOBS:
            if len(blobs) == _MAX_BLOBS:
                raise FormatError(f"layer {name!r} has more than {_MAX_BLOBS} blobs")
            try:
                blobs.append(_read_blob(_message(value)))
            except FormatError as error:
                raise FormatError(f"layer {name!r}: {error}") from None
    return Layer(name, kind, blobs)


def read_layers(buffer: bytes | mmap.mmap | memoryview) -> list[Layer]:
    """The layers of a .caffemodel that have weights, in the order of the network.

    Raises:
        FormatError: it is not a .caffemodel, is damaged, or was written by Caffe before November 2014.
    """
    layers: list[Layer] = []
    count = 0
    for number, value in read_fields(memoryview(buffer)):
        if number == _NET_V1_LAYERS and not isinstance(value, int):
            raise FormatError(
                "a .caffemodel with V1 layers, of Caffe before November 2014: convert it with Caffe's "
                "upgrade_net_proto_binary"
            )
        if number != _NET_LAYER:
            continue
        count += 1
        if count > _MAX_LAYERS:
            raise FormatError(f"holds more than {_MAX_LAYERS} layers")
        layer = _read_layer(_message(value))
        if layer.blobs:
            layers.append(layer)
    if not layers:
        raise FormatError(f"holds no weights ({count} of Caffe's layers)")
    return layers


def _matrix(blob: np.ndarray) -> np.ndarray:
    """A blob as a matrix; older files put dimensions of 1 before the two."""
    return blob.reshape(blob.shape[-2:]) if blob.size == math.prod(blob.shape[-2:]) else blob


def _vector(blob: np.ndarray) -> np.ndarray:
    """A blob as a vector; before the field `shape` every blob had four dimensions."""
    return blob.reshape(-1)


def read_caffemodel(buffer: bytes | mmap.mmap | memoryview) -> dict[str, np.ndarray]:
    """The tensors of a .caffemodel, as LAYER/BLOB, ready for a network that takes RGB.

    - A batch norm's third blob is a scale factor by which Caffe divides the statistics. That is done here.
    - Caffe's images are BGR: if the first convolution has three input channels, their order is reversed.

    Raises:
        FormatError: see `read_layers`; or two layers have the same name.
    """
    tensors: dict[str, np.ndarray] = {}
    images_seen = False
    for layer in read_layers(buffer):
        blobs = layer.blobs
        if layer.kind == "Convolution" and blobs[0].ndim == 4:
            if not images_seen and blobs[0].shape[1] == 3:
                blobs[0] = np.ascontiguousarray(blobs[0][:, ::-1])
            images_seen = True
            blobs[1:] = map(_vector, blobs[1:])
        elif layer.kind == "InnerProduct":
            blobs = [_matrix(blobs[0]), *map(_vector, blobs[1:])]
        elif layer.kind == "BatchNorm":
            if len(blobs) != 3 or blobs[2].size != 1:
                raise FormatError(f"layer {layer.name!r}: its batch norm has no scale factor")
            factor = blobs[2].item()
            with np.errstate(all="ignore"):  # a damaged factor may overflow; no warning for that
                blobs = [_vector(blob) * np.float32(1 / factor if factor else 0) for blob in blobs[:2]]
        elif layer.kind == "Scale":
            blobs = list(map(_vector, blobs))
        for number, blob in enumerate(blobs):
            if f"{layer.name}/{number}" in tensors:
                raise FormatError(f"two layers have the name {layer.name!r}")
            tensors[f"{layer.name}/{number}"] = blob
    return tensors
