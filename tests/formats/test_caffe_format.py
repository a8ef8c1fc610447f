""".caffemodel files of every kind, valid and invalid."""

from __future__ import annotations

import gzip
import lzma
import struct
import sys
import tracemalloc

import numpy as np
import pytest
from caffe_files import (
    blob_message,
    caffemodel,
    field,
    layer_message,
    varint,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import models
from utils.errors import FormatError, UserError
from utils.formats.caffe import read_caffemodel
from utils.weights import load_pretrained

CONV = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)


def read(*layers):
    return read_caffemodel(field(1, b"net") + b"".join(layers))


def test_only_the_first_convolution_is_turned_to_rgb():
    tensors = read(
        layer_message("first", "Convolution", [CONV]),
        layer_message("second", "Convolution", [CONV, np.float32([1, 2])]),
    )
    np.testing.assert_array_equal(tensors["first/0"], CONV[:, ::-1])
    np.testing.assert_array_equal(tensors["second/0"], CONV)
    np.testing.assert_array_equal(tensors["second/1"], [1, 2])


@pytest.mark.parametrize(("factor", "mean"), [(4.0, [0.5, 1.0]), (0.0, [0, 0]), (1.0, [2, 4])])
def test_scale_factor(factor, mean):
    tensors = read(layer_message("bn", "BatchNorm", [np.float32([2, 4]), np.float32([4, 8]), np.float32([factor])]))
    np.testing.assert_array_equal(tensors["bn/0"], np.float32(mean))
    np.testing.assert_array_equal(tensors["bn/1"], 2 * np.float32(mean))
    assert "bn/2" not in tensors


def test_legacy_shapes_of_every_layer():
    layers = [
        ("ip", "InnerProduct", [np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([7, 8])]),
        ("scale", "Scale", [np.float32([1, 2]), np.float32([3, 4])]),
        ("conv", "Convolution", [CONV, np.float32([1, 2])]),
    ]
    old, new = (read(*(layer_message(*layer, legacy) for layer in layers)) for legacy in (True, False))
    assert old.keys() == new.keys()
    for name, array in new.items():
        np.testing.assert_array_equal(old[name], array)


def test_a_matrix_of_too_many_dimensions_stays_as_it_is():
    assert read(layer_message("ip", "InnerProduct", [CONV]))["ip/0"].shape == CONV.shape


def test_values_of_other_kinds():
    shape = field(7, field(1, 2) + field(1, 1))  # a list that is not packed
    single = shape + b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in (1.5, -2))
    split = shape + field(5, struct.pack("<f", 1.5)) + field(5, struct.pack("<f", -2))
    double = shape + field(8, struct.pack("<2d", 1.5, -2))
    for blob in (single, split, double):
        layer = field(100, field(1, b"x") + field(2, b"InnerProduct") + field(7, blob))
        np.testing.assert_array_equal(read(layer)["x/0"], np.float32([[1.5], [-2]]))
        assert read(layer)["x/0"].dtype == np.float32


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress], ids=["xz", "gz"])
def test_compressed_files(compress, tmp_path):
    path = tmp_path / "net.caffemodel.packed"
    path.write_bytes(compress(caffemodel("densenet121")[: 1 << 16]))
    with pytest.raises(UserError, match=r"not a \.caffemodel, or damaged: its description is cut short"):
        load_pretrained(models.DenseNet121(), path)


HUGE = varint(2**62)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (field(1, b"net") + field(2, field(4, b"conv1")), "V1 layers, of Caffe before November 2014"),
        (field(1, b"net"), "holds no weights"),
        (layer_message("x", "ReLU", []), "holds no weights"),
        (layer_message("x", "Scale", [CONV[0, 0, 0]]) * 2, "two layers have the name 'x'"),
        (layer_message("x", "BatchNorm", [CONV[0, 0, 0]] * 2), "has no scale factor"),
        (field(100, field(1, b"x") + field(7, field(7, field(1, HUGE)) + field(5, b"\0" * 8))), "has 2 values"),
        (field(100, field(1, b"x") + field(7, field(7, field(1, b"\x02")))), "has 0 values"),
        (field(100, field(1, b"x") + field(7, field(5, b"\0" * 7) + field(1, 1))), "has 1.75 values"),
        (field(100, field(1, b"x") + field(7, field(7, field(1, b"\1" * 99)))), "more than 16 dimensions"),
        (field(100, field(1, b"x") + field(7, b"") * 99), "shape"),
        (layer_message("x", "BatchNorm", [CONV, CONV, CONV]), "has no scale factor"),
        (field(100, b"") * 20_001, "more than 20000 layers"),
        (field(100, 5), "a part of it is a number"),
        (field(100, field(1, 5)), "a name in it is a number"),
        (layer_message("x", "Convolution", [CONV])[:-3], "cut short"),
        (b"\x0a" + HUGE, "cut short"),
        (b"\x0a\x00\x00\x00", "without a number"),
    ],
)
def test_bad_files(content, reason, tmp_path):
    with pytest.raises(FormatError, match=reason):
        read_caffemodel(content)


GOOD = field(1, b"net") + b"".join(
    [
        layer_message("conv", "Convolution", [CONV, np.float32([1, 2])]),
        layer_message("bn", "BatchNorm", [np.float32([2, 4]), np.float32([4, 8]), np.float32([2])], legacy=True),
        layer_message("ip", "InnerProduct", [np.ones((2, 3), np.float32)], legacy=True),
    ]
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_files_are_read_or_refused(data):
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        tensors = read_caffemodel(bytes(content))
    except FormatError as error:
        assert "\n" not in str(error)
    else:
        assert sum(array.nbytes for array in tensors.values()) <= len(content)


def test_memory_is_bounded_by_the_file():
    single = varint(5 << 3 | 5) + struct.pack("<f", 1.0)
    count = 200_000
    blob = field(7, field(1, varint(count))) + single * count
    content = field(100, field(1, b"x") + field(2, b"Scale") + field(7, blob))
    tracemalloc.start()
    try:
        assert read_caffemodel(content)["x/0"].shape == (count,)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(content)
    finally:
        tracemalloc.stop()


def test_reading_makes_no_copies():
    array = np.zeros((1 << 20,), np.float32)
    content = layer_message("x", "Scale", [array])
    tracemalloc.start()
    try:
        assert read_caffemodel(content)["x/0"].size == array.size
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert sys.getsizeof(content) > 4 << 20
    assert blob_message(array)  # the writer reproduces what was read
