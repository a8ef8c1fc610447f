"""hubconf.py, and models/ as a library: as programs elsewhere use them, that is, from a process in another folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from launch import Launcher, Result

import models
from utils.weights.write import save_weights

ROOT = Path(__file__).resolve().parents[2]
NAME = "MobileNetV1_x0_25"


@pytest.fixture(scope="module")
def bare() -> Iterator[Launcher]:
    """Runs programs that find PyTorch imported, and nothing of the project."""
    launcher = Launcher(project=False)
    yield launcher
    launcher.close()


@pytest.fixture
def run(bare: Launcher, tmp_path: Path) -> Callable[..., Result]:
    """Runs a Python program in a folder, from which the project's packages cannot be seen."""

    def run_program(program: str, *path: Path) -> Result:
        script = tmp_path / "program.py"
        script.write_text(
            f"import sys, torch\nsys.path[:0] = {['', *map(str, path)]}\nrepo = {str(ROOT)!r}\n{program}\n"
        )
        return bare(str(script), 1, tmp_path)

    return run_program


@pytest.fixture
def output(run: Callable[..., Result]) -> Callable[..., list[str]]:
    """Runs such a program, which has to end well; returns its lines."""

    def lines_of(program: str, *path: Path) -> list[str]:
        result = run(program, *path)
        assert result.code == 0, result.err
        return result.out

    return lines_of


# What torch.hub.list and torch.hub.help do with a repository of GitHub; they take no local folder.
OPEN = "with torch.hub._add_to_sys_path(repo):\n    hub = torch.hub._import_module('hubconf', repo + '/hubconf.py')\n"


def test_hub_lists_the_networks_and_nothing_else(output):
    names = "[name for name in dir(hub) if callable(getattr(hub, name)) and not name.startswith('_')]"
    (listing,) = output(f"{OPEN}import json\nprint(json.dumps({names}))")
    assert json.loads(listing) == sorted(models.list_models())


def test_hub_help_says_what_the_network_expects(output):
    told = " ".join(output(f"{OPEN}print(hub.EfficientNetB3.__doc__)"))
    assert "(N, 3, 300, 300)" in told and "0.485 0.456 0.406" in told and "short side of 332 (bicubic, OpenCV)" in told


def test_hub_loads_weights(output, tmp_path):
    torch.manual_seed(3)
    model = models.build(NAME, class_dim=7).eval()
    save_weights(model, tmp_path / "weights.safetensors", {"model": NAME, "class_dim": 7})
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    output(
        f"load = dict(source='local', weights='weights.safetensors')\n"
        f"model = torch.hub.load(repo, {NAME!r}, class_dim=7, **load).eval()\n"
        "images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))\n"
        "torch.save(model(images), 'logits.pt')\n"
        f"other = torch.hub.load(repo, {NAME!r}, class_dim=5, exclude=['fc.'], **load)\n"
        "assert other(images).shape == (2, 5)\n"
        "assert torch.equal(other.state_dict()['conv.conv.weight'], model.state_dict()['conv.conv.weight'])\n"
    )
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(images), rtol=0, atol=1e-6)


def test_hub_takes_a_relative_folder(output):
    output(f"import os\nos.chdir(repo)\ntorch.hub.load('.', {NAME!r}, source='local')")


def test_hub_refuses_weights_that_do_not_fit(run, tmp_path):
    save_weights(models.build(NAME, class_dim=7), tmp_path / "weights.safetensors", {"model": NAME, "class_dim": 7})
    result = run(f"torch.hub.load(repo, {NAME!r}, source='local', weights='weights.safetensors')")
    assert result.code and "class_dim=7" in result.err[-1]


def test_hub_tells_of_another_package_named_models(run, tmp_path):
    (tmp_path / "models.py").touch()
    result = run(f"import models\ntorch.hub.load(repo, {NAME!r}, source='local')")
    assert "another package named models" in result.err[-1]


def test_models_is_a_library(output):
    program = (
        "import models\n"
        "model = models.ResNet18_vd(class_dim=10).eval()\n"
        "images = torch.rand(2, 3, 64, 64)\n"
        "with torch.no_grad():\n"
        "    print(*model(images).shape, *model.forward_features(images).shape)\n"
        "print(models.input_config('DarkNet53').image_size, 'VGG16' in models.list_models('VGG*'))\n"
    )
    assert output(program, ROOT) == ["2 10 2 512", "256 True"]


def test_an_unknown_network_is_named_with_its_neighbours():
    with pytest.raises(AttributeError, match="did you mean ResNet50_vd"):
        models.ResNet5O_vd()
