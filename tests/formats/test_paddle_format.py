"""PaddlePaddle's files: real ones, our own, and invalid ones, which are refused."""

import collections
import contextlib
import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from utils.errors import FormatError
from utils.formats.archives import decompress, tar_members
from utils.formats.paddle import (
    DATA_TYPES,
    program_variables,
    read_variable,
    read_variables,
    variable_header,
    write_variable,
)
from utils.formats.pickles import read_pickle

# Written by PaddlePaddle 1.8.5 (the PaddleClas file by 3.3.1): MobileNetV1_x0_25 after three steps of training.
FILES = Path(__file__).parents[1] / "fixtures" / "paddle"


@pytest.fixture(scope="module")
def published():
    """The variable files of a published .tar, by name."""
    members = tar_members(decompress(FILES / "MobileNetV1_x0_25_pretrained.tar.xz"))
    return {name.rpartition("/")[2]: bytes(content) for name, content in members.items()}


def variable(description, values=b"", levels=b"\0" * 8, size=None):
    """A variable file with this description of its tensor."""
    size = len(description) if size is None else size
    return b"\0" * 4 + levels + b"\0" * 4 + struct.pack("<i", size) + description + values


# ------------------------------------------------------------------------------------------------------ variables


def test_variable_of_the_original(published):
    content = published["conv1_weights"]
    array, end = read_variable(content)
    assert end == len(content)
    assert array.shape == (8, 3, 3, 3)
    assert array.dtype == np.float32
    # 4 version, 8 LoD levels, 4 tensor version, 4 length, 10 description
    assert array.tobytes() == content[30:]


def test_variables_are_written_as_the_original_wrote_them(published, tmp_path):
    assert len(published) == 137
    for name, content in published.items():
        write_variable(read_variable(content)[0], tmp_path / "in" / name)
        assert (tmp_path / "in" / name).read_bytes() == content


@pytest.mark.parametrize("dtype", DATA_TYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (300,), (2, 3, 4), (0, 4)], ids=str)
def test_round_trip(dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    (again,) = read_variables(variable_header(array) + array.tobytes())
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, array)


def test_description_with_packed_dimensions():
    array, _ = read_variable(variable(b"\x08\x05\x12\x02\x02\x03", struct.pack("<6f", *range(6))))
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])


def test_lod_is_passed_over():
    lod = struct.pack("<Q", 1) + struct.pack("<Q2Q", 16, 0, 2)
    array, _ = read_variable(variable(b"\x08\x05\x10\x02", struct.pack("<2f", 1, 2), levels=lod))
    np.testing.assert_array_equal(array, [1, 2])


def test_every_truncation_is_noticed(published):
    content = published["conv1_bn_mean"]
    for length in range(len(content)):
        with pytest.raises(FormatError):
            read_variable(content[:length])


HUGE = b"\x80\x80\x80\x80\x80\x80\x01"  # a varint of 2**42


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\1" + b"\0" * 40, "version 1"),
        (variable(b"\x08\x05\x10" + HUGE), "takes 17592186044416 bytes"),
        (variable(b"\x08\x05\x10" + HUGE + b"\x10\0"), "but [0-9]+ follow"),
        (variable(b"\x08\x05\x10" + b"\xff" * 9 + b"\x01"), "but [0-9]+ follow"),  # -1
        (variable(b"\x08\x05\x10" + b"\xff" * 11), "does not end"),
        (variable(b"\x08\x05" + b"\x10\x01" * 17), "more than 16 dimensions"),
        (variable(b"\x08\x05\x12\x7f" + b"\x01" * 127), "more than 16 dimensions"),
        (variable(b"\x08\x63\x10\x01"), "data type 99"),
        (variable(b"\x10\x01"), "data type None"),
        (variable(b"\x08\x05\x0b"), "unknown type 3"),
        (variable(b"\x08\x05\x12\x7f"), "cut short"),
        (variable(b"\x08\x05\x10\x01", size=2**31 - 1), "should have 2147483647 bytes"),
        (variable(b"\x08\x05\x10\x01", size=-1), "should have -1 bytes"),
        (variable(b"\x08\x05\x10\x01", levels=b"\xff" * 8), "LoD levels"),
        (variable(b"\x08\x05" + b"\x10\x01" * 600), "more than any tensor needs"),
        (variable(b"\x08\x05\x10\x01", levels=struct.pack("<QQ", 1, 2**64 - 1)), "cut short"),
    ],
)
def test_what_is_no_variable_is_refused(content, reason):
    with pytest.raises(FormatError, match=reason):
        read_variable(content)


# ------------------------------------------------------------------------------------------------- combined files


def test_combined_file_is_the_variables_in_the_order_of_the_programs_names(published):
    with gzip.open(FILES / "MobileNetV1_x0_25_model.gz") as file:
        names = program_variables(file.read())
    assert names == sorted(published)
    combined = b"".join(published[name] for name in names)
    # The order in the file `params` that the original wrote next to this program.
    expected = "cf07069669a3056e21398221c9ad965036aa4c3e780dc98f967c628e3b332354"
    assert hashlib.sha256(combined).hexdigest() == expected
    for array, name in zip(read_variables(combined), names, strict=True):
        np.testing.assert_array_equal(array, read_variable(published[name])[0])


