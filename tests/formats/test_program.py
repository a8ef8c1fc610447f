"""torch.export programs are read as data: nothing in them runs except operators."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import copied, export_tiny, images, refusal

from utils.deploy.comparing import relative_difference
from utils.deploy.exported import load_exported
from utils.deploy.program_graph import attention
from utils.errors import UserError
from utils.formats.torch_program import ProgramError, read_program


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small network exported: its folder and the network."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, export_tiny(folder)


def rewritten(folder: Path, tmp_path: Path, change) -> Path:
    """A copy of an exported network whose program was changed by `change`."""
    copy = copied(folder, tmp_path)
    with zipfile.ZipFile(folder / "model") as archive, zipfile.ZipFile(copy / "model", "w") as target:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(data)
                change(program)
                data = json.dumps(program).encode()
            target.writestr(name, data)
    return copy / "model"


def test_another_version(tiny, tmp_path):
    folder, _ = tiny

    def change(program):
        program["schema_version"]["major"] = 99

    assert "version 99" in refusal(rewritten(folder, tmp_path, change))


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten._reshape_alias.default",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.add.out",
        "torch.ops.mkldnn._convolution_pointwise.default",
        "torch.ops.aten.__class__.__init__",
        "torch.ops.aten.relu.__call__",
        "_operator.attrgetter",
        "math.factorial",
        "builtins.exec",
        "#extension:anything",
    ],
)
def test_programs_cannot_call_anything_but_operators(tiny, tmp_path, target):
    folder, _ = tiny

    def change(program):
        program["graph_module"]["graph"]["nodes"][1]["target"] = target

    assert "cannot be run here" in refusal(rewritten(folder, tmp_path, change))


def test_names_in_a_program_do_not_become_code(tiny, tmp_path):
    folder, _ = tiny
    trap = tmp_path / "trap"
    code = f"open({str(trap)!r}, 'w')"

    def change(program):
        node = program["graph_module"]["graph"]["nodes"][0]
        node["inputs"].append({"name": f"groups={code}, bias", "arg": {"as_string": code}, "kind": 2})

    assert "cannot be an argument's name" in refusal(rewritten(folder, tmp_path, change))
    assert not trap.exists()


@pytest.mark.parametrize("path", ["nodes", "inputs", "outputs", "tensor_values"])
def test_programs_with_parts_missing(tiny, tmp_path, path):
    folder, _ = tiny

    def change(program):
        del program["graph_module"]["graph"][path]

    assert "cannot be run here" in refusal(rewritten(folder, tmp_path, change))


def test_an_archive_of_pickles_is_not_unpickled(tiny, tmp_path):
    """torch.export.load would unpickle data/sample_inputs; ours does not look at it."""
    import pickle

    folder, model = tiny
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self):
            return open, (str(trap), "w")

    copy = copied(folder, tmp_path)
    with zipfile.ZipFile(folder / "model") as archive, zipfile.ZipFile(copy / "model", "w") as target:
        for name in archive.namelist():
            target.writestr(name, pickle.dumps(Trap()) if "sample_inputs" in name else archive.read(name))
    with torch.inference_mode():
        assert relative_difference(load_exported(str(copy / "model"))(images(1, 64)), model(images(1, 64))) < 1e-5
    assert not trap.exists()


def test_programs_are_refused_by_reason():
    with pytest.raises(ProgramError, match="not a program"):
        read_program(io.BytesIO(b"nothing"))


def calls(target: str, result: str, **inputs) -> dict:
    """A node of a program that calls an operator."""
    given = [{"name": name, "arg": argument, "kind": 1} for name, argument in inputs.items()]
    return {"target": target, "inputs": given, "outputs": [{"as_tensor": {"name": result}}], "metadata": {}}


def test_a_program_cannot_write_outside_of_its_tensors(tiny, tmp_path):
    folder, _ = tiny

    def change(program):
        graph = program["graph_module"]["graph"]
        (output,) = graph["outputs"]
        graph["nodes"] += [
            calls(
                "torch.ops.aten._reshape_alias.default",
                "far",
                self=output,
                size={"as_ints": [1 << 30]},
                stride={"as_ints": [1]},
            ),
            calls("torch.ops.aten.add_.Scalar", "written", self={"as_tensor": {"name": "far"}}, other={"as_int": 7}),
        ]

    message = refusal(rewritten(folder, tmp_path, change))
    assert "it calls 'torch.ops.aten._reshape_alias.default', which no network in models/ uses" in message


def test_attention_to_more_values_than_keys_is_refused():
    """Otherwise PyTorch's operator would read beyond the keys."""
    query, values = torch.ones(1, 1, 4, 16), torch.ones(1, 1, 8, 16)
    with pytest.raises(UserError, match="2 keys but 8 values"):
        attention(query, torch.ones(1, 1, 2, 16), values)
    assert torch.equal(attention(query, torch.ones(1, 1, 8, 16), values, None, 0.0, scale=0.5), torch.ones(1, 1, 4, 16))


def test_what_pytorch_would_not_have_compressed_is_not_unpacked(tiny, tmp_path):
    folder, _ = tiny
    copy = copied(folder, tmp_path)
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(folder / "model") as archive, zipfile.ZipFile(copy / "model", "w") as target:
            for name in archive.namelist():
                padding = b" " * (32 << 20) if name.endswith("models/model.json") else b""
                target.writestr(name, archive.read(name) + padding, compress_type=method)
        tracemalloc.start()
        assert "not a program that torch.export wrote" in refusal(copy / "model")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()


def test_damaged_archives_are_one_line(tiny):
    folder, _ = tiny
    data = (folder / "model").read_bytes()
    directory = data.index(b"PK\1\2")
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for position in random.integers(directory, len(data), 3):
            damaged[position] = random.integers(256)
        try:
            read_program(io.BytesIO(damaged), "description.json")
        except ProgramError as error:
            assert "not a program" in str(error)
