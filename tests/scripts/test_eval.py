"""eval.py on a small data set: its figures, its files, its many ways to evaluate, and how it answers bad input."""

from __future__ import annotations

import csv
import importlib
import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from paddle_programs import write_example
from torch import nn

import models
from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.network import Description
from utils.errors import UserError
from utils.reading.dataset import open_dataset
from utils.reading.normalize import normalize
from utils.reading.transforms import EvalTransform

ROOT = Path(__file__).parents[2]
NETWORK = "MobileNetV1_x0_25"
CLASSES = 4
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = models.build(NETWORK, class_dim=CLASSES).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "network.pth"
    torch.save(network.state_dict(), path)
    return path


def words(data: Path, **given: object) -> list[str]:
    common = {"data_dir": data, "class_dim": CLASSES, "use_gpu": False, "reader_thread": 0, "crop_size": 32}
    return [f"--{name}={value}" for name, value in {**common, **given}.items() if value is not None]


@pytest.fixture
def evaluate(monkeypatch, capsys, tiny_dataset, weights, tmp_path):
    """Runs eval.py in this process: flags -> what it wrote with --save_json_path."""

    def run(**given: object):
        result = tmp_path / "result.json"
        if "model_file" not in given:
            given = {"model": NETWORK, "pretrained_model": weights, **given}
        given = {"data_dir": tiny_dataset, "batch_size": 16, "save_json_path": result, **given}
        monkeypatch.setattr(sys, "argv", ["eval.py", *words(**{"data": given.pop("data_dir"), **given})])
        importlib.import_module("eval").main()
        return json.loads(result.read_text())

    return run


@pytest.fixture
def predictions(network, tiny_dataset):
    """(logits, labels) of all validation images, one at a time and without eval.py's pieces but the crop."""
    images = open_dataset(str(tiny_dataset), "val", CLASSES)
    transform = EvalTransform((32, 32), 37)
    logits = []
    for number in range(len(images)):
        pixels = torch.from_numpy(transform.decode(images.read(number), images.path(number)).copy())[None]
        logits.append(network(normalize(pixels, MEAN, STD)))
    return torch.cat(logits), torch.from_numpy(images.labels.astype(np.int64))


