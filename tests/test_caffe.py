"""The Caffe zoo: every network's names, shapes and logits, .caffemodel files of every kind, right and wrong ones."""

import gzip
import lzma
import struct
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from caffe_files import (
    NETWORKS,
    REAL_FILE,
    blob_message,
    blobs,
    caffemodel,
    expected,
    field,
    image,
    layer_message,
    varint,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_models_torchvision import error_of_logits, torchvision_network

import models
from models.layers import UPSCALE_IN_TRAIN, Dropout
from utils.caffe_format import read_caffemodel
from utils.errors import FormatError, UserError
from utils.weights import Weights, load_pretrained, load_weights

# Seen: 3e-7 to 1.6e-6.
BAR = 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes(name):
    with torch.device("meta"):
        model = models.build(NETWORKS[name])
        tensors = {blob.name: torch.empty(blob.shape) for blob in blobs(name) if blob.role != "sf"}
    # Raises if one is missing, superfluous or of another shape.
    report = load_weights(model, Weights("Caffe", tensors, paddle=False), name)
    assert report.loaded == len(tensors)
    assert (report.ignored, report.left_out) == (0, 0)


def check_logits(name, path):
    model = models.build(NETWORKS[name])
    report = load_pretrained(model, path)
    assert report.kind == "Caffe .caffemodel"
    assert all(layer.mode == UPSCALE_IN_TRAIN for layer in model.modules() if isinstance(layer, Dropout))
    with torch.inference_mode():
        logits = model.eval()(image(name)).numpy()
    assert np.abs(logits - expected(name)).max() / np.abs(expected(name)).max() < BAR


QUICK = ("densenet121", "inception-v3")


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("legacy", [False, True], ids=["shape", "legacy"])
def test_logits(name, legacy, tmp_path):
    path = tmp_path / f"{name}.caffemodel"
    path.write_bytes(caffemodel(name, legacy))
    check_logits(name, path)


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in QUICK])
def test_logits_of_all(name, tmp_path):
    path = tmp_path / f"{name}.caffemodel"
    path.write_bytes(caffemodel(name))
    check_logits(name, path)


def test_a_real_file():
    check_logits("resnext50-32x4d", REAL_FILE)


@pytest.mark.parametrize("name", ["InceptionV3", "InceptionV3_torchvision", "InceptionV4", "InceptionResNetV2"])
def test_networks_that_differ_refuse_the_file(name, tmp_path):
    zoo_name = {"InceptionV4": "inception-v4", "InceptionResNetV2": "inception-resnet-v2"}.get(name, "inception-v3")
    with torch.device("meta"):
        model = models.build(name)
        tensors = {blob.name: torch.empty(blob.shape) for blob in blobs(zoo_name) if blob.role != "sf"}
    with pytest.raises(UserError, match=r"do not fit.*they fit --model=Inception[A-Za-z]*V._caffe"):
        load_weights(model, Weights("Caffe", tensors, paddle=False), "file")


# ------------------------------------------------------------------------------------------------------- the format

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
        (layer_message("x", "BatchNorm", [CONV[0, 0, 0]] * 2), "without its scale factor"),
        (field(100, field(1, b"x") + field(7, field(7, field(1, HUGE)) + field(5, b"\0" * 8))), "has 2 values"),
        (field(100, field(1, b"x") + field(7, field(7, field(1, b"\x02")))), "has 0 values"),
        (field(100, field(1, b"x") + field(7, field(5, b"\0" * 7) + field(1, 1))), "has 1.75 values"),
        (field(100, field(1, b"x") + field(7, field(7, field(1, b"\1" * 99)))), "more than 16 dimensions"),
        (field(100, field(1, b"x") + field(7, b"") * 99), "shape"),
        (layer_message("x", "BatchNorm", [CONV, CONV, CONV]), "without its scale factor"),
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
    assert blob_message(array)  # what was read is what the writer writes


# --------------------------------------------------------------------------------------------------- means, other files


@pytest.mark.parametrize(
    ("name", "theirs_name", "options", "size"),
    [
        ("WideResNet50_2", "wide_resnet50_2", {}, 64),
        ("InceptionV3_torchvision", "inception_v3", {"aux_logits": True, "init_weights": False}, 96),
    ],
)
def test_files_of_torchvision(name, theirs_name, options, size, tmp_path):
    theirs = torchvision_network(theirs_name, **options)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = models.build(name)
    load_pretrained(ours, tmp_path / "theirs.pth")
    assert error_of_logits(ours.eval(), theirs, size) < BAR


def test_inception_v3_refuses_torchvisions_file(tmp_path):
    theirs = torchvision_network("inception_v3", aux_logits=True, init_weights=False)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="they fit --model=InceptionV3_torchvision"):
        load_pretrained(models.InceptionV3(), tmp_path / "theirs.pth")
