"""PaddlePaddle's published weights of a small network, in every form that weights come in."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import torch
from archives import tar_of
from torch import nn

import models
from utils.formats import archives as archive
from utils.weights import load_pretrained

FILES = Path(__file__).parents[1] / "fixtures" / "paddle"


PUBLISHED = FILES / "MobileNetV1_x0_25_pretrained.tar.xz"


NAME = "MobileNetV1_x0_25"


def published_variables() -> dict[str, bytes]:
    """The published variable files, by name: written by PaddlePaddle 1.8.5."""
    members = archive.tar_members(archive.decompress(PUBLISHED))
    return {name.rpartition("/")[2]: bytes(content) for name, content in members.items()}


def published_network() -> nn.Module:
    """The network with these weights."""
    model = models.build(NAME)
    load_pretrained(model, PUBLISHED)
    return model


def fresh(name: str = NAME, **options) -> nn.Module:
    """A network with other weights, always the same, for inference."""
    torch.manual_seed(5)
    return models.build(name, **options).eval()


def assert_same(model: nn.Module, other: nn.Module) -> None:
    assert model.state_dict().keys() == other.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


def write_folder(variables: dict[str, bytes], folder: Path) -> None:
    for name, content in variables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write_tar(variables: dict[str, bytes], path: Path, mode: str = "w", folder: str = "x_pretrained/") -> None:
    path.write_bytes(tar_of({folder + name: content for name, content in variables.items()}, mode))


def write_zip(variables: dict[str, bytes], path: Path, compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in variables.items():
            file.writestr(f"some/where/{name}", content)


def combined(variables: dict[str, bytes]) -> bytes:
    """All of them in one file, without names."""
    return b"".join(variables[name] for name in sorted(variables))


def program() -> bytes:
    """The published inference program, which names them."""
    with gzip.open(FILES / "MobileNetV1_x0_25_model.gz") as file:
        return file.read()


# Each writes variables to a path.
FORMS = {
    "folder": write_folder,
    "folder in a folder": lambda v, path: write_folder(v, path / "pretrained" / "x"),
    "tar": write_tar,
    "tar without a folder": lambda v, path: write_tar(v, path, folder=""),
    "tar of ./": lambda v, path: write_tar(v, path, folder="./deep/er/"),
    "tar.gz": lambda v, path: write_tar(v, path, "w:gz"),
    "tar.bz2": lambda v, path: write_tar(v, path, "w:bz2"),
    "zip": write_zip,
    "stored zip": lambda v, path: write_zip(v, path, zipfile.ZIP_STORED),
    "combined": lambda v, path: path.write_bytes(combined(v)),
    "inference folder": lambda v, path: write_folder({"params": combined(v), "model": program()}, path),
    "inference tar": lambda v, path: write_tar({"__params__": combined(v), "__model__": program()}, path),
}
