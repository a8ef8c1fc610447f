"""Which files of a folder are its images, and what is said of the others."""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from archives import tar_of
from loading import entries, save_picture
from PIL import Image

from utils.errors import UserError
from utils.reading import folders
from utils.reading.dataset import open_dataset
from utils.reading.decode import decode
from utils.reading.folders import HEIF_SUFFIXES, IMAGE_SUFFIXES, image_suffixes
from utils.reading.image_list import ImageList

KINDS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pnm"),
}


def written(kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 30, 30)).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setattr(folders, "image_suffixes", lambda: IMAGE_SUFFIXES)


def test_every_suffix_is_of_a_format_that_is_decoded(tmp_path):
    files = {suffix: written(kind) for kind, suffixes in KINDS.items() for suffix in suffixes}
    files |= {".pgm": written("PPM", "L"), ".pbm": written("PPM", "1")}
    files[".ras"] = cv2.imencode(".ras", np.zeros((7, 9, 3), np.uint8))[1].tobytes()
    assert files.keys() == set(IMAGE_SUFFIXES)
    for suffix, data in files.items():
        (tmp_path / f"x{suffix.upper()}").write_bytes(data)
        for backend in ("cv2", "pil"):
            assert decode(data, suffix, backend).shape == (7, 9, 3)
    images = ImageList.from_folder(str(tmp_path))
    assert [images.name(index) for index in range(len(images))] == sorted(f"x{suffix.upper()}" for suffix in files)


def droppings(folder: Path) -> None:
    """One image of one's own, and what systems add to it."""
    for name in (
        "a/1.png", "a/._1.png", "a/.ipynb_checkpoints/1-checkpoint.png", "a/@eaDir/1.png/SYNOPHOTO_THUMB_XL.png",
        "__MACOSX/a/1.png", ".cache/1.png", "a/sub/$RECYCLE.BIN/1.png",
    ):  # fmt: skip
        save_picture(folder / name, 0)
    for name in ("a/.DS_Store", "a/Thumbs.db", "desktop.ini"):
        (folder / name).touch()


def test_droppings_are_left_out_at_every_level(tmp_path, capsys):
    droppings(tmp_path / "train")
    root = tmp_path / "train"
    said = f"warning: {root}: 6 files are skipped: 6 in hidden files and folders (.cache/1.png)\n"
    images = open_dataset(str(tmp_path), "train", 2)
    assert entries(images) == [(f"{root}/a/1.png", 0)] and images.class_names == ["a"]
    assert capsys.readouterr().err == said
    assert entries(ImageList.find(str(root))) == [(f"{root}/a/1.png", -1)]
    assert capsys.readouterr().err == said
    assert entries(ImageList.find(f"{root}/**/*")) == [(f"{root}/a/1.png", -1)]
    assert "__MACOSX" in capsys.readouterr().err  # a pattern does not match what begins with a dot
    # Who names such a folder means it.
    assert len(ImageList.find(str(root / "a" / ".ipynb_checkpoints"))) == 1
    assert capsys.readouterr().err == ""


def test_droppings_in_a_tar_file(tmp_path):
    """macOS's tar adds a file ._NAME to each."""
    members = {"a.jpg": b"x", "a.cls": b"1", "._a.jpg": b"y", "._a.cls": b"y", "__MACOSX/a.jpg": b"y"}
    (tmp_path / "train.tar").write_bytes(tar_of(members))
    images = open_dataset(str(tmp_path), "train", 2)
    assert entries(images) == [(f"{tmp_path}/train.tar/a.jpg", 1)]


def test_what_is_left_out_is_counted_and_classes_without_images_are_named(tmp_path, capsys, without_heif):
    root = tmp_path / "train"
    for name in ("a/1.jpg", "b/1.jpg", "loose.jpg"):
        save_picture(root / name, 0)
    for name in ("a/1.xml", "a/noted", "c/1.HEIC", "c/2.HEIC"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    assert len(open_dataset(str(tmp_path), "train", 3)) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {root}: 5 files are skipped: 2 .heic (c/1.HEIC: to read them, pip install pillow-heif), "
        "1 without a suffix (a/noted), 1 .xml (a/1.xml), 1 outside class folders (loose.jpg)",
        f"warning: {root}: 1 of 3 classes have no image: c",
    ]


