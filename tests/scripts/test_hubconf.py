"""hubconf.py, and models/ as a library: as programs elsewhere use them, that is, from a process in another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models
from utils.weights.write import save_weights

ROOT = Path(__file__).resolve().parents[2]
NAME = "MobileNetV1_x0_25"


def run(program: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in `folder`, from which the project's packages cannot be seen."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", f"import torch\nrepo = {str(ROOT)!r}\n{program}"],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def output(program: str, folder: Path, **environment: str) -> str:
    result = run(program, folder, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


# What torch.hub.list and torch.hub.help do with a repository of GitHub; they take no local folder.
OPEN = "with torch.hub._add_to_sys_path(repo):\n    hub = torch.hub._import_module('hubconf', repo + '/hubconf.py')\n"


def test_hub_lists_the_networks_and_nothing_else(tmp_path):
    names = "[name for name in dir(hub) if callable(getattr(hub, name)) and not name.startswith('_')]"
    listing = output(f"{OPEN}import json\nprint(json.dumps({names}))", tmp_path)
    assert json.loads(listing) == sorted(models.list_models())


def test_hub_help_says_what_the_network_expects(tmp_path):
    told = output(f"{OPEN}print(hub.EfficientNetB3.__doc__)", tmp_path)
    assert "(N, 3, 300, 300)" in told and "0.485 0.456 0.406" in told and "short side of 332 (bicubic, OpenCV)" in told


def test_hub_loads_weights(tmp_path):
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
        "assert torch.equal(other.state_dict()['conv.conv.weight'], model.state_dict()['conv.conv.weight'])\n",
        tmp_path,
    )
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(images), rtol=0, atol=1e-6)


def test_hub_takes_a_relative_folder():
    output(f"torch.hub.load('.', {NAME!r}, source='local')", ROOT)


def test_hub_refuses_weights_that_do_not_fit(tmp_path):
    save_weights(models.build(NAME, class_dim=7), tmp_path / "weights.safetensors", {"model": NAME, "class_dim": 7})
    result = run(f"torch.hub.load(repo, {NAME!r}, source='local', weights='weights.safetensors')", tmp_path)
    assert result.returncode and "class_dim=7" in result.stderr.splitlines()[-1]


def test_hub_tells_of_another_package_named_models(tmp_path):
    (tmp_path / "models.py").touch()
    result = run(f"import models\ntorch.hub.load(repo, {NAME!r}, source='local')", tmp_path)
    assert "another package named models" in result.stderr.splitlines()[-1]


def test_models_is_a_library(tmp_path):
    program = (
        "import models\n"
        "model = models.ResNet18_vd(class_dim=10).eval()\n"
        "images = torch.rand(2, 3, 64, 64)\n"
        "with torch.no_grad():\n"
        "    print(*model(images).shape, *model.forward_features(images).shape)\n"
        "print(models.input_config('DarkNet53').image_size, 'VGG16' in models.list_models('VGG*'))\n"
    )
    assert output(program, tmp_path, PYTHONPATH=str(ROOT)) == "2 10 2 512\n256 True\n"


def test_an_unknown_network_is_named_with_its_neighbours():
    with pytest.raises(AttributeError, match="did you mean ResNet50_vd"):
        models.ResNet5O_vd()
