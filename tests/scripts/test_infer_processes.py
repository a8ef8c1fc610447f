"""infer.py, predict.py and reader.py in several processes give what one gives: once, in order, and resumable."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import Result
from networks import small_classifier

import ema_clean
import infer
import models
import predict
import reader
from utils import convert_model, convert_weights
from utils.acnet import weights_aggregator
from utils.deploy.export import save_inference
from utils.deploy.network import Description
from utils.errors import FlagError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IMAGES, UNREADABLE = 18, ("05x.jpg", "12x.png")


@pytest.fixture(scope="module")
def stage(tiny_dataset, tmp_path_factory) -> Path:
    """A folder with weights, the same network exported, and photos/, two of which cannot be read."""
    folder = tmp_path_factory.mktemp("stage")
    model = small_classifier()
    torch.save(model.state_dict(), folder / "weights.pth")
    names = ["blue", "green", "grey", "red"]
    save_inference(model, Description("Small", names, [3, 32, 32], 36, 1, MEAN, STD), folder / "Small")
    (folder / "names.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(names)))
    (folder / "photos").mkdir()
    for number, path in enumerate(sorted((tiny_dataset / "val").rglob("*.jpg"))):
        os.link(path, folder / f"photos/{number:02d}.jpg")
    for name in UNREADABLE:
        (folder / "photos" / name).touch()
    return folder


@pytest.fixture(scope="module")
def flags_of(stage) -> Callable[[str], list[str]]:
    """The flags of each script, but for the images."""
    network = ["--model=MobileNetV1_x0_25", "--class_dim=4", "--image_shape=3,32,32", "--resize_short_size=36"]
    network += [f"--pretrained_model={stage}/weights.pth", f"--class_map_path={stage}/names.txt", "--use_gpu=False"]
    own = {"infer.py": network, "predict.py": [f"--model_file={stage}/Small/model", "--gpu_id=-1"]}
    return lambda script: [*own[script], "--reader_thread=0", "--batch_size=2", "--topk=4"]


@pytest.fixture
def run(launch, flags_of, stage, tmp_path):
    """Runs a script on the photos: script, number of processes, flags."""

    def run_script(script: str, count: int, *flags: str, kill: tuple[str, int] | None = None) -> Result:
        flags = f"--image_path={stage}/photos", "--save_json_path=results.txt", *flags
        return launch(script, count, tmp_path, *flags_of(script), *flags, kill=kill)

    return run_script


@pytest.fixture(scope="module", params=["infer.py", "predict.py"])
def alone(request, launch, flags_of, stage) -> tuple[str, list[str]]:
    """A script, and its lines in one process."""
    script = request.param
    result = launch(script, 1, stage, *flags_of(script), f"--image_path={stage}/photos", "--save_json_path=alone.txt")
    assert_whole(stage, result)
    lines = (stage / "alone.txt").read_text().splitlines()
    assert len(lines) == IMAGES - len(UNREADABLE)
    return script, lines


def assert_whole(stage: Path, result: Result, images: int = IMAGES, idle: Sequence[str] = ()) -> None:
    """A good end; each image opened once, by whichever process; the unreadable ones and the flags that features make
    idle reported once.
    """
    assert result.code == 0, result
    assert set(Counter(result.opened).values()) == {1} and len(result.opened) == images
    reasons = "; ".join(f"{stage}/photos/{name}: the file is empty" for name in UNREADABLE)
    noted = [f"warning: --{name} has no effect: --features_path writes features instead of classes" for name in idle]
    assert result.err == [*noted, f"warning: 2 unreadable image files were left out: {reasons}"]


def assert_same(lines: list[str], expected: list[str]) -> None:
    """The same images in the same order, with the same classes and names; scores but for float32's rounding."""
    assert len(lines) == len(expected)
    for line, other in zip(lines, expected, strict=True):
        (name, result), (other_name, other_result) = line.split("\t"), other.split("\t")
        assert name == other_name
        result, other_result = json.loads(result), json.loads(other_result)
        assert result.pop("score") == pytest.approx(other_result.pop("score"), abs=1e-6)
        assert result == other_result


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_lines_are_those_of_one_process(run, alone, stage, tmp_path, count):
    script, expected = alone
    result = run(script, count)
    assert_whole(stage, result)
    lines = (tmp_path / "results.txt").read_text().splitlines()
    assert [line for line in result.out if "\t" in line] == lines
    assert_same(lines, expected)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 4)])
