"""infer.py: what it says of images, and in which form."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from networks import small_classifier

import infer
import models
from utils.errors import FlagError, UserError
from utils.reading.decode import decode
from utils.reading.normalize import normalize
from utils.reading.transforms import EvalTransform
from utils.weights.write import save_weights

REPOSITORY = Path(__file__).parents[2]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NAMES = ["blue", "green", "grey", "red"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a MobileNetV1_x0_25 for four classes, whose answers differ from image to image."""
    model = small_classifier()
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def run(weights, tiny_dataset, tmp_path, monkeypatch, capsys):
    """Calls infer.py with flags, in an empty folder; returns its lines."""
    monkeypatch.chdir(tmp_path)

    def run_infer(*flags: str) -> list[str]:
        command = ["infer.py", "--model=MobileNetV1_x0_25", "--class_dim=4", "--image_shape=3,32,32"]
        command += ["--resize_short_size=36", f"--pretrained_model={weights}", "--use_gpu=False"]
        command += [f"--class_map_path={tiny_dataset}/label_names.txt"]
        monkeypatch.setattr(sys, "argv", [*command, *flags])
        infer.main()
        return capsys.readouterr().out.splitlines()

    return run_infer


def expected(weights, path) -> torch.Tensor:
    """Probabilities of an image, step by step."""
    model = models.build("MobileNetV1_x0_25", class_dim=4).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    pixels = EvalTransform((32, 32), 36, 1)(decode(path.read_bytes(), str(path)))
    with torch.no_grad():
        return model(normalize(torch.from_numpy(pixels.copy())[None], MEAN, STD)).softmax(1)[0]


def results(lines: list[str]) -> dict[str, dict]:
    """Results by image, of the lines that are such."""
    found = {}
    for line in lines:
        name, tab, text = line.partition("\t")
        if tab:
            found[name] = json.loads(text)
    return found


def test_a_single_image(run, weights, tiny_dataset):
    image = tiny_dataset / "val/red/01.jpg"
    found = results(run(f"--image_path={image}", "--topk=4"))
    assert list(found) == ["01.jpg"]
    answer = found["01.jpg"]
    assert list(answer) == ["score", "class", "class_name"]
    probabilities = expected(weights, image)
    order = probabilities.argsort(descending=True)
    assert answer["class"] == order.tolist()
    assert answer["class_name"] == [NAMES[number] for number in answer["class"]]
    assert answer["score"] == pytest.approx(probabilities[order].tolist(), abs=1e-6)


def test_a_folder(run, weights, tiny_dataset, tmp_path):
    lines = run(f"--data_dir={tiny_dataset}/val", "--batch_size=3", "--reader_thread=2")
    found = results(lines)
    images = sorted(str(path.relative_to(tiny_dataset / "val")) for path in tiny_dataset.glob("val/*/*.jpg"))
    assert list(found) == images
    for name, answer in found.items():
        probabilities = expected(weights, tiny_dataset / "val" / name)
        assert answer["class"] == [int(probabilities.argmax())]
        assert answer["score"] == pytest.approx([probabilities.max().item()], abs=1e-6)
    # The file has the same lines, and nothing else.
    assert (tmp_path / "test_res.json").read_text().splitlines() == [line for line in lines if "\t" in line]