@pytest.mark.parametrize("content", [b"\x0a\x7f", b"\x0a\x03\x1a\x7f\0", b"\xff" * 20])
def test_damaged_program_is_refused(content):
    with pytest.raises(FormatError):
        program_variables(content)


# -------------------------------------------------------------------------------------------------------- pickles


# Real files, cut after some tensors.
@pytest.mark.parametrize(("file", "count"), [("fluid_save_head.pdparams", 1), ("paddleclas_head.pdparams", 28)])
def test_pickle_of_the_original(file, count):
    content = (FILES / file).read_bytes()
    arrays, others = read_pickle(content)
    assert (len(arrays), others) == (count, 0)
    expected = pickle.loads(content)
    assert list(arrays) == list(expected)
    for name, array in arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name])


class Stands:
    """An object that is pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_forms_of_tensors(protocol):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    content = collections.OrderedDict(
        plain=array,
        fortran=np.asfortranarray(array),
        big_endian=array.astype(">f4"),
        half=array.astype(np.float16),
        whole=array.astype(np.int64),
        # PaddlePaddle 2's pickled tensors, from dynamic and static graphs.
        named=Stands(tuple, ("linear_0.w_0", array)),
        lod=Stands(eval, "data", {"data": array}),
        number=3,
        **{"StructuredToParameterName@@": {"plain": "linear_0.w_0"}},
    )
    arrays, others = read_pickle(pickle.dumps(content, protocol))
    assert set(arrays) == {"plain", "fortran", "big_endian", "half", "whole", "named", "lod"}
    assert others == 2
    for found in arrays.values():
        np.testing.assert_array_equal(found, array)


def test_shared_arrays_and_types():
    array = np.ones(5, np.float32)
    arrays, _ = read_pickle(pickle.dumps({"a": array, "b": array, "c": array + 1}, 2))
    assert [found.tolist() for found in arrays.values()] == [[1] * 5, [1] * 5, [2] * 5]


def as_array(shape=(2,), code="f4", values=b"\0" * 8, state=None):
    """An array with these parts, as numpy would pickle it."""

    class Array:
        def __reduce__(self):
            dtype = Stands(np.dtype, code, False, True)
            return np.arange(2).__reduce__()[0], (np.ndarray, (0,), b"b"), state or (1, shape, dtype, False, values)

    return {"a": Array()}


def test_as_array_is_how_numpy_pickles():
    arrays, _ = read_pickle(pickle.dumps(as_array()))
    assert arrays["a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": Stands(eval, "__import__('os').abort()", {})}, "refused: it calls .*eval"),
        ({"a": Stands(eval, "data", {"data": 1, "__builtins__": {}})}, "refused: it calls .*eval"),
        ({"a": Stands(exec, "1")}, "refused: it calls .*exec"),
        ({"a": Stands(Path, "x")}, "refused: it calls pathlib"),
        ({"a": Stands(tuple, [1, 2])}, "refused: it calls .*tuple"),
        ({"a": Stands(collections.OrderedDict, [("a", 1)])}, "refused: it calls collections.OrderedDict"),
        ({"a": np.array([Path("x"), "y"], object)}, "refused|not supported"),
        (as_array((3,)), "shape .3. has 2 values"),
        (as_array((-1, -2)), "no valid shape"),
        (as_array((2**40, 0)), "no valid shape"),
        (as_array(("a", 2**30)), "no valid shape"),
        (as_array(code="O8"), "'O8' are not supported"),
        (as_array(code="f4,i8"), "not supported"),
        (as_array(code=5), "damaged"),
        (as_array(values=7), "damaged"),
        (as_array(state=(1,)), "damaged"),
        ([1, 2], "holds a list"),
        ({1: 2}, "damaged"),
        ({("a", "b"): 2}, "damaged"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_not_plain_data_is_refused(content, reason, protocol):
    with pytest.raises(FormatError, match=reason):
        read_pickle(pickle.dumps(content, protocol))


def test_objects_with_state_are_refused():
    with pytest.raises(FormatError, match="refused"):
        read_pickle(pickle.dumps({"a": Path("x"), "b": collections.Counter()}))
    # BUILD on a dictionary
    with pytest.raises(FormatError, match="sets the state of a dict"):
        read_pickle(b"\x80\x02}}b.")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo entry far away: CPython's unpickler allocates all before it
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # BINBYTES8 of 2**63 - 1 bytes
        b"\x80\x02}" + b"(" * 100_000 + b".",
        b"\x80\x02" + b"K\1" + b"\x85" * 100_000 + b".",  # tuples in tuples
        b"\x80\x02}(" + b"K\1" + b"\x85" * 100_000 + b"K\1u.",  # as a key
        b"\x80\x02}",
        b"\x80\x02.",
        b"\x80\x02u.",
        b"\x80\x02}(X\1\0\0\0au.",
        b"\x80\x02}h\5.",
        b"\x80\x02cos\nsystem\nX\1\0\0\0a\x85R.",
    ],
)
def test_damaged_and_hostile_pickles(content):
    with contextlib.suppress(FormatError):
        assert read_pickle(content) == ({}, 0)


def test_one_string_is_not_encoded_over_and_over():
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\1"
    encode = b"c_codecs\nencode\nh\1X\6\0\0\0latin1\x86R"
    with pytest.raises(FormatError, match="more bytes than the file is long"):
        read_pickle(b"\x80\x02" + text + encode * 1000 + b".")
