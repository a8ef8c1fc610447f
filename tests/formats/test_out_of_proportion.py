"""Small files that demand huge memory or time: they are refused before anything is built from them."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from utils.errors import FormatError
from utils.formats import pickles, torch_archive
from utils.formats.paddle import read_variables, variable_header
from utils.formats.pickles import read_pickle
from utils.formats.torch_archive import check_torch_file
from utils.weights.torch_files import read_torch

# "a", then forty tuples that each hold the previous value twice: 2 ** 40 letters if it is ever compared or printed.
DOUBLED = b"X\1\0\0\0aq\0h\0" + b"\x86q\0h\0h\0" * 40 + b"\x86"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


@pytest.mark.parametrize(
    "content",
    [
        DOUBLED + text(b"x") + b"\x93",  # as a module
        text(b"x") + DOUBLED + b"\x93",  # as a name in it
        b"cnumpy\ndtype\n" + DOUBLED + b"\x85R",
        b"c_codecs\nencode\n" + text(b"a") + DOUBLED + b"\x86R",
        b"cbuiltins\neval\n" + DOUBLED + b"}\x86R",
        b"}" + DOUBLED + b"K\1s",  # as a key
        DOUBLED + b")R",  # as a function
        DOUBLED + b"}b",
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\1" + DOUBLED + b"K\1K\0K\0tb",
        b"ca\n" + b"b" * 100_000 + b"\n)R",
    ],
)
def test_what_a_pickle_made_is_neither_compared_nor_printed(content):
    with pytest.raises(FormatError) as error:
        read_pickle(b"\x80\x04" + content + b".")
    assert len(str(error.value)) < 300


def array_of(shape, values):
    """A pickled array with a shape, whose values are on the stack."""
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1btR(K\1" + shape
    return start + b"cnumpy\ndtype\n(X\2\0\0\0u1\x89\x88tR\x89" + values + b"tb"


def test_an_array_has_few_dimensions():
    assert read_pickle(b"\x80\x04}X\1\0\0\0a" + array_of(b"(" + b"K\1" * 16 + b"t", b"C\1a") + b"s.")[0]["a"].size == 1
    with pytest.raises(FormatError, match="more than 16 dimensions"):
        read_pickle(b"\x80\x04" + array_of(b"(" + b"K\1" * 17 + b"t", b"C\1a") + b".")


def test_values_are_those_of_one_array():
    values = b"B" + struct.pack("<I", 10_000) + bytes(10_000)
    shape = b"J" + struct.pack("<i", 10_000) + b"\x85"
    with pytest.raises(FormatError, match="more bytes than the file is long"):
        read_pickle(b"\x80\x04" + values + b"q\1" + array_of(shape, b"h\1") * 50 + b".")


def test_opcodes_are_counted(monkeypatch):
    monkeypatch.setattr(pickles, "_MAX_OPCODES", 1000)
    assert read_pickle(b"\x80\x02}" + b"K\1" * 900 + b"}.") == ({}, 0)
    with pytest.raises(FormatError, match="more than 1000 opcodes"):
        read_pickle(b"\x80\x02}" + b"K\1" * 1000 + b"}.")


def test_variables_are_counted():
    empty = variable_header(np.zeros((0,), np.float32))
    assert len(read_variables(empty * 20_000)) == 20_000
    with pytest.raises(FormatError, match="more than 20000 variables"):
        read_variables(empty * 20_001)


# -------------------------------------------------------------------------------------------------------- PyTorch's


def torch_file(path, pickled, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"\x80\x02}" + DOUBLED + b"K\1s.", "repeats parts of itself"),
        (b"\x80\x02ctorch\nx\n" + DOUBLED + b"R.", "repeats parts of itself"),
        (b"\x80\x02]q\0" + b"]q\1(h\0h\0h\0h\0e]q\0(h\1h\1h\1h\1e" * 10 + b".", "repeats parts of itself"),
        # A list is filled last.
        (b"\x80\x02" + b"".join(b"]q" + bytes([n]) for n in range(60))
         + b"".join(b"h%c(h%ch%ce" % (n, n + 1, n + 1) for n in range(59)) + b".", "repeats parts of itself"),
        (b"\x80\x02]q\0h\0a.", "contains itself"),
        # No container is large, but a thousand of them get a key with a thousand values.
        (b"\x80\x02(" + b"K\1" * 3000 + b"tq\0" + b"}h\0K\1s" * 1000 + b".", "repeats parts of itself"),
        (b"\x80\x02\x86.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02(K\1s.", "damaged"),
        (b"\x80\x02h\1.", "damaged"),
        (b"", "damaged"),
    ],
)  # fmt: skip
def test_a_pickle_of_pytorch_is_in_proportion(pickled, reason, tmp_path):
    with pytest.raises(FormatError, match=reason) as error:
        read_torch(torch_file(tmp_path / "x", pickled))
    assert len(str(error.value)) < 300


def test_opcodes_of_pytorch_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_archive, "_MAX_OPCODES", 1000)
    with pytest.raises(FormatError, match="more than 1000 opcodes"):
        check_torch_file(torch_file(tmp_path / "x", b"\x80\x02" + b"K\1" * 1000 + b"."))


def test_a_pickle_of_old_pytorch_is_in_proportion(tmp_path):
    (tmp_path / "x").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02}" + DOUBLED + b"K\1s.")
    with pytest.raises(FormatError, match="repeats parts of itself"):
        read_torch(tmp_path / "x", legacy=True)


def test_pytorch_compresses_nothing(tmp_path):
    with pytest.raises(FormatError, match="compressed"):
        read_torch(torch_file(tmp_path / "x", bytes(1 << 20), zipfile.ZIP_DEFLATED))


def test_two_files_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data.pkl", b"\x80\x02].")
    with pytest.raises(FormatError, match="two files with the same name"):
        read_torch(tmp_path / "x")


@pytest.mark.parametrize("legacy", [False, True])
def test_what_trainings_save_passes(legacy, tmp_path):
    """With its shared parts: settings shared by parameter groups, storages shared by tensors."""
    shared = {"betas": (0.9, 0.999), "text": "x" * 100}
    weight = torch.zeros(4, 4)
    groups = [{"params": [number], "settings": shared, "betas": shared["betas"]} for number in range(3000)]
    content = {"model": {str(number): weight[number % 4] for number in range(200)}, "groups": groups, "again": groups}
    with open(tmp_path / "x", "wb") as file:
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    check_torch_file(tmp_path / "x", legacy)
    assert len(read_torch(tmp_path / "x", legacy).tensors) == 200


def test_damaged_archives(tmp_path):
    content = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, content)
    for end in range(0, len(content.getvalue()), 50):
        (tmp_path / "x").write_bytes(content.getvalue()[:end])
        with pytest.raises(FormatError):
            check_torch_file(tmp_path / "x")
