"""data/ILSVRC2012/: the download script and what unpacks the archives, on a small copy of ImageNet's."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from archives import tar_of
from scipy.io import savemat

SOURCE = Path(__file__).resolve().parents[2] / "data" / "ILSVRC2012"
# Class number -> WNID, as the development kit numbers them; 4 is an ancestor of some.
WNIDS = {1: "n02119789", 2: "n01440764", 3: "n02100735", 4: "n00001740"}
VAL_NUMBERS = [3, 1, 2, 1]
ARCHIVES = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_val.tar", "ILSVRC2012_img_train.tar")

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the script downloads with curl")


def small_archives() -> dict[str, bytes]:
    table = np.zeros(len(WNIDS), [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for row, (number, wnid) in zip(table, WNIDS.items(), strict=True):
        row["ILSVRC2012_ID"], row["WNID"], row["words"] = float(number), wnid, "some words"
    meta = io.BytesIO()
    savemat(meta, {"synsets": table}, do_compression=True)
    devkit = {
        "data/meta.mat": meta.getvalue(),
        "data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in VAL_NUMBERS).encode(),
    }
    # Real archives are not in the order of the labels either.
    val = {f"ILSVRC2012_val_{i:08d}.JPEG": f"val {i}".encode() for i in (2, 1, 4, 3)}
    val["../evil.JPEG"] = b"evil"
    train = {}
    for number in (1, 3, 2):
        images = {f"{WNIDS[number]}_{i}.JPEG": f"{number} {i}".encode() for i in (10, 2)}
        train[f"{WNIDS[number]}.tar"] = tar_of(images | {f"../{WNIDS[number]}_3.JPEG": b"evil"})
    contents = (
        tar_of({f"ILSVRC2012_devkit_t12/{name}": content for name, content in devkit.items()}, "w:gz"),
        tar_of(val),
        tar_of(train),
    )
    return dict(zip(ARCHIVES, contents, strict=True))


@pytest.fixture
def house(tmp_path) -> Path:
    """A server folder with the archives, and a folder with the scripts, made to expect the small archives."""
    server, house = tmp_path / "server", tmp_path / "house"
    server.mkdir()
    house.mkdir()
    script = (SOURCE / "download_imagenet2012.sh").read_text()
    for name, content in small_archives().items():
        (server / name).write_bytes(content)
        line = next(line for line in script.splitlines() if line.startswith(f"fetch {name} "))
        script = script.replace(line, f"fetch {name} {hashlib.md5(content).hexdigest()}")
    (house / "download_imagenet2012.sh").write_text(script)
    prepare = (SOURCE / "prepare.py").read_text()
    for real, small in (("CLASSES = 1000", "CLASSES = 3"), ("1_281_167", "6"), ("50_000", "4")):
        assert prepare.count(real) == 1
        prepare = prepare.replace(real, small)
    (house / "prepare.py").write_text(prepare)
    return house


def download(house: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    account = {"IMAGENET_USERNAME": "someone", "IMAGENET_ACCESS_KEY": 'a"b\\c'}
    url = (house.parent / "server").as_uri()
    return subprocess.run(
        ["bash", house / "download_imagenet2012.sh"],
        env={**os.environ, "PYTHON": sys.executable, "IMAGENET_URL": url, **account, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def check(house: Path) -> None:
    assert (house / "val_list.txt").read_text().splitlines() == [
        "val/ILSVRC2012_val_00000001.JPEG 1",
        "val/ILSVRC2012_val_00000002.JPEG 2",
        "val/ILSVRC2012_val_00000003.JPEG 0",
        "val/ILSVRC2012_val_00000004.JPEG 2",
    ]
    assert (house / "train_list.txt").read_text().splitlines() == [
        f"train/{wnid}/{wnid}_{i}.JPEG {label}"
        for label, wnid in enumerate(("n01440764", "n02100735", "n02119789"))
        for i in (10, 2)
    ]
    assert (house / "val" / "ILSVRC2012_val_00000003.JPEG").read_bytes() == b"val 3"
    assert (house / "train" / "n02100735" / "n02100735_10.JPEG").read_bytes() == b"3 10"
    assert b"evil" not in {path.read_bytes() for path in house.rglob("*.JPEG")}


def test_download_unpack_and_list(house):
    result = download(house)
    assert result.returncode == 0, result.stderr
    check(house)


def test_an_interrupted_run_goes_on(house):
    whole = (house.parent / "server" / ARCHIVES[2]).read_bytes()
    (house / f"{ARCHIVES[2]}.part").write_bytes(whole[:3000])
    assert download(house).returncode == 0
    check(house)

    # Interrupted while unpacking: one class is missing, another half there.
    shutil.rmtree(house / "train" / "n02119789")
    (house / "train" / "n01440764").rename(house / "train" / "n01440764.part")
    (house / "train" / "n01440764.part" / "n01440764_2.JPEG").write_bytes(b"half")
    (house / "train_list.txt").unlink()
    result = download(house, IMAGENET_USERNAME="", IMAGENET_ACCESS_KEY="", IMAGENET_URL="file:///nowhere")
    assert result.returncode == 0, result.stderr
    assert "downloading" not in result.stdout and "n02100735" not in result.stdout
    check(house)


def test_files_from_a_browser_need_no_account(house):
    for name in ARCHIVES:
        shutil.copy(house.parent / "server" / name, house)
    assert download(house, IMAGENET_USERNAME="", IMAGENET_ACCESS_KEY="").returncode == 0
    check(house)


def test_a_damaged_file_is_refused(house):
    (house / ARCHIVES[1]).write_text("<html>please log in</html>")
    result = download(house)
    assert result.returncode == 1
    assert f"{ARCHIVES[1]} is damaged" in result.stderr
    assert not (house / "val").exists()


def test_no_account_and_no_answer_are_one_line(house):
    result = download(house, IMAGENET_USERNAME="")
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "IMAGENET_USERNAME" in result.stderr
    result = download(house, IMAGENET_URL="file:///nowhere")
    assert result.returncode == 1 and "with a browser" in result.stderr


def test_missing_images_are_noticed(house):
    prepare = house / "prepare.py"
    prepare.write_text(prepare.read_text().replace('"train": 6', '"train": 7'))
    result = download(house)
    assert result.returncode == 1 and "train/ has 6 images, not the 7" in result.stderr
    assert not (house / "train_list.txt").exists()
