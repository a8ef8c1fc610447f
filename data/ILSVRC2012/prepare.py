"""Unpacks the three archives of ImageNet (ILSVRC 2012) in the folder of this script, and lists their images.

    ILSVRC2012_img_train.tar       one tar per class     -> train/WNID/WNID_NUMBER.JPEG           train_list.txt
    ILSVRC2012_img_val.tar         flat                  -> val/ILSVRC2012_val_NUMBER.JPEG        val_list.txt
    ILSVRC2012_devkit_t12.tar.gz   classes of val, and which WordNet id (WNID) a class number stands for

A label is the alphabetical position of the class's WNID, as in all published weights; the development kit numbers the
classes differently. An interrupted run continues with the class it had reached.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import sys
import tarfile
import zlib
from pathlib import Path
from typing import IO

FOLDER = Path(__file__).resolve().parent
CLASSES = 1000
COUNTS = {"train": 1_281_167, "val": 50_000}
DEVKIT = "ILSVRC2012_devkit_t12"


def content(archive: tarfile.TarFile, member: tarfile.TarInfo | str) -> IO[bytes]:
    """Opens a file in `archive`; raises `LookupError` if it does not exist."""
    file = archive.extractfile(member)
    if file is None:
        raise LookupError(f"{member} in {archive.name!r} is not a file")
    return file


def unpack(archive: tarfile.TarFile, folder: Path, pattern: str) -> None:
    """Extracts files matching `pattern` from `archive` to `folder`, which appears only when complete."""
    partial = folder.with_name(f"{folder.name}.part")
    partial.mkdir(parents=True, exist_ok=True)
    for member in archive:
        if member.isfile() and re.fullmatch(pattern, member.name):
            with open(partial / member.name, "wb") as target:
                shutil.copyfileobj(content(archive, member), target)
    partial.rename(folder)


def unpack_train() -> None:
    """Unpacks the archive of archives into train/, one folder per class; skips existing classes."""
    with tarfile.open(FOLDER / "ILSVRC2012_img_train.tar") as archive:
        for member in archive:
            wnid = member.name.removesuffix(".tar")
            folder = FOLDER / "train" / wnid
            if re.fullmatch(r"n\d{8}", wnid) and not folder.exists():
                print(f"train/{wnid}", flush=True)
                with tarfile.open(fileobj=archive.extractfile(member)) as images:
                    unpack(images, folder, rf"{wnid}_\d+\.JPEG")


def unpack_val() -> None:
    """Unpacks val/ unless it exists."""
    if not (FOLDER / "val").exists():
        print("val", flush=True)
        with tarfile.open(FOLDER / "ILSVRC2012_img_val.tar") as archive:
            unpack(archive, FOLDER / "val", r"ILSVRC2012_val_\d{8}\.JPEG")


def read_devkit() -> tuple[list[str], list[int]]:
    """The WNIDs of the class numbers 1, 2, ..., and the class numbers of the validation images."""
    from scipy.io import loadmat

    with tarfile.open(FOLDER / f"{DEVKIT}.tar.gz") as archive:
        try:
            meta = loadmat(io.BytesIO(content(archive, f"{DEVKIT}/data/meta.mat").read()), squeeze_me=True)
        except Exception as error:  # scipy may raise anything for a damaged file
            raise ValueError(f"meta.mat in {DEVKIT}.tar.gz cannot be read: {error}") from None
        truth = content(archive, f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt").read()
    # The table also holds the classes' common ancestors.
    wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in meta["synsets"]}
    return [wnids[number] for number in range(1, CLASSES + 1)], [int(number) for number in truth.split()]


def write_list(part: str, lines: list[str]) -> None:
    """Writes a list file; raises `ValueError` unless it has as many lines as ILSVRC 2012 has images."""
    if len(lines) != COUNTS[part]:
        raise ValueError(f"{part}/ has {len(lines)} images, not the {COUNTS[part]} of ILSVRC 2012")
    (FOLDER / f"{part}_list.txt").write_text("".join(f"{line}\n" for line in lines))
    print(f"{len(lines)} images in {FOLDER / part}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, usage=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    try:
        wnids, truth = read_devkit()
        unpack_val()
        unpack_train()
        labels = {wnid: label for label, wnid in enumerate(sorted(wnids))}
        images = sorted(path.name for path in (FOLDER / "val").iterdir())
        write_list(
            "val", [f"val/{name} {labels[wnids[number - 1]]}" for name, number in zip(images, truth, strict=True)]
        )
        write_list(
            "train",
            [
                f"train/{wnid}/{path.name} {label}"
                for wnid, label in labels.items()
                for path in sorted((FOLDER / "train" / wnid).iterdir())
            ],
        )
    except (OSError, tarfile.TarError, zlib.error, EOFError, ValueError, LookupError, ImportError) as error:
        sys.exit(f"prepare.py: error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