def test_files_that_are_still_in_the_cloud_are_counted(tmp_path, capsys):
    save_picture(tmp_path / "1.jpg", 0)
    (tmp_path / ".2.jpg.icloud").touch()
    assert len(ImageList.from_folder(str(tmp_path))) == 1
    assert "1 file is skipped: 1 .icloud (.2.jpg.icloud: not downloaded yet)" in capsys.readouterr().err


def test_folders_without_an_image_say_what_they_have(tmp_path, without_heif):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.heic").touch()
    with pytest.raises(UserError, match=r"no images in class folders .*; 1 file is skipped: 1 \.heic \(a/1\.heic"):
        open_dataset(str(tmp_path), "train", 3)
    with pytest.raises(UserError, match=r"has no image \(looked for \.jpg.*; 1 file is skipped"):
        ImageList.find(str(tmp_path))
    with pytest.raises(UserError, match=r"no image matches this pattern; 1 file is skipped"):
        ImageList.find(str(tmp_path / "*" / "*" / "*"))
    assert len(ImageList.find(str(tmp_path / "*" / "*" / "*.heic"))) == 1  # whoever says a suffix has it


def test_heif_counts_where_its_package_is_installed(monkeypatch):
    monkeypatch.setattr(folders.importlib.util, "find_spec", lambda name: name == "pillow_heif" or None)
    assert image_suffixes.__wrapped__() == (*IMAGE_SUFFIXES, *HEIF_SUFFIXES)
    monkeypatch.setattr(folders.importlib.util, "find_spec", lambda name: None)
    assert image_suffixes.__wrapped__() == IMAGE_SUFFIXES


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    save_picture(tmp_path / "a" / "1.jpg", 0)
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def scan(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(UserError, match="locked: permission denied"):
        ImageList.from_folder(str(tmp_path))


# ------------------------------------------------------------------------------------------------------- a missing part


@pytest.mark.parametrize(
    ("there", "part", "said"),
    [
        ("valid/a/1.jpg", "val", "; there is valid/: rename it to val if it is that part"),
        ("Validation/a/1.jpg", "val", "; there is Validation/: rename it to val if it is that part"),
        ("test/a/1.jpg", "val", "; there is test/: rename it to val if it is that part"),
        ("val.txt", "val", "; there is val.txt: rename it to val_list.txt if its lines are `relative/path label`"),
        ("training_list.txt", "train", "; there is training_list.txt: rename it to train_list.txt if its lines are"),
        ("Train/a/1.jpg", "train", "; there is Train/: rename it to train if it is that part"),
        ("cats/1.jpg", "train", "; if cats are classes, reader.py --data_dir={} --split=0.2 holds out a fifth of each"),
        ("1.jpg", "train", "; 1.jpg and the like have no class: put the images into a folder for each class"),
        ("train-00000.parquet", "train", "; train-00000.parquet is of a kind that is not read: write its images into"),
        ("train/cats/1.jpg", "val", "; reader.py --data_dir={} --split=0.2 holds out a fifth of each class in train/"),
    ],
)
def test_what_is_there_in_place_of_a_missing_part(tmp_path, there, part, said):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).touch()
    with pytest.raises(UserError) as caught:
        open_dataset(str(tmp_path), part, 3)
    assert f"nor tar shards {part}*.tar{said.format(tmp_path)}" in str(caught.value)


def test_a_data_set_one_folder_deeper(tmp_path):
    save_picture(tmp_path / "flowers" / "train" / "a" / "1.jpg", 0)
    with pytest.raises(UserError, match=f"flowers has it: give --data_dir={tmp_path}/flowers$"):
        open_dataset(str(tmp_path), "train", 3)


def test_a_part_of_a_data_set_in_place_of_the_whole(tmp_path):
    save_picture(tmp_path / "train" / "a" / "1.jpg", 0)
    with pytest.raises(UserError, match=f"; it is itself part of a dataset: give --data_dir={tmp_path}$"):
        open_dataset(str(tmp_path / "train"), "train", 3)
