"""What is said of an image, and the file of results."""

from __future__ import annotations

import math
import os

import pytest
import torch
from files import largest_file

from utils.errors import UserError
from utils.evaluation.classify import _rows_left
from utils.evaluation.predictions import ResultFile, top_predictions
from utils.reading.image_list import ImageList


def test_the_best_classes_of_each_image():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]]).log_softmax(1) + 7
    first, second = top_predictions(logits, ["a.jpg", "b.jpg"], ["red", "green", "blue"], 2)
    assert (first.image, first.classes, first.class_name) == ("a.jpg", [1, 2], ["green", "blue"])
    assert (second.image, second.classes, second.class_name) == ("b.jpg", [0, 2], ["red", "blue"])
    assert second.score == pytest.approx(
        [math.exp(2) / (math.exp(2) + 1 + math.e), math.e / (math.exp(2) + 1 + math.e)]
    )


def test_names_are_written_as_they_are():
    (prediction,) = top_predictions(torch.tensor([[0.0, 5.0]]), ["bär\u2028.jpg"], ["", "Ü\n"], 1)
    assert prediction.line() == 'bär\u2028.jpg\t{"score": [0.99330717], "class": [1], "class_name": ["Ü\\n"]}'


@pytest.mark.parametrize("logit", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_an_error(logit):
    """NaN is no JSON. The images before are answered."""
    logits = torch.tensor([[0.0, 1.0], [0.0, logit]])
    predictions = top_predictions(logits, ["a.jpg", "b.jpg"], ["x", "y"], 1, "--use_fp16")
    assert next(predictions).image == "a.jpg"
    with pytest.raises(UserError, match=r"^b.jpg: the network's scores are not finite numbers: leave out --use_fp16$"):
        next(predictions)
    with pytest.raises(UserError, match="the weights are damaged"):
        list(top_predictions(logits, ["a.jpg", "b.jpg"], ["x", "y"], 1))


def test_results_go_on_after_the_last_whole_line(tmp_path):
    """Names that are in no encoding are told again too."""
    path = tmp_path / "new" / "results.txt"
    images = ["a.jpg", os.fsdecode(b"\xff.jpg"), "c.jpg"]
    with ResultFile(str(path), 1) as file:
        file.write(list(top_predictions(torch.eye(3), images, ["x", "y", "z"], 1)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with ResultFile(str(path), 1, resume=True) as file:
        assert set(file.done) == set(images[:2])
        file.write(list(top_predictions(torch.eye(3)[2:], images[2:], ["x", "y", "z"], 1)))
    assert path.read_bytes() == whole
    with ResultFile(str(path), 1) as file:
        assert not file.done
    assert path.read_bytes() == b""


def test_an_image_listed_several_times_is_answered_as_often(tmp_path):
    listed = ["a.jpg", "b.jpg", "a.jpg", "a.jpg", "b.jpg"]
    with ResultFile(str(tmp_path / "results.txt"), 1) as file:
        file.write(list(top_predictions(torch.eye(3), listed[:3], ["x", "y", "z"], 1)))
    with ResultFile(str(tmp_path / "results.txt"), 1, resume=True) as file:
        assert _rows_left(ImageList.from_paths(listed), file.done).tolist() == [3, 4]


@pytest.mark.parametrize("text", ["something dear to its owner\n", "a.jpg\t{}\n", "a.jpg\t[1]\n", "1\t{\n"])
def test_resume_refuses_other_files(tmp_path, text):
    (tmp_path / "notes.txt").write_text(text)
    with pytest.raises(UserError, match="not a file of results"):
        ResultFile(str(tmp_path / "notes.txt"), 1, resume=True)
    assert (tmp_path / "notes.txt").read_text() == text


def test_results_of_another_number_of_classes_are_not_gone_on_with(tmp_path):
    path = tmp_path / "results.txt"
    with ResultFile(str(path), 2) as file:
        file.write(list(top_predictions(torch.eye(3)[:1], ["a.jpg"], ["x", "y", "z"], 2)))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"^--resume: the results in .* have 2 classes per image: give --topk=2, or"):
        ResultFile(str(path), 1, resume=True)
    assert path.read_bytes() == before


def test_any_name_is_one_line_and_found_again(tmp_path, capsys):
    path = tmp_path / "results.txt"
    images = ["a\tb.jpg", "c\nd.jpg", "e\\tf.jpg", "g\rh\\.jpg"]
    predictions = list(top_predictions(torch.eye(4), images, "wxyz", 1))
    for prediction in predictions:
        assert prediction.line().count("\t") == 1 and len(prediction.line().splitlines()) == 1
    with ResultFile(str(path), 1) as file:
        file.write(predictions)
    assert capsys.readouterr().out == path.read_text()
    with ResultFile(str(path), 1, resume=True) as file:
        assert set(file.done) == set(images)
    assert capsys.readouterr().out == f"4 results kept from {path}\n"


def test_a_full_disk_names_the_file(tmp_path, capsys):
    """What is printed is in the file."""
    message = r"^--save_json_path .*r\.txt: file too large$"
    with largest_file(200), pytest.raises(UserError, match=message), ResultFile(str(tmp_path / "r.txt"), 1) as file:
        for number in range(9):
            file.write(list(top_predictions(torch.eye(2)[:1], [f"{number}.jpg"], "xy", 1)))
    lines = (tmp_path / "r.txt").read_text().splitlines(keepends=True)
    assert len(lines) >= 2 and "".join(lines[:-1]) == capsys.readouterr().out


def test_a_file_that_nobody_asked_for(tmp_path, capsys):
    """It is named at the end; where it cannot be written, the results are printed all the same."""
    (found,) = top_predictions(torch.tensor([[0.0, 5.0]]), ["a.jpg"], [], 1)
    for folder, said in ((tmp_path, "these results are also in "), (tmp_path / "file", "cannot be written (")):
        with ResultFile(str(folder / "test_res.json"), 1, asked_for=False) as file:
            file.write([found])
        output = capsys.readouterr()
        assert output.out.startswith("a.jpg\t") and said in output.out + output.err
        (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--save_json_path"):
        ResultFile(str(tmp_path / "file" / "x"), 1)


def test_results_into_a_device(capsys):
    with ResultFile(os.devnull, 1, resume=True) as file:
        file.write(list(top_predictions(torch.tensor([[0.0, 5.0]]), ["a.jpg"], [], 1)))
    assert capsys.readouterr().out.startswith("a.jpg\t")
