"""Every recipe of scripts/train/ is a command line that train.py takes, and the user's flags win over it."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

import pytest
import zoo

import models
from utils.flags import parse
from utils.training.build import check_train_flags
from utils.weights.network import resolve_input

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "scripts" / "train").glob("*.sh"))


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the interpreter: it says that there are $GPUS devices, else prints its arguments, one a line."""
    path = tmp_path_factory.mktemp("recorder") / "python"
    path.write_text('#!/usr/bin/env bash\nif [ "$1" = -c ]; then echo "${GPUS:-0}"; else printf "%s\\n" "$@"; fi\n')
    path.chmod(0o755)
    return path


def command(recorder: Path, name: str, *flags: str, **environment: str) -> list[str]:
    """The arguments with which the recipe `name` starts the interpreter, given the user's `flags`."""
    kept = {key: value for key, value in os.environ.items() if key != "DATA_DIR"}
    result = subprocess.run(
        ["bash", ROOT / "scripts" / "train" / f"{name}.sh", *flags],
        env={**kept, "PYTHON": str(recorder), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    shown, *arguments = result.stdout.splitlines()
    assert shown.startswith("+ ")
    return arguments


def flags_of(recorder: Path, name: str, *flags: str, **environment: str) -> argparse.Namespace:
    script, *arguments = command(recorder, name, *flags, **environment)
    assert script == "train.py"
    return parse("train", arguments)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_a_valid_command_line(recorder, name, capsys):
    args = flags_of(recorder, name)
    models.check_name(args.model)
    check_train_flags(args)
    assert capsys.readouterr().err == ""  # every flag has an effect
    size = args.image_shape
    resolve_input(args)
    if "image_shape" in args.given and "data_dir" not in args.given:
        assert args.image_shape == size == [3, *[models.input_config(args.model).image_size] * 2]
    if name in models.list_models():
        assert args.model == name


def test_every_network_of_the_fluid_zoo_has_a_recipe():
    assert {entry.network for entry in zoo.entries("fluid")} <= set(RECIPES)


def test_the_users_flags_win(recorder):
    args = flags_of(recorder, "ResNet50_vd", "--lr", "0.4", "--use_mixup=False", "--image_shape", "3", "64", "64")
    assert (args.lr, args.use_mixup, args.image_shape) == (0.4, False, [3, 64, 64])
    assert (args.lr_strategy, args.num_epochs, args.l2_decay) == ("cosine_decay", 200, 7e-5)


def test_data_dir_comes_from_the_environment_unless_given(recorder):
    assert flags_of(recorder, "ResNet50").data_dir == "./data/ILSVRC2012/"
    assert flags_of(recorder, "ResNet50", DATA_DIR="/some where/else").data_dir == "/some where/else"
    assert flags_of(recorder, "ResNet50", "--data_dir=here", DATA_DIR="/elsewhere").data_dir == "here"
    assert flags_of(recorder, "digits", DATA_DIR="/elsewhere").data_dir == "./data/digits/"


def test_one_process_for_every_visible_gpu(recorder):
    assert command(recorder, "ResNet50", GPUS="1")[0] == "train.py"
    launched = command(recorder, "ResNet50", GPUS="4")
    script = launched.index("train.py")
    assert launched[:script] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
    assert launched[script + 1 :] == command(recorder, "ResNet50")[1:]
