"""Weights written in every form that can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from paddle_files import NAME, assert_same, fresh

import models
from utils.errors import FlagError, UserError
from utils.weights import load_pretrained
from utils.weights.write import check_output, write_weights


def test_names_with_slashes(tmp_path):
    trained = fresh("Xception41_deeplab")
    write_weights(trained, tmp_path / "x.tar", "Xception41_deeplab", 1000)
    model = models.build("Xception41_deeplab")
    load_pretrained(model, tmp_path / "x.tar")
    assert_same(model, trained)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".PTH", ".safetensors", ".pdparams", ".Tar", ".v2", ""])
def test_what_is_written_is_read_again(ending, tmp_path):
    """Linear weights have the right orientation; no other file is left behind."""
    ours, path = fresh(), tmp_path / f"x{ending}"
    write_weights(ours, path, NAME, 1000)
    model = models.build(NAME)
    load_pretrained(model, path)
    assert_same(model, ours)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "name", ["x.gz", "x.tar.xz", "x.tar.bz2", "x.PDOPT", "x.ckpt", "x.caffemodel", "x.bin", "x.pkl", "x.onnx"]
)
def test_kinds_that_are_only_read(name, tmp_path):
    with pytest.raises(FlagError, match=f"--output: cannot write {Path(name).suffix}: give"):
        check_output(tmp_path / name)


def test_only_an_empty_folder_is_written_to(tmp_path):
    check_output(tmp_path)
    (tmp_path / "file").write_text("dear to its owner")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=f"--output: {taken} exists already: give a new folder"):
            check_output(taken)
    check_output(tmp_path / "file.pth")
    (tmp_path / "x.pth").mkdir()
    with pytest.raises(UserError, match=r"x\.pth is a folder: give a file name"):
        check_output(tmp_path / "x.pth")
