"""Training states that PaddlePaddle 1.8.5 and 3.3.1 wrote of a small network, and that network here.

tests/support/make_training_states.py made them; it has the settings and the batches, too.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers import ConvBNAct, linear
from models.network import Network
from utils.formats.archives import decompress, tar_members
from utils.training.ema import ExponentialMovingAverage
from utils.training.from_paddle import Place, take_up
from utils.training.loss import Targets
from utils.training.optimizer import build_optimizer
from utils.training.paddle_states import find_original
from utils.training.running_variance import average_biased_variance
from utils.training.schedule import Schedule
from utils.training.step import TrainStep

FILES = Path(__file__).parents[1] / "fixtures" / "paddle"
STEPS, SAVED, PER_EPOCH, EPOCHS = 8, 4, 2, 4
LR, DECAY, EMA = 0.01, 0.1, 0.9


class Tiny(Network):
    """Convolution, batch norm, classifier of six classes."""

    image_size = 8

    def __init__(self, class_dim: int = 6) -> None:
        super().__init__()
        self.conv = ConvBNAct(3, 4, 3, name="conv")
        self.fc = linear(4, class_dim, "fc")

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(images)).mean((2, 3)))


# Case -> where its states are (folders, combined files, prefixes), and the strategy, optimizer and average.
FLUID = {
    "momentum": ("cosine_decay", None, False),
    "rmsprop_average": ("cosine_decay_RMSProp", None, True),
    "adam": ("adam_decay", None, False),
}
PADDLECLAS = {
    "momentum_average": ("cosine_decay_warmup", None, True),
    "adamw": ("cosine_decay_warmup", "adamw", False),
}
FORMS = ("{}/1", "{}_combined/1/params", "{}_save/1/state")


@cache
def figures(version: str) -> dict[str, dict[str, Any]]:
    """What the training there came to, by case."""
    return json.loads(bytes(tar_members(decompress(_archive(version)))["figures.json"]))


def _archive(version: str) -> Path:
    return FILES / f"training_states_{version}.tar.xz"


def unpack(folder: Path) -> Path:
    """Writes all states into a folder."""
    for version in ("1.8", "3.3"):
        for name, content in tar_members(decompress(_archive(version))).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def build(strategy: str, optimizer: str | None, average: bool, class_dim: int = 6) -> TrainStep:
    """What trains the network, by the settings there."""
    model = Tiny(class_dim)
    trainer = build_optimizer(model, strategy, LR, DECAY, 0.9, optimizer=optimizer, weight_decay=DECAY)
    schedule = Schedule(strategy, LR, PER_EPOCH, EPOCHS, warm_up_epochs=1)
    return TrainStep(model, trainer, schedule, ema=ExponentialMovingAverage(model, EMA) if average else None)


def resume(step: TrainStep, path: Path, start_epoch: int | None = None, steps_per_epoch: int = PER_EPOCH) -> Place:
    """Takes up a state, as train.py does."""
    state = find_original(path, "Tiny", 6)
    assert state is not None
    average_biased_variance(step.model)
    return take_up(step, state, steps_per_epoch, start_epoch)


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Images and labels of a step."""
    rng = np.random.RandomState(100 + number)
    images, labels = rng.uniform(-2, 2, (4, 3, 8, 8)).astype(np.float32), rng.randint(0, 6, (4, 1))
    return torch.from_numpy(images), torch.from_numpy(labels[:, 0]).long()


def train(step: TrainStep, first: int = SAVED) -> tuple[list[float], list[float]]:
    """Trains to the last step; the rates and losses."""
    step.model.train()
    rates, losses = [], []
    for number in range(first, STEPS):
        images, labels = batch(number)
        losses.append(float(step(images, Targets(labels))[0]))
        rates.append(step.optimizer.param_groups[0]["lr"])
    return rates, losses


def logits(model: Network) -> np.ndarray:
    """Of batch 99."""
    with torch.no_grad():
        return model.eval()(batch(99)[0]).numpy()
