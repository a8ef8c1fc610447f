"""The same for what the upper rooms read: exported networks of both formats, and checkpoints.

python tests/support/fuzz_exports.py      writes tests/fixtures/exports/ anew
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
import random
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]

from caffe_files import field
from damage import mutated_header, mutated_message, mutated_pickle, mutated_zip
from fuzz_readers import members_of, written
from mutations import Field, join_message, mutate_json, split_message

import models
from utils.deploy.exported import load_exported
from utils.deploy.network import DESCRIPTION
from utils.deploy.onnx_engines import ENTRY_VALUE, MODEL_METADATA, graph_checksum
from utils.errors import of_the_machine
from utils.flags import parse
from utils.training.build import build_train_step
from utils.training.checkpoint import MANIFEST, STATE, Position, RunFolder
from utils.training.start import RunStart

FIXTURES = Path(__file__).parents[1] / "fixtures" / "exports"
NETWORK = "MobileNetV1_x0_25"


class SmallNetwork(nn.Module):
    """A network of which an export has some kilobytes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.max_pool2d(torch.relu(self.norm(self.conv(images))), 2, 2)
        return self.fc(maps.mean((2, 3)).reshape(images.shape[0], -1))


def _mutated_tree(rng: random.Random, tree: Any) -> Any:
    """A value of JSON, which may have tensors in it, with a few changes."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 5))):
        with contextlib.suppress(TypeError):  # a tensor was to be copied to another place
            mutate_json(rng, tree)
    return tree


def _mutated_text(rng: random.Random, text: bytes) -> bytes:
    """JSON, or what passes for it."""
    if rng.random() < 0.1:
        return rng.choice((b"[" * 100_000, b"{}", b"null", b"", text[:-9], b"9" * 5000, text.replace(b"1", b"NaN", 1)))
    return json.dumps(_mutated_tree(rng, json.loads(text))).encode()


def _run(model_file: Path) -> None:
    """Loads an exported network, and shows it an image."""
    network = load_exported(str(model_file))
    _, height, width = network.description.image_shape
    if height * width > 1 << 16:  # as large as anybody may ask for
        return
    try:
        network(torch.ones(1, 3, height, width))
    except Exception as error:
        if of_the_machine(error) is None:  # else a script says in one line that memory is missing
            raise


# ----------------------------------------------------------------------------------------------- exported networks


def program(rng: random.Random) -> None:
    """A program of torch.export, its description and its weights, of which the description has the right checksum."""
    members = members_of((FIXTURES / "model").read_bytes())
    weights = (FIXTURES / "params").read_bytes()
    (description,) = (name for name in members if name.endswith(f"extra/{DESCRIPTION}"))
    if rng.random() < 0.15:
        weights = mutated_header(rng, weights)
        about = json.loads(members[description])
        about |= {"params_bytes": len(weights), "params_sha256": hashlib.sha256(weights).hexdigest()}
        members[description] = json.dumps(about).encode()
        model = mutated_zip(rng, members, lambda rng, name, content: content)
    else:
        # Of the others nothing is read.
        (graph,) = (name for name in members if name.endswith("models/model.json"))
        texts = {name: members[name] for name in (description, graph)}
        changed = rng.choice((description, graph, graph))
        texts[changed] = _mutated_text(rng, texts[changed])
        model = mutated_zip(rng, texts, lambda rng, name, content: content)
    written(weights, "params")
    _run(written(model, "model"))


def onnx(rng: random.Random) -> None:
    """An ONNX model and its description. What is in the graph is its engine's to check, and has a checksum here."""
    model = (FIXTURES / "model.onnx").read_bytes()
    if rng.random() < 0.3:
        _run(written(mutated_message(rng, model, "onnx"), "model.onnx"))
        return
    fields: list[Field] = []
    for number, wire, value in split_message(model):
        if number == MODEL_METADATA:
            key, (_, _, text) = split_message(value)
            text = _mutated_text(rng, text)
            value = join_message([key, (ENTRY_VALUE, 2, text)])
        fields.append((number, wire, value))
    if rng.random() < 0.2:  # files beside it that it names
        fields.append((7, 2, field(5, field(13, field(1, b"location") + field(2, b"../x")))))
    content = join_message(fields)
    graph_checksum(content)
    _run(written(content, "model.onnx"))


# ------------------------------------------------------------------------------------------------------ checkpoints


@functools.cache
def training() -> tuple[Any, Any, Any, dict[str, bytes]]:
    """Flags, what trains, a training state, and the files of its checkpoint."""
    folder = Path("saved").absolute()
    args = parse("train", [f"--model={NETWORK}", "--class_dim=4", "--batch_size=16", "--use_gpu=False"])
    model = models.build(NETWORK, class_dim=4)
    args.total_images, args.model_save_dir, args.checkpoint = 48, "output", f"output/{NETWORK}/latest"
    step = build_train_step(args, model, torch.device("cpu"))
    position = Position(
        16, images=48, seed=7, epoch=2, step_in_epoch=1, best={"best_model": 0.5}, history=[{"loss": 1.0}]
    )
    notes = {"model": NETWORK, "class_dim": 4}
    with RunFolder(folder) as run_folder:
        run_folder.save(["latest"], model, position, step.state_dict(), None, notes)
    files = {file.name: file.read_bytes() for file in (folder / "latest").iterdir()}
    state = torch.load(folder / "latest" / STATE, weights_only=True)
    shutil.rmtree(folder)
    return args, step, state, files


def state(rng: random.Random) -> None:
    """A checkpoint: its manifest, or its state, of which the manifest has the right checksum."""
    args, step, whole, files = training()
    files = dict(files)
    kind = rng.random()
    if kind < 0.3:
        files[MANIFEST] = _mutated_text(rng, files[MANIFEST])
    else:
        if kind < 0.8:
            torch.save(_mutated_tree(rng, whole), "state")
            files[STATE] = Path("state").read_bytes()
        else:
            members = members_of(files[STATE])
            members = {name: mutated_pickle(rng, c) if name.endswith(".pkl") else c for name, c in members.items()}
            files[STATE] = mutated_zip(rng, members, lambda rng, name, content: content)
        manifest = json.loads(files[MANIFEST])
        manifest["crc32"][STATE] = zlib.crc32(files[STATE])
        files[MANIFEST] = json.dumps(manifest).encode()
    folder = Path("output", NETWORK, "latest")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        written(content, str(folder / name))
    with RunStart(args, torch.device("cpu")) as start:
        start.restore(step, 48, 3)


if __name__ == "__main__":
    from exports import describe

    from utils.deploy.export import save_inference

    torch.manual_seed(0)
    for form in ("torch", "onnx"):
        save_inference(SmallNetwork().eval(), describe(NETWORK, 16), FIXTURES / form, inference_format=form)
        for file in (FIXTURES / form).iterdir():
            os.replace(file, FIXTURES / file.name)
        (FIXTURES / form).rmdir()
