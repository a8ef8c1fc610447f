"""Damaged weight files: each loads or raises a `UserError`, in bounded memory, and nothing is written."""

import gzip
import io
import os
import pickle
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import tar_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from utils.errors import FormatError, UserError
from utils.formats.paddle import program_variables, read_variables, variable_header
from utils.formats.pickles import read_pickle
from utils.weights import read_weights

# PyTorch's warning about the protocol of a damaged pickle.
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

# The same examples in every run: a failure is the code's, and can be repeated.
fuzz = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# More than any of these small files needs, but less than their damaged lengths may claim.
MEMORY = 1 << 30

ARRAYS = {
    "conv1_weights": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "fc_0.w_0": np.ones((3, 2), np.float32),
    "@LR_DECAY_COUNTER@": np.array([7], np.int64),
}


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Limits this process to `MEMORY` more than it has now."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():  # not Linux
        yield
        return
    used = int(statistics.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def variable(array):
    return variable_header(array) + array.tobytes()


def tar(mode="w"):
    return tar_of({f"pretrained/{name}": variable(array) for name, array in ARRAYS.items()}, mode)


def zipped(compression):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, array in ARRAYS.items():
            archive.writestr(f"pretrained/{name}", variable(array))
    return content.getvalue()


def saved_by_torch(**options):
    content = io.BytesIO()
    torch.save({"state_dict": {name: torch.from_numpy(array) for name, array in ARRAYS.items()}}, content, **options)
    return content.getvalue()


FILES = {
    "variable": variable(ARRAYS["conv1_weights"]),
    "combined": b"".join(map(variable, ARRAYS.values())),
    "tar": tar(),
    "tar.gz": tar("w:gz"),
    "tar.bz2": tar("w:bz2"),
    "tar.xz": tar("w:xz"),
    "zip": zipped(zipfile.ZIP_DEFLATED),
    "stored zip": zipped(zipfile.ZIP_STORED),
    "pdparams 2": pickle.dumps(ARRAYS, 2),
    "pdparams 4": pickle.dumps(ARRAYS, 4),
    "pth": saved_by_torch(),
    "old pth": saved_by_torch(_use_new_zipfile_serialization=False),
    "safetensors": save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}),
}


@st.composite
def damaged(draw, content):
    """`content` after some bits flipped, bytes replaced, parts cut out, doubled or cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(("flip", "replace", "insert", "delete", "double", "truncate")))
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        if not content:
            break
        if kind == "flip":
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "replace":
            # The most harmful values of lengths and counts.
            new = draw(st.sampled_from((b"\0", b"\xff", b"\x7f", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\xff" * 8)))
            content[place : place + len(new)] = new
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "delete":
            del content[place : place + draw(st.integers(1, 64))]
        elif kind == "double":
            content[place:place] = content[place : place + draw(st.integers(1, 600))]
        else:
            del content[place:]
    return bytes(content)


def check(path, content):
    """Reads a file with this content."""
    path.write_bytes(content)
    before = sorted(os.listdir(path.parent))
    try:
        weights = read_weights(path)
    except UserError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
    else:
        for tensor in (*weights.tensors.values(), *weights.unnamed):
            # A view of existing memory, no larger than the file can have unpacked to.
            assert tensor.numel() * tensor.element_size() <= max(len(content) * 2000, 1 << 20)
            tensor.double().sum()
    assert sorted(os.listdir(path.parent)) == before


@pytest.mark.parametrize("kind", FILES)
def test_whole_file_is_read(kind, tmp_path):
    (tmp_path / "x").write_bytes(FILES[kind])
    weights = read_weights(tmp_path / "x")
    assert len(weights.tensors) + len(weights.unnamed) == (1 if kind == "variable" else 3)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_file(kind, tmp_path):
    @fuzz
    @given(damaged(FILES[kind]))
    def damaged_file(content):
        check(tmp_path / "x", content)

    damaged_file()


@fuzz
@given(
    st.sampled_from(
        (b"", b"\0" * 12, b"\x80\x02}", b"\x80\x04\x95", b"PK\x03\x04", b"\x1f\x8b\x08", b"\x10" + b"\0" * 7 + b"{")
    ),
    st.binary(max_size=600),
)
def test_any_bytes(tmp_path, start, content):
    check(tmp_path / "x", start + content)


# --------------------------------------------------------------------------------- the parsers, beneath checksums


def tolerant(parser, content):
    """Runs a parser that may raise nothing but `FormatError`."""
    try:
        return parser(content)
    except FormatError:
        return None


def test_damaged_members_beneath_intact_checksums(tmp_path):
    """A checksum would shield the inner parsers from most damage."""

    @fuzz
    @given(damaged(tar()), st.sampled_from(("gz", "zip")))
    def damaged_content(content, form):
        if form == "gz":
            check(tmp_path / "x", gzip.compress(content, 1))
            return
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("x/conv1_weights", content)
        check(tmp_path / "x", archive.getvalue())

    damaged_content()


def test_damaged_tar_headers_with_right_checksums(tmp_path):
    header_size = tarfile.BLOCKSIZE

    @fuzz
    @given(damaged(tar()[:header_size]))
    def damaged_header(header):
        header = bytearray(header[:header_size].ljust(header_size, b"\0"))
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        check(tmp_path / "x", bytes(header) + tar()[header_size:])

    damaged_header()


def test_damaged_pickle_within_a_pytorch_file(tmp_path):
    with zipfile.ZipFile(io.BytesIO(FILES["pth"])) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))

    @fuzz
    @given(damaged(members[pickled]))
    def damaged_pickle(content):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            for name, member in {**members, pickled: content}.items():
                file.writestr(name, member)
        check(tmp_path / "x", archive.getvalue())

    damaged_pickle()


@fuzz
@given(st.one_of(st.binary(max_size=200), damaged(FILES["combined"])))
@example(b"\0" * 12 + b"\xff" * 100)
def test_variables(content):
    arrays = tolerant(read_variables, content)
    assert arrays is None or sum(array.nbytes for array in arrays) <= len(content)


@fuzz
@given(st.one_of(st.binary(max_size=200), damaged(b"\x0a\x12\x1a\x10\x0a\x04conv\x12\x04\x08\x07\x12\0\x18\x01")))
def test_programs(content):
    tolerant(program_variables, content)


# The opcodes that a .pdparams file may have, and some that it may not.
OPCODES = st.sampled_from([bytes([code]) for code in b"}](ueasthjqrK\x85\x86\x87\x88\x89)Rb\x93\x94NG2c0io\x81\x8a"])
PIECES = st.one_of(
    OPCODES,
    st.builds(lambda text: b"X" + len(text).to_bytes(4, "little") + text, st.sampled_from((b"a", b"f4", b"latin1"))),
    st.builds(lambda data: b"C" + bytes([len(data)]) + data, st.binary(max_size=9)),
    st.sampled_from((b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n")),
    st.sampled_from((b"K\1", b"J\xff\xff\xff\xff", b"\x85", b"q\1", b"h\1")),
)


@fuzz
@given(st.lists(PIECES, max_size=40))
def test_pickle_programs(pieces):
    tolerant(read_pickle, b"\x80\x02}" + b"".join(pieces) + b".")
