"""Learning rates step by step, as PaddleClas's builders of schedules give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from utils.errors import FlagError
from utils.flags import parse
from utils.training.build import build_schedule, check_schedule

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
REFERENCE = json.loads((FIXTURES / "paddleclas_schedules.json").read_text())
# PaddleClas's settings -> our flags.
STRATEGIES = {
    "ConstLR": "constant",
    "Cosine": "cosine",
    "Linear": "linear",
    "Step": "step",
    "MultiStepDecay": "multi_step",
    "Piecewise": "piecewise",
}
FLAGS = {
    "learning_rate": "lr",
    "warmup_start_lr": "warm_up_start_lr",
    "eta_min": "min_lr",
    "end_lr": "min_lr",
    "power": "lr_power",
    "cycle": "lr_cycle",
    "by_epoch": "lr_by_epoch",
    "step_size": "decay_epochs",
    "gamma": "decay_rate",
    "values": "lr_values",
    "decay_epochs": "step_epochs",
    "milestones": "step_epochs",
}


def flags_of(settings: dict[str, Any]) -> list[str]:
    epochs = REFERENCE["epochs"]
    values = {"lr_strategy": STRATEGIES[settings["name"]], "num_epochs": epochs, "total_images": 40, "batch_size": 8}
    values["warm_up_epochs"] = min(settings.get("warmup_epoch", 0), epochs)
    values["decay_rate"] = 0.1
    values |= {FLAGS[name]: value for name, value in settings.items() if name in FLAGS}
    return [f"--{name}={str(value).strip('[]')}" for name, value in values.items()]


@pytest.mark.parametrize("run", REFERENCE["runs"], ids=lambda run: json.dumps(run["lr"]))
def test_rates_are_those_of_paddleclas(run):
    args = parse("train", flags_of(run["lr"]))
    check_schedule(args)
    schedule = build_schedule(args)
    assert schedule.steps_per_epoch == REFERENCE["step_each_epoch"]
    assert [schedule(step) for step in range(len(run["rates"]))] == pytest.approx(run["rates"], abs=1e-11)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr_strategy=piecewise"], "--lr_strategy=piecewise needs 4 --lr_values, one more than the 3 --step_epochs"),
        (["--lr_strategy=piecewise", "--lr_values=1,2"], "got 2"),
        (["--nesterov=True", "--momentum_rate=0"], "--nesterov=True needs a --momentum_rate above 0"),
    ],
)
def test_flags_that_do_not_go_together(flags, message):
    with pytest.raises(FlagError, match=message):
        check_schedule(parse("train", flags))
