"""PaddlePaddle's exported models in every form of storage, and files that do not belong together."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from archives import tar_of
from paddle_programs import (
    EXAMPLES,
    PPLCNET,
    example_files,
    example_program,
    program_desc,
    variable_desc,
    write_example,
)
from paddle_programs import operation_desc as operation

from utils.errors import FormatError, UserError
from utils.formats.inference_model import is_inference_model, read_inference_model, read_parameters, read_program
from utils.formats.paddle import read_variable, variable_header

PROGRAM_NAMES = {"custom_net": "model", "custom_wide": "__model__", PPLCNET[0]: "inference.json"}


def program_path(name: str, folder: Path) -> Path:
    return folder / PROGRAM_NAMES.get(name, "inference.pdmodel")


def archived(name: str, path: Path, mode: str = "w", folder: str = "x_infer") -> Path:
    with tarfile.open(path, mode) as archive:
        archive.add(write_example(name, path.parent / "to_pack"), folder)
    return path


FORMS = {
    "program": lambda name, path: program_path(name, write_example(name, path)),
    "folder": lambda name, path: write_example(name, path),
    "tar": lambda name, path: archived(name, path / "x_infer.tar"),
    "tar.gz": lambda name, path: archived(name, path / "x_infer.tar.gz", "w:gz"),
    "tar of ./": lambda name, path: archived(name, path / "x.tar", folder="."),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form(name, form, tmp_path):
    path = FORMS[form](name, tmp_path)
    assert is_inference_model(path)
    model = read_inference_model(path)
    assert model.program == read_program(example_program(name))
    assert list(model.parameters) == list(model.program.parameters)
    for parameter, array in model.parameters.items():
        variable = model.program.variables[parameter]
        assert (array.shape, array.dtype.name) == (variable.shape, variable.dtype)
    if name in PPLCNET:
        assert model.settings is not None and model.settings.startswith("Global:")
        assert len(model.structured_names) == (0 if "json" in name else 146)
    else:
        assert model.settings is None


def test_values_are_those_of_the_files(tmp_path):
    model = read_inference_model(write_example("custom_wide", tmp_path))
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(array, read_variable(example_files()[f"custom_wide/{name}"])[0])


def test_combined_file_is_in_the_order_of_sorted_names(tmp_path):
    model = read_inference_model(write_example(PPLCNET[1], tmp_path))
    offset, content = 0, example_files()[f"{PPLCNET[1]}/inference.pdiparams"]
    for name in sorted(model.parameters):
        array, offset = read_variable(content, offset)
        np.testing.assert_array_equal(model.parameters[name], array)
    assert offset == len(content)


def test_names_of_the_state_dict(tmp_path):
    model = read_inference_model(write_example(PPLCNET[2], tmp_path))
    assert model.structured_names["conv2d_0.w_0"] == "base_model.conv1.conv.weight"


def test_params_file_elsewhere(tmp_path):
    program = program_path("custom_net", write_example("custom_net", tmp_path))
    (tmp_path / "else").mkdir()
    params = (tmp_path / "params").rename(tmp_path / "else" / "weights")
    assert len(read_inference_model(program, params).parameters) == 34
    with pytest.raises(UserError, match=r"model are not next to it, neither as model.pdiparams, .*give --params_file"):
        read_inference_model(program, remedy="give --params_file")


def test_params_in_a_folder_of_their_own(tmp_path):
    folder = write_example("custom_wide", tmp_path / "vars")
    program = (folder / "__model__").rename(tmp_path / "__model__")
    assert len(read_inference_model(program, folder).parameters) == 13


def test_ending_may_be_left_out(tmp_path):
    write_example(PPLCNET[0], tmp_path)
    assert is_inference_model(tmp_path / "inference")
    assert read_inference_model(tmp_path / "inference").program.dialect == "pir"


def test_names_that_users_gave(tmp_path):
    write_example(PPLCNET[1], tmp_path)
    for file in os.listdir(tmp_path):
        (tmp_path / file).rename(tmp_path / file.replace("inference", "my_net"))
    model = read_inference_model(tmp_path)
    assert model.settings and model.structured_names
    (tmp_path / "other.pdmodel").write_bytes(example_program("custom_net"))
    with pytest.raises(UserError, match=r"several programs \(my_net.pdmodel, other.pdmodel\): give the one to run"):
        read_inference_model(tmp_path)


def test_parameters_with_a_slash_in_their_names(tmp_path):
    array = np.arange(2, dtype=np.float32)
    parameter = variable_header(array) + array.tobytes()
    content = program_desc(
        operation("elementwise_add", {"X": ["x"], "Y": ["fc/w"]}, {"Out": ["y"]}),
        variables=[variable_desc("fc/w", persistable=1)],
    )
    (tmp_path / "fc").mkdir()
    (tmp_path / "fc" / "w").write_bytes(parameter)
    (tmp_path / "__model__").write_bytes(content)
    (tmp_path / "x.tar").write_bytes(tar_of({"net/__model__": content, "net/fc/w": parameter}))
    for path in (tmp_path, tmp_path / "x.tar"):
        np.testing.assert_array_equal(read_inference_model(path).parameters["fc/w"], [0, 1])


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "x\0"])
def test_no_file_outside_of_the_folder_is_read(name, tmp_path):
    array = np.arange(2, dtype=np.float32)
    (tmp_path / "secret").write_bytes(variable_header(array) + array.tobytes())
    (tmp_path / "net" / "a").mkdir(parents=True)
    content = program_desc(
        operation("relu", {"X": ["x"]}, {"Out": ["y"]}), variables=[variable_desc(name, persistable=1)]
    )
    (tmp_path / "net" / "__model__").write_bytes(content)
    with pytest.raises(UserError, match="are not next to it"):
        read_inference_model(tmp_path / "net")


# ---------------------------------------------------------------------------------------- what does not belong together


@pytest.fixture
def small():
    """A program with two parameters, and their combined file."""
    variables = [variable_desc("a", [2, 3], persistable=1), variable_desc("b", [4], dtype=3, persistable=1)]
    program = read_program(program_desc(operation("relu", {"X": ["x"]}, {"Out": ["y"]}), variables=variables))
    return program, {"a": np.ones((2, 3), np.float32), "b": np.arange(4)}


def combined(*arrays: np.ndarray) -> bytes:
    return b"".join(variable_header(array) + array.tobytes() for array in arrays)


def test_parameters(small):
    program, arrays = small
    parameters = read_parameters(program, combined(*arrays.values()))
    np.testing.assert_equal(parameters, arrays)
    np.testing.assert_equal(read_parameters(program, {name: combined(a) for name, a in arrays.items()}), arrays)


@pytest.mark.parametrize(
    ("arrays", "cut", "reason"),
    [
        ([np.ones((3, 2), np.float32), np.arange(4)], 0, r"'a' is float32 \[3, 2\] in the file, but float32 \[2, 3\]"),
        ([np.ones((2, 3), np.float32), np.arange(4.0)], 0, r"'b' is float64 \[4\] in the file, but int64 \[4\]"),
        ([np.ones((2, 3), np.float32), np.arange(4)], 1, "'b': shape .4. takes 32 bytes, but 31 follow"),
        ([np.ones((2, 3), np.float32)], 0, "'b': the header is cut short"),
        ([np.ones((2, 3), np.float32), np.arange(4), np.arange(4)], 0, "take 106 bytes, the file has 162: they do not"),
        ([], 0, "'a': the header is cut short"),
    ],
)
def test_parameters_of_another_program(small, arrays, cut, reason):
    content = combined(*arrays)
    with pytest.raises(FormatError, match=reason):
        read_parameters(small[0], content[: len(content) - cut])


def test_every_truncation_is_noticed(small):
    program, arrays = small
    content = combined(*arrays.values())
    for length in range(len(content)):
        with pytest.raises(FormatError, match=r"parameter '[ab]'"):
            read_parameters(program, content[:length])


def test_files_of_single_parameters(small):
    program, arrays = small
    files = {name: combined(array) for name, array in arrays.items()}
    with pytest.raises(FormatError, match="parameter 'b' has no file"):
        read_parameters(program, {"a": files["a"]})
    with pytest.raises(FormatError, match="parameter 'b': its file has 1 bytes too many"):
        read_parameters(program, {**files, "b": files["b"] + b"\0"})


def test_bfloat16_is_given_as_float32():
    program = read_program(
        program_desc(
            operation("relu", {"X": ["x"]}, {"Out": ["y"]}), variables=[variable_desc("w", dtype=22, persistable=1)]
        )
    )
    header = variable_header(np.zeros(2, np.int16)).replace(b"\x08\x01", b"\x08\x16")
    parameters = read_parameters(program, header + np.array([0x3F80, 0xC020], np.uint16).tobytes())
    np.testing.assert_array_equal(parameters["w"], np.float32([1.0, -2.5]))
    assert parameters["w"].dtype == np.float32


# ------------------------------------------------------------------------------------------------------- other files


@pytest.mark.parametrize(
    ("files", "given", "reason"),
    [
        ({}, "", "holds no PaddlePaddle program"),
        ({}, "model", "model cannot be read: No such file"),
        ({"model": b"PK\3\4"}, "model", "model: not a PaddlePaddle program .it starts with b'PK"),
        ({"model": b""}, "model", "not a PaddlePaddle program"),
        ({"x.tar": tar_of({"a/b": b"c"})}, "x.tar", "an archive without a PaddlePaddle program"),
        ({"x.tar": tar_of({"a/model": b"\x0a\0", "b/model": b"\x0a\0"})}, "x.tar", "several programs, in a, b"),
        ({"x.tar": tar_of({"a/model": b"\x0a\0"})}, "x.tar", "x.tar: model: the program has no input"),
        ({"x.tar": tar_of({"../model": b"\x0a\0"})}, "x.tar", "points outside the archive"),
    ],
)
def test_what_is_no_exported_model(files, given, reason, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_inference_model(tmp_path / given)


def test_a_pipe_is_no_exported_model(tmp_path):
    os.mkfifo(tmp_path / "model")
    assert not is_inference_model(tmp_path / "model")
    with pytest.raises(UserError, match="model: is neither a file nor a folder"):
        read_inference_model(tmp_path / "model")


def test_other_files_are_not_taken_for_exported_models(tmp_path):
    (tmp_path / "model").write_bytes(b"PK\3\4")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a")
    (tmp_path / "settings.json").write_text("{}")
    for name in ("", "model", "model.onnx", "settings.json", "missing"):
        assert not is_inference_model(tmp_path / name)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("inference.yml", b"\xff\xfe\xfa", "inference.yml is not UTF-8 text"),
        ("inference.yml", b" " * (5 << 20), "inference.yml has more than 4 MB"),
        ("inference.pdiparams.info", b"\x80\x02cos\nsystem\nX\1\0\0\0a\x85R.", "inference.pdiparams.info: refused"),
        ("inference.pdiparams.info", b"\x80\x02", "inference.pdiparams.info: .*pickle"),
    ],
)
def test_damaged_files_beside_the_program(file, content, reason, tmp_path):
    write_example(PPLCNET[1], tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_inference_model(tmp_path)


def test_archive_is_read_in_memory(tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(write_example("custom_net", tmp_path / "net"), "x_infer")
    (tmp_path / "x_infer.tar").write_bytes(content.getvalue())
    before = sorted(tmp_path.rglob("*"))
    assert len(read_inference_model(tmp_path / "x_infer.tar").parameters) == 34
    assert sorted(tmp_path.rglob("*")) == before
