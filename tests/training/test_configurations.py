"""What configurations of PaddleClas train with: learning rates by step and groups of parameters, as PaddlePaddle 3.3.1
and the networks of PaddleClas 2.6.0 have them (tests/fixtures/paddleclas_solvers.json.gz, of four steps an epoch)."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
import make_configurations

from models.names import paddleclas_names
from utils.flags.parsing import Flags, build_parser
from utils.flags.table import GROUPS
from utils.training.build import build_schedule, build_train_step
from utils.weights.network import build_model, resolve_input

FILE = Path(__file__).parents[1] / "fixtures" / "paddleclas_solvers.json.gz"
REFERENCE = json.loads(gzip.decompress(FILE.read_bytes()))
FACTS = make_configurations.facts()


def flags_of(path: str) -> Flags:
    """The flags of train.py by a configuration, for a list of four batches."""
    found = make_configurations.translation("train", path, FACTS[path])
    assert not found.refusals
    typed = vars(build_parser("train").parse_args(found.words()))
    defaults = {flag.name: flag.default_for("train") for flags in GROUPS.values() for flag in flags}
    args = Flags(script="train", given=frozenset(typed), typed=frozenset(), **{**defaults, **typed})
    resolve_input(args)
    args.total_images = 4 * args.batch_size
    return args


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: Path(path).stem)
def test_rates(path):
    schedule = build_schedule(flags_of(path))
    rates = {int(step): rate for step, rate in REFERENCE[path]["rates"].items()}
    assert {step: schedule(step) for step in rates} == pytest.approx(rates, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: Path(path).stem)
def test_groups_of_parameters(path, monkeypatch):
    args = flags_of(path)
    monkeypatch.setattr("utils.training.build.place", lambda model, *_: model)
    monkeypatch.setattr("utils.training.build.ExponentialMovingAverage", lambda *_, **__: None)
    with torch.device("meta"):
        model = build_model(args)
        step = build_train_step(args, model, torch.device("cpu"))
    names = paddleclas_names(model)
    named = {parameter: names[key] for key, parameter in model.named_parameters()}
    groups: dict[str, set[str]] = {}
    for group in step.optimizer.param_groups:
        kind = f"{group['weight_decay']:g} {group.get('lr_scale', 1.0):g}"
        groups.setdefault(kind, set()).update(named[parameter] for parameter in group["params"])
    expected = {kind: set(each) for kind, each in REFERENCE[path]["groups"].items()}
    assert groups == expected