def test_killed_and_resumed_with_another_number(run, alone, stage, tmp_path, before, after):
    """SIGKILL to all when the last process opens its fifth image, the first of its third batch.

    It may be a round ahead of the process that writes, but not two.
    """
    script, expected = alone
    killed = run(script, before, kill=("all", 5))
    assert killed.code == -9
    kept = (tmp_path / "results.txt").read_text().splitlines()
    printed = [line for line in killed.out if "\t" in line]  # after they are written
    assert printed == kept[: len(printed)] and 0 < len(kept) < len(expected)
    resumed = run(script, after, "--resume=True")
    assert f"{len(kept)} results kept from results.txt" in resumed.out
    assert_whole(stage, resumed, IMAGES - len(kept))
    assert_same((tmp_path / "results.txt").read_text().splitlines(), expected)


def test_one_of_them_is_killed(run, tmp_path):
    """The others end, with one line; what was written can be resumed."""
    result = run("infer.py", 3, kill=("one", 5))
    assert result.code == 1
    (line,) = result.err
    assert "another process of this run is gone" in line and "--resume=True" in line
    assert len((tmp_path / "results.txt").read_text().splitlines()) >= 6  # a round of three batches


@pytest.mark.parametrize("count", [2, 4])
def test_fewer_images_than_processes(launch, flags_of, stage, tmp_path, count):
    """The process without an image waits for nobody, and nobody for it; nor for one whose images are unreadable."""
    for names, found in ((["03.jpg"], ["03.jpg"]), (["05x.jpg", "04.jpg", "12x.png"], ["04.jpg"])):
        (tmp_path / "list.txt").write_text("".join(f"{stage}/photos/{name}\n" for name in names))
        result = launch("infer.py", count, tmp_path, *flags_of("infer.py"), "--image_path=list.txt")
        assert result.code == 0, result
        assert [Path(line.split("\t")[0]).name for line in result.out if "\t" in line] == found


def test_no_image_can_be_read(launch, flags_of, stage, tmp_path):
    result = launch("predict.py", 2, tmp_path, *flags_of("predict.py"), f"--image_path={stage}/photos/*x.*")
    assert result.code == 1
    (line,) = result.err
    assert "none of the 2 images can be read" in line and "05x.jpg: the file is empty" in line


def test_images_too_small_for_the_network(run, tmp_path):
    torch.save(models.build("SqueezeNet1_0", class_dim=4).state_dict(), tmp_path / "weights.pth")
    flags = ["--model=SqueezeNet1_0", "--image_shape=3,8,8", f"--pretrained_model={tmp_path}/weights.pth"]
    result = run("infer.py", 2, *flags)
    assert result.code == 2
    (line,) = result.err
    assert line == "infer.py: error: --image_shape: the images are too small for SqueezeNet1_0: give a larger size"


def test_features(run, stage, tmp_path):
    flags, idle = ["--features_path=features.npy", "--topk=1"], ("save_json_path", "topk", "class_map_path")
    assert_whole(stage, run("infer.py", 1, *flags), idle=idle)
    expected, names = np.load(tmp_path / "features.npy"), (tmp_path / "features.npy.txt").read_text()
    assert len(expected) == 16 and names.split() == sorted(names.split())
    killed = run("infer.py", 2, *flags, kill=("all", 5))
    assert killed.code == -9
    assert (np.load(tmp_path / "features.npy") == expected).all()  # until the new ones are complete
    kept = len((tmp_path / "features.npy.txt.unfinished").read_text().splitlines())
    assert 0 < kept < 16
    resumed = run("infer.py", 3, *flags, "--resume=True")
    assert f"{kept} rows kept from features.npy.unfinished" in resumed.out
    assert_whole(stage, resumed, IMAGES - kept, idle)
    assert (tmp_path / "features.npy.txt").read_text() == names
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), expected, rtol=1e-6, atol=1e-6)
    assert not list(tmp_path.glob("*.unfinished"))


def test_pictures(run, stage, tmp_path):
    """Each image has its picture when its line is written: a resumed run leaves none out."""
    run("infer.py", 1, "--vis_dir=one", "--topk=2")
    killed = run("infer.py", 2, "--vis_dir=two", "--topk=2", kill=("all", 5))
    assert killed.code == -9
    resumed = run("infer.py", 3, "--vis_dir=two", "--topk=2", "--resume=True")
    assert resumed.code == 0
    one, two = (sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("one", "two"))
    assert one == two and len(one) == 16


