"""Several labels per image, from the list to the export."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from exports import describe
from torch.nn import functional as F
from training import NETWORK

from utils.deploy.network import Description
from utils.errors import UserError, run_script
from utils.reading.dataset import open_dataset
from utils.training.loss import Targets, label_weights, labels_loss


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Images whose channels are bright where they have one of three labels; a blank in each name, a tab before the
    labels, as PaddleClas writes them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 8)):
        (tmp_path / "data" / split).mkdir(parents=True)
        lines = []
        for number in range(count):
            labels = rng.integers(0, 2, 3)
            pixels = rng.integers(0, 60, (40, 40, 3)) + 150 * labels
            cv2.imwrite(str(tmp_path / f"data/{split}/{number} a.jpg"), pixels[..., ::-1].astype(np.uint8))
            lines.append(f"{split}/{number} a.jpg\t{','.join(map(str, labels))}\n")
        (tmp_path / f"data/{split}_list.txt").write_text("".join(lines))
    return tmp_path / "data"


def run_here(monkeypatch, script: str, *flags: str) -> int:
    module = __import__(script)
    monkeypatch.setattr("sys.argv", [f"{script}.py", *flags])
    with pytest.raises(SystemExit) as exit_:
        run_script(module.main)
    return exit_.value.code


def test_training_evaluating_answering(train_here, labelled, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = train_here(
        labelled, tmp_path, multi_label=True, class_dim=3, num_epochs=1, label_weights_by_ratio=True,
        sum_over_labels=True, use_mixup=True,
    )  # fmt: skip
    assert result.code == 0
    assert re.search(
        r"\[End pass 0\]  train_loss [\d.]+, test_loss [\d.]+, test_accuracy [\d.]+, test_exact ", result.out
    )
    assert re.search(r"best_model \(test_map [\d.]+\)", result.out)

    weights = f"--pretrained_model={tmp_path}/{NETWORK}/latest"
    own = [weights, "--use_gpu=0", "--reader_thread=0"]  # the weights say the rest
    flags = ["--per_class_path=labels.csv", "--save_json_path=figures.json", "--batch_size=8"]
    assert run_here(monkeypatch, "eval", *own, f"--data_dir={labelled}", *flags) == 0
    figures = json.loads(Path("figures.json").read_text())
    assert figures["test_hamming_distance"] == pytest.approx(1 - figures["test_accuracy"])
    assert len(Path("labels.csv").read_text().splitlines()) == 4

    capsys.readouterr()
    image = f"--image_path={labelled}/val_list.txt"
    assert run_here(monkeypatch, "infer", *own, "--threshold=0,0,1", image) == 0
    answers = [json.loads(line.split("\t")[1]) for line in capsys.readouterr().out.splitlines() if "\t{" in line]
    assert [sorted(answer["class"]) for answer in answers] == [[0, 1]] * 8


def test_an_export_says_that_it_has_several_labels():
    about = replace(describe("MobileNetV1_x0_25", 64, 3), multi_label=True, threshold=[0.5, 0.4, 0.6])
    assert Description.from_json(about.to_json(), "model") == about
    older = {name: value for name, value in asdict(about).items() if name not in ("multi_label", "threshold")}
    read = Description.from_json(json.dumps(older), "model")
    assert not read.multi_label and read.threshold is None
    for threshold in ([0.5, 0.5], [2.0], "0.5", 0.5, [True]):
        damaged = json.dumps(asdict(about) | {"threshold": threshold})
        with pytest.raises(UserError, match="damaged: its description cannot be read"):
            Description.from_json(damaged, "model")


def test_list_of_labels(labelled):
    images = open_dataset(str(labelled), "val", 3, multi_label=True)
    assert images.labels.shape == (8, 3) and images.labels.dtype == np.uint8
    lines = (labelled / "val_list.txt").read_text().splitlines()
    for number, line in enumerate(lines):
        name, _, labels = line.partition("\t")
        assert images.name(number) == name
        assert images.labels[number].tolist() == [int(label) for label in labels.split(",")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "a.jpg 0,1",
            r"val_list.txt line 9: 'a.jpg 0,1' has 2 labels: write .* each of the 3 classes",
        ),
        ("a.jpg 0,2,1", "line 9: label '2' of 'a.jpg 0,2,1' is not 0 or 1"),
        ("a.jpg", "line 9: label 'a.jpg' of 'a.jpg' is not 0 or 1"),
        ("0,1,0", "line 9: '0,1,0' has no path"),
        ("a.jpg 01,,0", "line 9: label '01' of 'a.jpg 01,,0' is not 0 or 1"),
    ],
)
def test_bad_lines_of_labels(labelled, line, message, train_here, tmp_path):
    with open(labelled / "val_list.txt", "a") as file:
        file.write(f"{line}\n")
    result = train_here(labelled, tmp_path, multi_label=True, class_dim=3)
    assert re.search(message, result.error)


def test_labels_need_a_list(tiny_dataset, train_here, tmp_path):
    (tmp_path / "train/a").mkdir(parents=True)
    assert "which --multi_label needs" in train_here(tmp_path, tmp_path, multi_label=True).error


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_labels(summed, smoothing):
    """PaddleClas's MultiLabelLoss with weight_ratio, term by term."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(2, (5, 3), generator=generator)
    ratios = torch.tensor([0.1, 0.5, 0.7], dtype=torch.float64)
    wanted = labels * (1 - smoothing) + smoothing / 3
    terms = -(wanted * F.logsigmoid(logits) + (1 - wanted) * F.logsigmoid(-logits))
    terms = terms * torch.exp(labels * (1 - ratios) + (1 - labels) * ratios)
    expected = terms.sum(1).mean() if summed else terms.mean()
    loss = labels_loss(logits, Targets(labels), smoothing, label_weights(ratios), summed)
    torch.testing.assert_close(loss, expected)
    mixed = labels_loss(logits, Targets(labels, labels.flip(0), 0.3), smoothing)
    first, second = (labels_loss(logits, Targets(those), smoothing) for those in (labels, labels.flip(0)))
    torch.testing.assert_close(mixed, 0.3 * first + 0.7 * second)