def test_figures_and_files(evaluate, predictions, tmp_path, capsys):
    logits, labels = predictions
    result = evaluate(per_class_path=tmp_path / "classes.csv", confusion_path=tmp_path / "confusion.png")
    right = logits.argmax(1) == labels
    assert result["top1"] == int(right.sum())
    assert (result["top4"], result["labelled"], result["images"]) == (16, 16, 16)
    assert result["test_acc1"] == pytest.approx(right.double().mean().item())
    assert result["Test_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert f"Test_loss {result['Test_loss']:.5f}, test_acc1 {result['test_acc1']:.5f}" in capsys.readouterr().out

    rows = list(csv.DictReader((tmp_path / "classes.csv").open()))
    assert [int(row["top1"]) for row in rows] == [int(right[labels == label].sum()) for label in range(CLASSES)]
    assert [row["images"] for row in rows] == ["4"] * CLASSES
    for label, row in enumerate(rows):
        taken_for = torch.bincount(logits.argmax(1)[labels == label], minlength=CLASSES)
        taken_for[label] = 0
        assert row["taken_for_images"] == (str(int(taken_for.max())) if taken_for.any() else "")
    assert cv2.imread(str(tmp_path / "confusion.png")).shape[0] > 300


def test_a_model_that_paddlepaddle_exported(evaluate, tiny_dataset, tmp_path):
    """The same figures as by hand; custom_net has 10 classes, and takes images of 32 x 32."""
    folder = write_example("custom_net", tmp_path / "custom_net")
    result = evaluate(model_file=folder / "model", class_dim=None, base_size=40)
    images = open_dataset(str(tiny_dataset), "val", 10)
    transform = EvalTransform((32, 32), 40)
    pixels = np.stack([transform.decode(images.read(number), images.path(number)) for number in range(len(images))])
    logits = load_exported(str(folder))(normalize(torch.from_numpy(pixels), MEAN, STD))
    labels = torch.from_numpy(images.labels.astype(np.int64))
    assert result["Test_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert (result["top1"], result["images"]) == (int((logits.argmax(1) == labels).sum()), 16)
    with pytest.raises(UserError, match=r"takes only images of \[3, 32, 32\], not \[3, 64, 64\]"):
        evaluate(model_file=folder, class_dim=None, crop_size=64)


def test_names_of_the_classes(evaluate, tiny_dataset, tmp_path):
    evaluate(per_class_path=tmp_path / "classes.csv", class_map_path=tiny_dataset / "label_names.txt")
    names = [row["name"] for row in csv.DictReader((tmp_path / "classes.csv").open())]
    assert names == ["blue", "green", "grey", "red"]


def test_mixed_precision(evaluate, network, tmp_path):
    """bfloat16 on a CPU gives nearly the loss of float32, also for an exported network, all of which computes in it."""
    description = Description(NETWORK, list("abcd"), [3, 32, 32], 37, 1, MEAN, STD)
    model_file = save_inference(network, description, tmp_path / NETWORK)
    for given in ({"base_size": 37}, {"base_size": 37, "crop_num": 12}, {"model_file": model_file, "class_dim": None}):
        plain, rounded = (evaluate(**given, use_fp16=value)["Test_loss"] for value in (False, True))
        assert plain != rounded == pytest.approx(plain, rel=0.02)
        float16 = evaluate(**given, use_fp16=True, amp_dtype="float16")["Test_loss"]
        assert rounded != float16 == pytest.approx(plain, rel=0.005)


def test_an_exported_network(evaluate, network, tmp_path):
    direct = evaluate(base_size=37)
    names = [f"class {number}" for number in range(CLASSES)]
    model_file = save_inference(
        network, Description(NETWORK, names, [3, 32, 32], 37, 1, MEAN, STD), tmp_path / NETWORK, "torch"
    )
    for more in ({}, {"crop_num": 12}):
        exported = evaluate(model_file=model_file, class_dim=None, per_class_path=tmp_path / "classes.csv", **more)
        direct = evaluate(base_size=37, **more)
        assert exported["Test_loss"] == pytest.approx(direct["Test_loss"], rel=1e-4)
        assert exported["top1"] == direct["top1"]
    assert [row["name"] for row in csv.DictReader((tmp_path / "classes.csv").open())] == names
    with pytest.raises(UserError, match="takes only images of \\[3, 32, 32\\], not"):
        evaluate(model_file=model_file, crop_size=64)


def test_an_exported_network_that_does_not_use_the_gpu(evaluate, network, tmp_path, monkeypatch):
    """On a machine with a GPU and the packages of requirements-onnx.txt, batches stay on the CPU too."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the ONNX Runtime for GPUs is installed")
    description = Description(NETWORK, list("abcd"), [3, 32, 32], 37, 1, MEAN, STD)
    model_file = save_inference(network, description, tmp_path / NETWORK, "onnx")
    expected = evaluate(model_file=model_file, class_dim=None)
    monkeypatch.setattr("eval.choose_device", lambda args: torch.device("cuda", 0))
    assert evaluate(model_file=model_file, class_dim=None, use_gpu=None) == expected
    with pytest.raises(UserError, match=r"CUDAExecutionProvider.*; to use the CPU, give --use_gpu=False"):
        evaluate(model_file=model_file, class_dim=None, use_gpu=True)


@pytest.mark.parametrize("crop_num", [12, 144])
def test_many_crops_of_different_batches(evaluate, crop_num):
    results = [evaluate(crop_num=crop_num, batch_size=size, reader_buf_size=1) for size in (7, 1000)]
    for result in results[1:]:
        assert result["Test_loss"] == pytest.approx(results[0]["Test_loss"], rel=1e-5)
        assert result["top1"] == results[0]["top1"]
    assert results[0]["images"] == 16
    assert results[0]["Test_loss"] != pytest.approx(evaluate()["Test_loss"], rel=1e-3)


def test_many_crops_do_not_mind_workers(evaluate):
    one, two = (evaluate(crop_num=12, batch_size=24, reader_thread=threads) for threads in (0, 2))
    assert one == pytest.approx(two)


def test_crop_sweep(evaluate, tmp_path):
    result = evaluate(crop_sweep="32:72:20", crop_sweep_path=tmp_path / "sweep.csv", crop_size=None)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [row["crop_size"] for row in rows] == ["32", "52", "72"]
    assert [float(row["Test_loss"]) for row in rows] == [entry["Test_loss"] for entry in result]
    assert result[0] == evaluate(crop_size=32)
    assert result[2] == evaluate(crop_size=72, base_size=82)
    assert cv2.imread(str(tmp_path / "sweep.png")).shape[0] > 300


def test_crop_sweep_of_a_network_built_for_a_size(evaluate, tmp_path):
    """Its position embeddings are resized for each size; a size that it cannot take loses no earlier results."""
    torch.manual_seed(0)
    vit = "DeiT_tiny_patch16_224"
    torch.save(models.build(vit, class_dim=CLASSES).state_dict(), tmp_path / "vit.pth")
    given = {"model": vit, "pretrained_model": tmp_path / "vit.pth", "crop_sweep_path": tmp_path / "sweep.csv"}
    result = evaluate(**given, crop_sweep="32:48:16", crop_size=None)
    assert [entry["images"] for entry in result] == [16, 16]
    assert result[1] == evaluate(model=vit, pretrained_model=tmp_path / "vit.pth", crop_size=48)

    with pytest.raises(UserError, match="a multiple of 16, not 40"):
        evaluate(**given, crop_sweep="32:48:8", crop_size=None)
    assert json.loads((tmp_path / "result.json").read_text()) == result[:1]
    (row,) = csv.DictReader((tmp_path / "sweep.csv").open())
    assert (row["crop_size"], float(row["Test_loss"])) == ("32", result[0]["Test_loss"])


def test_sharded_over_processes(launch, evaluate, tiny_dataset, weights, tmp_path):
    for crop_num, batch_size in ((1, 6), (12, 48)):
        alone = evaluate(crop_num=crop_num, batch_size=batch_size)
        path = tmp_path / "shared.json"
        given = {"model": NETWORK, "pretrained_model": weights, "crop_num": crop_num, "save_json_path": path}
        flags = words(tiny_dataset, batch_size=batch_size, confusion_path=tmp_path / "confusion.png", **given)
        assert launch("eval.py", 2, tmp_path, *flags).codes == [0, 0]
        shared = json.loads(path.read_text())
        assert shared == pytest.approx(alone, rel=1e-6)
        assert (shared["top1"], shared["images"]) == (alone["top1"], 16)


def test_unreadable_images_are_judged_over_all_processes(launch, evaluate, data, weights, tmp_path):
    images = sorted(data.glob("val/*/*.jpg"))
    for image in images[1::2]:  # those of the second process
        image.write_bytes(b"")
    flags = words(data, model=NETWORK, pretrained_model=weights, batch_size=8, save_json_path=tmp_path / "shared.json")
    shared = launch("eval.py", 2, tmp_path, *flags)
    assert shared.codes == [0, 0]
    assert any("warning: 8 unreadable image files were left out" in line for line in shared.err)
    assert json.loads((tmp_path / "shared.json").read_text()) == pytest.approx(evaluate(data_dir=data), rel=1e-6)
    for image in images:
        image.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 16 images can be read; the first: .*jpg: the file is empty"):
        evaluate(data_dir=data)


# ------------------------------------------------------------------------------------------------------- the report


def report_of(path: Path) -> tuple[str, list[str]]:
    """A page, and the list of suspects beside it."""
    page = path.read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", page), "the page needs something from outside"
    return page, path.with_name(f"{path.stem}_suspects.txt").read_text().splitlines()


def test_the_report(evaluate, predictions, tiny_dataset, tmp_path):
    """The figures are those without --report; with --report_against, the page says what has changed."""
    logits, labels = predictions
    wrong = int((logits.argmax(1) != labels).sum())
    names = tiny_dataset / "label_names.txt"
    result = evaluate(report=tmp_path / "a.html", class_map_path=names)
    assert result == evaluate()
    page, suspects = report_of(tmp_path / "a.html")
    assert f"{result['test_acc1']:.2%}" in page
    assert len(suspects) == wrong and all(Path(line.rsplit(" ", 1)[0]).is_file() for line in suspects)
    assert page.count("what the network looked at") == min(wrong, 24)  # Grad-CAM
    assert "Size" in page and "blue" in page
    again = evaluate(
        val_list=tmp_path / "a_suspects.txt", report=tmp_path / "b.html", report_against=tmp_path / "a.html"
    )
    assert (again["labelled"], again["top1"]) == (wrong, 0)
    page, _ = report_of(tmp_path / "b.html")
    assert "Compared with a" in page and "No difference that could not be chance" in page


def test_the_report_of_an_export_by_several_processes(launch, network, predictions, tiny_dataset, tmp_path):
    description = Description(NETWORK, list("abcd"), [3, 32, 32], 37, 1, MEAN, STD)
    model_file = save_inference(network, description, tmp_path / NETWORK)
    given = {"model_file": model_file, "class_dim": None, "crop_size": None, "report": tmp_path / "report.html"}
    assert launch("eval.py", 2, tmp_path, *words(tiny_dataset, batch_size=6, **given)).codes == [0, 0]
    _, suspects = report_of(tmp_path / "report.html")
    logits, labels = predictions
    assert len(suspects) == int((logits.argmax(1) != labels).sum())


# --------------------------------------------------------------------------------------------------- orders of labels


def test_label_map(evaluate, predictions, tmp_path):
    logits, labels = predictions
    new = torch.tensor([2, 0, 3, 1])
    file = tmp_path / "map.txt"
    file.write_text("# old -> new\n" + "\n".join(f"{old} -> {int(number)}" for old, number in enumerate(new)) + "\n")
    assert evaluate(label_map=file)["top1"] == int((logits.argmax(1) == new[labels]).sum())


def test_the_warning(evaluate, tiny_dataset, tmp_path, monkeypatch, capsys):
    """A network that tells the colours apart, and a list that numbers them otherwise."""

    class Colours(nn.Module):
        def forward(self, images):
            red, green, blue = images.mean((2, 3)).unbind(1)
            return torch.stack((blue - red, green - red, (red - green).abs() * -1, red - blue), 1)

    evaluation = importlib.import_module("eval")
    monkeypatch.setattr(evaluation, "load_pretrained", lambda *_, **__: "loaded")
    monkeypatch.setattr(evaluation, "build_model", lambda _: Colours())
    lines = (tiny_dataset / "train_list.txt").read_text().splitlines()
    names = [line.split() for line in lines]
    root = tmp_path / "data"
    root.mkdir()
    for source in ("train", "val"):
        (root / source).symlink_to(tiny_dataset / source)
    for shift, warned in ((0, False), (1, True)):
        text = "".join(f"{name} {(int(label) + shift) % CLASSES}\n" for name, label in names)
        (root / "val_list.txt").write_text(text)
        capsys.readouterr()
        result = evaluate(data_dir=root)
        assert (result["test_acc1"] < 0.3) == warned
        streams = capsys.readouterr()
        assert ("seems to number the classes differently" in streams.out + streams.err) == warned


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"class_map_path": "names.txt"}, "but the network has 4"),
        (
            {"confusion_path": "c.png", "class_dim": 5001},
            "--confusion_path supports at most 5000 classes, not 5001: leave it",
        ),
    ],
)
def test_what_reports_lack_is_found_before_the_evaluation(evaluate, tmp_path, monkeypatch, given, reason):
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("red\n")
    evaluation = importlib.import_module("eval")
    monkeypatch.setattr(evaluation, "load_pretrained", lambda *_, **__: "loaded")
    monkeypatch.setattr("utils.evaluation.evaluate.validate", lambda *_: pytest.fail("the evaluation has begun"))
    with pytest.raises(UserError, match=reason):
        evaluate(**given)


def test_the_figures_are_said_before_a_report_fails(evaluate, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise UserError("--confusion_path: cannot write c.png: no space left on device")

    monkeypatch.setattr("utils.evaluation.evaluate.write_confusion", fail)
    with pytest.raises(UserError, match="no space"):
        evaluate(confusion_path=tmp_path / "c.png")
    assert "Test_loss" in capsys.readouterr().out
    assert json.loads((tmp_path / "result.json").read_text())["images"] == 16


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"pretrained_model": None}, "give --pretrained_model .with --model., or --model_file"),
        ({"crop_num": 12, "base_size": 16}, "smaller than the crop"),
        ({"crop_num": 12, "use_dali": True}, "leave out --use_dali"),
        ({"crop_num": 12, "crop_size": None, "image_shape": "3,32,48"}, "needs a square --image_shape, not 32 x 48"),
        ({"image_shape": "3,64,64"}, "--image_shape gives another size"),
        ({"crop_sweep": "32:64:32"}, "--crop_size does not work with --crop_sweep"),
        ({"crop_sweep": "32:64:32", "crop_size": None, "base_size": 50}, "50 is smaller than the crop"),
        ({"confusion_path": "/dev/null/x.png"}, "--confusion_path: cannot write"),
        (
            {"confusion_path": "c.jpeg"},
            "--confusion_path c.jpeg: its suffix .* one of .png, .pdf, .svg, .csv, .json",
        ),
        (
            {"per_class_path": "classes"},
            "--per_class_path classes: its suffix selects the format: give one of .csv, .json",
        ),
        ({"per_class_path": "/dev/null/x.csv"}, "--per_class_path: cannot write"),
        ({"class_map_path": "/dev/null"}, "--class_map_path /dev/null names 0 classes"),
    ],
)
def test_bad_input(given, reason, evaluate):
    with pytest.raises(UserError, match=reason):
        evaluate(**given)


@pytest.mark.parametrize("text", ["192", "192:352", "a:b:c", "352:192:32", "192:352:0", "0:10:5", "1:2:3:4"])
def test_bad_sweeps(text, evaluate, capsys):
    with pytest.raises(SystemExit) as end:
        evaluate(crop_sweep=text)
    assert end.value.code == 2
    assert "--crop_sweep" in capsys.readouterr().err
