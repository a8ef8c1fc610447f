"""The names of the classes on their way: from the data through train.py into whatever is made of the weights."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from training import NETWORK, SMALL, InProcess

import ema_clean
import infer
import predict
import reader
import train
from utils import convert_weights
from utils.deploy.exported import load_exported
from utils.errors import UserError
from utils.flags import parse
from utils.reading.image_list import ImageList
from utils.training.classes import settle_names
from utils.weights.notes import read_class_notes

# In the order of their names, which is not that of their numbers: class 1 is folder 10.
FOLDERS = ["1", "10", "11", "2"]
FLAGS = {name: SMALL[name] for name in ("class_dim", "image_shape", "resize_short_size", "reader_thread")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    random = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for name in FOLDERS:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                image = random.integers(0, 255, (36, 36, 3), np.uint8)
                cv2.imwrite(str(root / part / name / f"{number}.png"), image)
    return root


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory) -> Path:
    """The folder of a run on class folders."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        values = SMALL | {"data_dir": folders, "model_save_dir": out, "use_gpu": False, "use_ema": True}
        patch.setattr(sys, "argv", ["train.py", *(f"--{name}={value}" for name, value in values.items())])
        train.main()
    return out / NETWORK


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., str]:
    """Calls a script's main with flags; returns what it printed."""

    def call(script: Any, **flags: object) -> str:
        name = script.__name__.rpartition(".")[2]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *(f"--{flag}={value}" for flag, value in flags.items())])
        capsys.readouterr()
        script.main()
        streams = capsys.readouterr()
        return streams.out + streams.err

    return call


def named(text: str) -> list[tuple[int, str | None]]:
    """The best class of each image, and its name, of infer.py's or predict.py's lines."""
    answers = [json.loads(line.partition("\t")[2]) for line in text.splitlines() if "\t{" in line]
    return [(answer["class"][0], answer["class_name"][0] if "class_name" in answer else None) for answer in answers]


def test_every_file_of_a_run_has_the_names(trained, run, tmp_path):
    for name in ("0", "latest", "best_model", "best_model_ema"):
        assert read_class_notes(trained / name) == FOLDERS
    assert read_class_notes(trained / "latest" / "ema_weights.safetensors") == FOLDERS
    run(ema_clean, ema_model_dir=trained / "latest", cleaned_model_dir=tmp_path / "ema")
    assert read_class_notes(tmp_path / "ema") == FOLDERS


def test_what_is_made_of_the_weights_has_them(trained, folders, run, tmp_path, monkeypatch):
    """infer.py, its export, predict.py, converted weights; --class_map_path wins, and says so where it contradicts."""
    monkeypatch.chdir(tmp_path)
    weights = {"model": NETWORK, "pretrained_model": trained / "latest", "class_dim": 4, "use_gpu": False}
    answers = named(run(infer, **weights, data_dir=folders / "val"))
    assert len(answers) == 8 and all(name == FOLDERS[number] for number, name in answers)
    Path("map.txt").write_text("a\nb\nc\nd\n")
    given = named(run(infer, **weights, data_dir=folders / "val", class_map_path="map.txt"))
    assert all(name == "abcd"[number] for number, name in given)
    Path("map.txt").write_text("10\n1\nx\ny\n")
    said = run(infer, **weights, data_dir=folders / "val", class_map_path="map.txt")
    assert "map.txt names class 0 10, but 10 was class 1 in training: is the file in another order?" in said

    run(infer, **weights, save_inference=True)
    exported = f"{NETWORK}/model"
    assert load_exported(exported).description.class_names == FOLDERS
    assert named(run(predict, model_file=exported, image_path=folders / "val", gpu_id=-1)) == answers

    convert = {"model": NETWORK, "class_dim": 4, "image_shape": "3,32,32", "input": trained / "latest"}
    run(convert_weights, **convert, output="x.safetensors")
    assert read_class_notes("x.safetensors") == FOLDERS
    run(convert_weights, **convert, output="x.pth")
    assert read_class_notes("x.pth") == FOLDERS, "beside it"


def test_weights_that_name_nothing(trained, folders, run, tmp_path, monkeypatch):
    """No name, rather than a number that looks like one; and so in what is exported."""
    monkeypatch.chdir(tmp_path)
    torch.save(load_file(trained / "latest" / "weights.safetensors"), "x.pth")
    weights = {"model": NETWORK, "pretrained_model": "x.pth", "use_gpu": False, **FLAGS}
    said = run(infer, **weights, data_dir=folders / "val")
    assert "the class names are unknown: give them with --class_map_path" in said
    assert [name for _, name in named(said)] == [None] * 8
    del weights["reader_thread"]
    run(infer, **weights, save_inference=True)
    about = load_exported(f"{NETWORK}/model").description
    assert (about.class_names, about.class_dim) == ([], 4)
    said = run(predict, model_file=f"{NETWORK}/model", image_path=folders / "val", gpu_id=-1, topk=4)
    assert [name for _, name in named(said)] == [None] * 8