def test_lists_that_differ(launch, flags_of, stage, tmp_path):
    """As on two hosts with other photographs: each process reads a list of its own."""
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text(f"{stage}/photos/00.jpg\n{stage}/photos/0{number + 1}.jpg\n")
    (tmp_path / "predict.py").write_text(
        "import os, runpy, sys\n"
        "sys.argv[-1] = f'--image_path={os.environ[\"RANK\"]}.txt'\n"
        f"runpy.run_path({str(predict.__file__)!r}, run_name='__main__')\n"
    )
    result = launch(str(tmp_path / "predict.py"), 2, tmp_path, *flags_of("predict.py"), "--image_path=")
    assert result.code == 1
    (line,) = result.err
    assert "the processes disagree: --image_path is '2 images with the checksum " in line


@pytest.mark.parametrize("count", [2, 3])
def test_a_dataset_is_checked_by_all(launch, data, tmp_path, count):
    """With one image in the last process's share fewer than in the first's, and one that cannot be read."""
    lines = (data / "val_list.txt").read_text().splitlines(keepends=True)
    (data / "val_list.txt").write_text("".join(lines[:7]))
    (data / lines[2].split()[0]).write_bytes(b"")
    flags = ["--check=val", f"--data_dir={data}", "--class_dim=4", "--reader_thread=0"]
    alone, shared = (launch("reader.py", number, tmp_path, *flags) for number in (1, count))
    assert alone.out[0] == "val: 7 images, 1 of them unreadable"
    assert (shared.code, shared.out, shared.err) == (0, alone.out, [])
    assert sorted(shared.opened) == sorted(alone.opened) and len(alone.opened) == 7


@pytest.mark.parametrize(
    ("script", "flags", "what"),
    [
        (reader, ["--show=x.png"], "--show"),
        (ema_clean, ["--ema_model_dir=x", "--cleaned_model_dir=y"], "ema_clean.py"),
        (convert_model, ["--model_file=x", "--output=y"], "convert_model.py"),
        (convert_weights, ["--model=ResNet18", "--input=x", "--output=y.pth"], "convert_weights.py"),
        (weights_aggregator, ["--model=ResNet50_ACNet", "--input=x", "--output=y.pth"], "weights_aggregator.py"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_one_process_does_is_refused_in_several(monkeypatch, script, flags, what):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("sys.argv", ["script.py", *flags])
    with pytest.raises(FlagError, match=f"^{what} runs in a single process: start it without torch.distributed.run$"):
        script.main()


def test_the_images_of_calibration_are_shared(launch, flags_of, stage, tmp_path):
    """Each process reads its part, twice; the int8 model is that of one process, but for the rounding of scales."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    flags = ["--save_inference=True", "--inference_format=onnx", f"--calibration_dir={stage}/photos"]
    weights = []
    for count in (1, 3):
        (tmp_path / str(count)).mkdir()
        result = launch("infer.py", count, tmp_path / str(count), *flags_of("infer.py"), *flags)
        assert result.codes == [0] * count, result.err
        assert sum("exported " in line for line in result.out) == 1
        opened = Counter(Path(path).name for path in result.opened if "/photos/" in path)
        assert len(opened) == IMAGES and set(opened.values()) == {2}
        assert sum("2 unreadable image files were left out" in line for line in result.err) == 1
        model = onnx.load(tmp_path / str(count) / "MobileNetV1_x0_25" / "model_int8.onnx")
        weights.append({tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer})
    one, three = weights
    assert one.keys() == three.keys()
    for name, values in one.items():
        if values.dtype == np.float32:
            np.testing.assert_allclose(three[name], values, rtol=1e-4, atol=1e-7, err_msg=name)
        else:
            assert np.abs(three[name].astype(np.int64) - values).max() <= 1, name


@pytest.mark.parametrize("more", [[], ["--inference_format=executorch", "--calibration_dir=photos"]])
def test_an_export_is_not_shared(monkeypatch, flags_of, more):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("sys.argv", ["infer.py", *flags_of("infer.py"), "--save_inference=True", *more])
    with pytest.raises(FlagError, match="--save_inference=True runs in a single process: start it without torch"):
        infer.main()


def test_gpus_of_several_processes(monkeypatch):
    """One for each, by its number; not all of them the same one."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for name, value in {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    common = ["--model_file=x", "--image_path=x"]
    assert predict.choose_device(predict.parse("predict", common)) == torch.device("cuda", 1)
    assert predict.choose_device(predict.parse("predict", [*common, "--gpu_id=-1"])) == torch.device("cpu")
    with pytest.raises(FlagError, match="--gpu_id 0: with several processes each takes its own GPU"):
        predict.choose_device(predict.parse("predict", [*common, "--gpu_id=0"]))
