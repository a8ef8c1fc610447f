"""Weights out of models that PaddlePaddle exported."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from paddle_programs import PPLCNET, example_files, write_example

import models
from utils.errors import FormatError, UserError
from utils.formats.inference_model import read_inference_model
from utils.formats.paddle_program import Operation, Program, Variable
from utils.weights import load_pretrained
from utils.weights.by_use import keys_by_use

NAME = "PPLCNet_x0_25"


@pytest.fixture
def logits(tmp_path) -> np.ndarray:
    """What the original answers to `zoo.images`."""
    path = tmp_path / "expected.npz"
    path.write_bytes(example_files()[f"{NAME}/expected.npz"])
    with np.load(path) as file:
        return file["logits"]


def loaded(path: Path) -> np.ndarray:
    """The logits of the network with the weights of an exported model."""
    model = models.build(NAME, class_dim=20)
    assert load_pretrained(model, path).loaded == 146
    with torch.no_grad():
        return model.eval()(torch.as_tensor(zoo.images(224))).numpy()


@pytest.mark.parametrize("info", [True, False], ids=["named", "by use"])
@pytest.mark.parametrize("name", PPLCNET)
def test_weights_are_exactly_those_of_the_export(name, info, logits, tmp_path):
    folder = write_example(name, tmp_path / "export")
    if not info:
        (folder / "inference.pdiparams.info").unlink(missing_ok=True)
    assert np.abs(loaded(folder) - logits).max() < 1e-5 * np.abs(logits).max()
    model = models.build(NAME, class_dim=20)
    load_pretrained(model, folder)
    parameters = read_inference_model(folder).parameters.values()
    assert sum(array.sum(dtype=np.float64) for array in parameters) == pytest.approx(
        sum(tensor.double().sum().item() for key, tensor in model.state_dict().items() if "num_batches" not in key),
        rel=1e-9,
    )


@pytest.mark.parametrize("form", ["program", "parameters", "archive", "compressed"])
def test_every_form(form, logits, tmp_path):
    folder = write_example(PPLCNET[0], tmp_path / f"{NAME}_infer")
    path = folder / {"program": "inference.json", "parameters": "inference.pdiparams"}.get(form, "")
    if form in ("archive", "compressed"):
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w" if form == "archive" else "w:gz") as archive:
            archive.add(folder, folder.name)
    assert np.abs(loaded(path) - logits).max() < 1e-5 * np.abs(logits).max()


def test_another_network_is_refused(tmp_path):
    folder = write_example(PPLCNET[0], tmp_path / "export")
    with pytest.raises(UserError, match="its program uses parameters otherwise than the network"):
        load_pretrained(models.build("MobileNetV1_x0_25", class_dim=20), folder)
    (folder / "inference.pdiparams").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=r"inference\.pdiparams: "):
        load_pretrained(models.build(NAME, class_dim=20), folder)


class Parallel(torch.nn.Module):
    """Two layers that could change places."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Conv2d(3, 4, 1, bias=False)
        self.other = torch.nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(images), self.other(images)], 1)


def test_several_mappings_are_refused():
    convolutions = [
        Operation("conv2d", {"": ("x", f"conv2d_{number}.w_0")}, {"": (f"%{number}",)}, {}) for number in range(2)
    ]
    joined = Operation("concat", {"": ("%0", "%1")}, {"": ("y",)}, {})
    weights = {
        f"conv2d_{number}.w_0": Variable(f"conv2d_{number}.w_0", (4, 3, 1, 1), "float32", True) for number in (0, 1)
    }
    variables = {"x": Variable("x", (-1, 3, 8, 8), "float32"), **weights}
    program = Program("pir", 4, (*convolutions, joined), variables, tuple(weights), ("x",), ("y",), ("x",), ("y",))
    with pytest.raises(FormatError, match="does not tell which parameter is which: 2 could change places"):
        keys_by_use(Parallel(), program)