def test_evaluation_numbers_folders_as_the_training_did(trained, folders, run, tmp_path):
    """Of a folder of two classes the numbers are those of the training, not 0 and 1; the reports have the names."""
    import eval as evaluation

    for name in ("10", "2"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "0.png").write_bytes((folders / "val" / name / "0.png").read_bytes())
    flags = {"model": NETWORK, "pretrained_model": trained / "latest", "use_gpu": False, "batch_size": 8, **FLAGS}
    table = tmp_path / "table.csv"
    run(evaluation, **flags, data_dir=tmp_path, per_class_path=table)
    rows = list(csv.DictReader(table.open()))
    assert [row["name"] for row in rows] == FOLDERS
    assert [row["images"] for row in rows] == ["0", "1", "0", "1"]
    (tmp_path / "val_list.txt").write_text("val/10/0.png 0\nval/2/0.png 1\n")
    with pytest.raises(UserError, match=r"10 is class 1 of the network but class 0 in .*val_list.txt: number"):
        run(evaluation, **flags, data_dir=tmp_path)


def test_reports_of_the_reader(folders, run):
    said = run(reader, data_dir=folders, class_dim=4, reader_thread=0, check="*")
    assert "class 1 (10) has 4, class 2 (11) has 4" in said


@pytest.mark.parametrize("given", [True, False])
def test_names_that_are_given_to_training(given, data, tmp_path, monkeypatch, capsys):
    """Those of --class_map_path, or of a file beside the list; a finetuned network has those of its own data."""
    start = InProcess(monkeypatch, capsys)
    (tmp_path / "map.txt").write_text("0 Blau\n1 Gruen\n2 Grau\n3 Rot\n")
    flags = {"class_map_path": tmp_path / "map.txt"} if given else {}
    assert start(data, tmp_path / "a", max_iter=1, validate=False, **flags).code == 0
    names = ["Blau", "Gruen", "Grau", "Rot"] if given else ["blue", "green", "grey", "red"]
    assert read_class_notes(tmp_path / "a" / NETWORK / "latest") == names
    if given:
        (tmp_path / "map.txt").write_text("green\nblue\ngrey\nred\n")
        result = start(data, tmp_path / "b", **flags)
        assert "map.txt names class 0 green, which is class 1 in" in result.error
        return
    pretrained = tmp_path / "a" / NETWORK / "latest"
    (data / "label_names.txt").write_text("w\nx\ny\nz\n")
    result = start(data, tmp_path / "b", max_iter=1, validate=False, pretrained_model=pretrained)
    assert result.code == 0 and read_class_notes(tmp_path / "b" / NETWORK / "latest") == list("wxyz")


def test_a_run_is_not_resumed_with_classes_in_another_order(trained, folders, tmp_path, monkeypatch, capsys):
    start = InProcess(monkeypatch, capsys)
    images = [
        (path, label) for label, name in enumerate(reversed(FOLDERS)) for path in (folders / "train" / name).iterdir()
    ]
    (tmp_path / "train_list.txt").write_text("".join(f"{path} {label}\n" for path, label in images))
    result = start(tmp_path, tmp_path / "out", validate=False, checkpoint=trained / "latest", num_epochs=2)
    assert "--checkpoint: 1 was class 0 when " in result.error and "and is class 3 in" in result.error


def test_a_single_class_is_noticed(capsys):
    args = parse("train", ["--class_dim=2", "--data_dir=photos"])
    settle_names(args, ImageList.from_paths(["a.png", "b.png"], [0, 0]), ("cat",), None)
    assert "warning: --data_dir photos: all images are of one class" in capsys.readouterr().err


def test_classes_that_are_not_there_are_noticed_in_lists(data, tmp_path, monkeypatch, capsys):
    """--class_dim left out: the network has 1000 classes, two have images, and none is called as in ImageNet."""
    start = InProcess(monkeypatch, capsys)
    for part in ("train", "val"):
        lines = [line for line in (data / f"{part}_list.txt").read_text().splitlines() if line[-1] in "01"]
        (data / f"{part}_list.txt").write_text("\n".join(lines))
    (data / "label_names.txt").unlink()
    result = start(data, tmp_path / "out", class_dim=None, max_iter=1)
    assert "--class_dim not given: using 1000, of which only 2 have images in --data_dir" in result.err
    assert "for a network of these alone give --class_dim=2" in result.err
    weights = tmp_path / "out" / NETWORK / "latest"
    assert read_class_notes(weights) == ["blue", "green"]
    monkeypatch.setattr(sys, "argv", ["infer.py", f"--model={NETWORK}", f"--pretrained_model={weights}", "--topk=1000",
                                      f"--image_path={data}/val/red/00.jpg", "--use_gpu=False"])  # fmt: skip
    capsys.readouterr()
    infer.main()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "\t" in line]
    answer = json.loads(line.partition("\t")[2])
    names = dict(zip(answer["class"], answer["class_name"], strict=True))
    assert (names[0], names[1]) == ("blue", "green") and {names[n] for n in range(2, 1000)} == {None}


def test_notes_that_make_no_sense(tmp_path, capsys):
    for note in ("{}", '["a", 1]', "x"):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {"class_names": note})
        assert read_class_notes(tmp_path / "x.safetensors") == []
        assert "ignoring its invalid notes on class names" in capsys.readouterr().err
    assert read_class_notes(tmp_path / "none") == []