def test_lists_and_patterns(run, tiny_dataset, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{tiny_dataset}/val/red/00.jpg 3\n\n{tiny_dataset}/val/blue/01.jpg\n")
    assert list(results(run(f"--image_path={listed}"))) == [
        f"{tiny_dataset}/val/red/00.jpg",
        f"{tiny_dataset}/val/blue/01.jpg",
    ]
    assert len(results(run(f"--image_path={tiny_dataset}/val/*/0[01].jpg"))) == 8


def test_images_are_prepared_as_in_training(run, weights, tiny_dataset, tmp_path, monkeypatch, capsys):
    """By what train.py notes in its weights, where no flag says otherwise."""
    model = models.build("MobileNetV1_x0_25", class_dim=4)
    model.load_state_dict(torch.load(weights, weights_only=True))
    noted = {"image_shape": [3, 32, 32], "resize_short_size": 36, "interpolation": 1}
    save_weights(model, tmp_path / "weights.safetensors", {**noted, "image_mean": MEAN, "image_std": STD})
    image = tiny_dataset / "val/red/01.jpg"
    command = ["infer.py", "--model=MobileNetV1_x0_25", "--class_dim=4", "--use_gpu=0", "--topk=4"]
    monkeypatch.setattr(sys, "argv", [*command, f"--pretrained_model={tmp_path}", f"--image_path={image}"])
    infer.main()
    (answer,) = results(capsys.readouterr().out.splitlines()).values()
    assert answer["score"] == pytest.approx(expected(weights, image).sort(descending=True)[0].tolist(), abs=1e-6)


def test_without_a_class_map_of_another_number_of_classes(run, weights, tiny_dataset, monkeypatch, capsys):
    command = ["infer.py", "--model=MobileNetV1_x0_25", "--class_dim=4", "--image_shape=3,32,32"]
    command += [f"--pretrained_model={weights}", "--use_gpu=0", f"--image_path={tiny_dataset}/val/red/01.jpg"]
    monkeypatch.setattr(sys, "argv", command)
    infer.main()
    (answer,) = results(capsys.readouterr().out.splitlines()).values()
    assert answer.keys() == {"score", "class"}


def test_features(run, weights, tiny_dataset, tmp_path):
    lines = run(f"--data_dir={tiny_dataset}/val", "--batch_size=5", "--features_path=out/features.npy")
    assert lines[-1] == "wrote out/features.npy: 16 rows of 256, with image names in out/features.npy.txt"
    features = np.load(tmp_path / "out/features.npy")
    names = (tmp_path / "out/features.npy.txt").read_text().splitlines()
    assert features.shape == (16, 256) and features.dtype == np.float32
    assert len(set(names)) == 16
    model = models.build("MobileNetV1_x0_25", class_dim=4).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        probabilities = model.fc(torch.from_numpy(features)).softmax(1)
    for row, name in zip(probabilities, names, strict=True):
        assert torch.allclose(row, expected(weights, tiny_dataset / "val" / name), atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["features.npy", "features.npy.txt"]


def test_mixed_precision(run, tiny_dataset, tmp_path):
    """bfloat16 on a CPU: the answers of float32, but for its 8 bits; features too."""
    flags = [f"--data_dir={tiny_dataset}/val", "--topk=4"]
    exact, rounded = results(run(*flags)), results(run(*flags, "--use_fp16=True"))
    by_class = [
        {name: dict(zip(answer["class"], answer["score"], strict=True)) for name, answer in found.items()}
        for found in (exact, rounded)
    ]
    differences = [abs(by_class[0][name][key] - score) for name in exact for key, score in by_class[1][name].items()]
    assert 1e-5 < max(differences) < 0.1
    for number, more in enumerate(([], ["--use_fp16=True"])):
        run(*flags, f"--features_path={number}.npy", *more)
    exact, rounded = (np.load(tmp_path / f"{number}.npy") for number in range(2))
    assert 1e-5 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("flags", [[], ["--features_path=f.npy"]], ids=["scores", "features"])
def test_what_is_not_finite_is_one_line(run, weights, tiny_dataset, tmp_path, flags):
    """float16 ends at 65504: here for a network whose first convolution is a million times too large."""
    state = torch.load(weights, weights_only=True)
    state["conv.bn.weight"] *= 1e6
    torch.save(state, tmp_path / "large.pth")
    flags = [f"--pretrained_model={tmp_path}/large.pth", f"--image_path={tiny_dataset}/val/red/01.jpg", *flags]
    run(*flags)
    with pytest.raises(UserError, match=r"01\.jpg: the network's .* are not finite numbers: leave out --use_fp16"):
        run(*flags, "--use_fp16=True", "--amp_dtype=float16")


def test_resume(run, tiny_dataset, tmp_path):
    folder = f"--data_dir={tiny_dataset}/val"
    run(folder)
    whole = (tmp_path / "test_res.json").read_text()
    # A run that was killed in the middle of its sixth line.
    lines = whole.splitlines(keepends=True)
    (tmp_path / "test_res.json").write_text("".join(lines[:5]) + lines[5][:20])
    resumed = run(folder, "--resume=True")
    assert "5 results kept from test_res.json" in resumed and len(results(resumed)) == 11
    assert (tmp_path / "test_res.json").read_text() == whole
    with pytest.raises(UserError, match=r"test_res\.json have 1 classes per image: give --topk=1, or another --save_"):
        run(folder, "--resume=True", "--topk=3")
    again = run(folder, "--resume=True")
    assert again[-2:] == ["16 results kept from test_res.json", "every image already has a result"]
    assert (tmp_path / "test_res.json").read_text() == whole


def test_unreadable_images_are_left_out_and_reported(run, tiny_dataset, tmp_path, capsys):
    folder = tmp_path / "images"
    shutil.copytree(tiny_dataset / "val/red", folder)
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("not an image")
    assert sorted(results(run(f"--data_dir={folder}"))) == ["00.jpg", "01.jpg", "02.jpg", "03.jpg"]
    for image in (folder / "empty.jpg", folder / "text.png", folder / "none.jpg"):
        with pytest.raises(UserError, match=image.name):
            run(f"--image_path={image}")


def test_a_complete_run_with_unreadable_images_is_resumed(run, tiny_dataset, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "images"
    shutil.copytree(tiny_dataset / "val/red", folder)
    (folder / "empty.jpg").touch()
    run(f"--data_dir={folder}")
    before = (tmp_path / "test_res.json").read_text()
    report = "utils.evaluation.classify.report_unreadable"
    monkeypatch.setattr(report, lambda unreadable: print(f"unreadable: {list(unreadable)}"))
    assert run(f"--data_dir={folder}", "--resume=True")[-1] == f"unreadable: ['{folder}/empty.jpg']"
    assert (tmp_path / "test_res.json").read_text() == before


def test_pictures(run, tiny_dataset, tmp_path):
    lines = run(f"--data_dir={tiny_dataset}/val/red", "--topk=2", "--vis_dir=pictures", "--grad_cam=True")
    assert len(results(lines)) == 4
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == ["00.jpg", "01.jpg", "02.jpg", "03.jpg"]
    assert len({cv2.imread(str(path)).shape for path in pictures}) == 1


@pytest.mark.parametrize("flags", [["--data_dir={}"], ["--image_path={}/00.jpg"], ["--image_path={}/list.txt"]])
def test_pictures_are_not_written_over_the_images(run, tiny_dataset, tmp_path, flags):
    folder = shutil.copytree(tiny_dataset / "val/red", tmp_path / "images")
    (folder / "list.txt").write_text("00.jpg\n")
    before = (folder / "00.jpg").read_bytes()
    with pytest.raises(FlagError, match=r"--vis_dir .*images/: the pictures would overwrite the images"):
        run(*(flag.format(folder) for flag in flags), f"--vis_dir={folder}/")
    assert (folder / "00.jpg").read_bytes() == before


def test_grey_and_transparent_images(run, tmp_path):
    grey = np.full((40, 50), 120, np.uint8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "colour.png"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    cv2.imwrite(str(tmp_path / "alpha.png"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGRA))
    found = results(run(f"--image_path={tmp_path}/*.png"))
    assert len(found) == 3
    assert len({json.dumps(answer) for answer in found.values()}) == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--topk=5"], "--topk 5"),
        (["--class_map_path=nowhere.txt"], "nowhere.txt"),
        (["--data_dir=nowhere"], "nowhere"),
        (["--features_path=features.txt"], "npy"),
        (["--image_path=*.jpg"], "no image matches"),
        (["--grad_cam=True"], "--vis_dir"),
        (["--vis_dir=x", "--features_path=x.npy"], "give one of them"),
        (["--calibration_dir=x"], "--inference_format=onnx"),
        (["--calibration_dir=nope", "--save_inference=1", "--inference_format=onnx"], "nope"),
    ],
)
def test_bad_flags(run, flags, message):
    with pytest.raises(UserError) as error:
        run(*flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("MobileNetV1_x0_25").exists()  # nothing was exported before


def test_an_error_is_one_line_and_an_exit_code(tmp_path):
    command = [sys.executable, str(REPOSITORY / "infer.py"), "--model=ResNet51", "--pretrained_model=x"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "ResNet50" in run.stderr
