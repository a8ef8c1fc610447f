"""Training does what PaddlePaddle 1.8.5 did: twenty of its steps for every strategy, from the same weights and batches.

The fixture holds learning rates, losses and final logits measured on the original. Weights and batches are drawn by
the rules below, which the original was given too.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models.names import published_names
from utils.training.ema import ExponentialMovingAverage
from utils.training.loss import Targets
from utils.training.optimizer import build_optimizer
from utils.training.schedule import Schedule
from utils.training.step import TrainStep

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "training_trajectories.json").read_text())
RUNS = REFERENCE["runs"]
GAIN = 3.0


def run_id(run: dict) -> str:
    extras = [name for name in ("label_smoothing", "mixup", "ema") if run[name]]
    return "-".join([run["model"], run["lr_strategy"], *extras])


def set_known_weights(model: torch.nn.Module) -> None:
    """Draws every tensor from a generator seeded by its published name."""
    tensors = model.state_dict()
    for key, name in published_names(model).items():
        rng = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
        tensor = tensors[key]
        if tensor.dim() > 1:
            bound = math.sqrt(GAIN / math.prod(tensor.shape[1:]))
            shape = tensor.shape if tensor.dim() == 4 else tensor.shape[::-1]
            values = (rng.uniform(-1, 1, math.prod(shape)) * bound).reshape(shape)
            values = values if tensor.dim() == 4 else values.T
        elif name.endswith(("_offset", "_mean", ".b_0", "beta", "moving_mean")) or key.endswith(("bias", "mean")):
            values = rng.uniform(-0.1, 0.1, tensor.shape)
        else:
            values = rng.uniform(0.5, 1.5, tensor.shape)
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(values.astype(np.float32))))


def known_batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Images, labels, second labels and mixing weight of a step."""
    rng = np.random.RandomState(1000 + step)
    size = REFERENCE["image_size"]
    images = rng.uniform(-2, 2, (REFERENCE["batch_size"], 3, size, size)).astype(np.float32)
    labels, others = (rng.randint(0, REFERENCE["class_dim"], (REFERENCE["batch_size"], 1)) for _ in range(2))
    return (
        torch.from_numpy(images),
        torch.from_numpy(labels[:, 0]).long(),
        torch.from_numpy(others[:, 0]).long(),
        rng.beta(0.2, 0.2),
    )


# How many steps a comparison of losses makes sense for, where it is not the ten that ResNets allow.
#
# MobileNetV1_x0_25 at 64 x 64 amplifies rounding: in the original's own float32 the loss of step 4 is 1.0e-3 away from
# a float64 run of ours that agrees to 2e-7 before (measured at steps 0 to 4: 3e-7, 2e-7, 2e-7, 7e-5, 1.0e-3).
# Xception41_deeplab has dropout, whose random masks are not recorded; its learning rates and its final logits are
# compared.
COMPARABLE_STEPS = {"MobileNetV1_x0_25": 4, "Xception41_deeplab": 0}

# The original's rounding: how far its final logits, in float32, are from ours in float64, as a share of the largest.
# (Its losses are at most 2.9e-5 away in the first five steps, 1.4e-4 in the first ten.) Twenty steps of a rate that
# stays high amplify it. Ours in float32, with and without vectors, was 0.2 to 1.3 times as far away.
ROUNDING = {
    "ResNet18-piecewise_decay": 3.9e-5,
    "ResNet18-cosine_decay": 1.8e-3,
    "ResNet18-cosine_decay_warmup": 2.5e-3,
    "ResNet18-exponential_decay_warmup": 8.0e-3,
    "ResNet18-linear_decay": 6.2e-5,
    "ResNet18-adam_decay": 1.4e-3,
    "ResNet18-cosine_decay_RMSProp": 5.6e-3,
    "ResNet18-default_decay": 9.3e-3,
    "ResNet18-cosine_decay-label_smoothing": 1.9e-3,
    "ResNet18-cosine_decay-label_smoothing-mixup": 2.0e-3,
    "ResNet18-cosine_decay-ema": 1.8e-3,
    "SE_ResNet18_vd-cosine_decay": 2.6e-4,
    "MobileNetV1_x0_25-cosine_decay_warmup-label_smoothing": math.inf,  # 0.15: it has taken over
}
# The bar for logits. Of Xception41_deeplab's the masks take 7.0e-3 to 8.3e-3 (four draws, in float32 and float64).
WORST = 1e-2


def precision(run: dict) -> torch.dtype:
    """Float64 where the rounding of the original leaves no room under the bar for ours."""
    return torch.float32 if 4 * ROUNDING.get(run_id(run), 0.0) <= WORST else torch.float64


def biased_variances(model: torch.nn.Module, updates: list[torch.Tensor], initial: dict[str, torch.Tensor]) -> None:
    """Turns running variances into the original's, which averages the biased variance of a batch.

    A running variance is kept * initial + the batches' share; PyTorch's share is n / (n - 1) times the original's.

    Args:
        model: with running variances by PyTorch.
        updates: for each batch norm, in order, n: values per channel of a batch.
        initial: "kept", the share of the initial variance that is left, and the initial variances by key.
    """
    norms = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for (name, norm), count in zip(norms, updates, strict=True):
        kept = initial["kept"] * initial[f"{name}.running_var"]
        norm.running_var.copy_(kept + (norm.running_var - kept) * (count - 1) / count)


def values_per_channel(model: torch.nn.Module, images: torch.Tensor) -> list[int]:
    """For each batch norm of the model, how many values of a batch a channel has."""
    counts: dict[torch.nn.Module, int] = {}
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    hooks = [
        norm.register_forward_hook(lambda norm, args, out: counts.__setitem__(norm, out.numel() // out.shape[1]))
        for norm in norms
    ]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return [counts[norm] for norm in norms]


def schedule_of(run: dict) -> Schedule:
    # linear_decay departs from the original, which reached zero after one epoch, on purpose.
    num_epochs = 1 if run["lr_strategy"] == "linear_decay" else 5
    return Schedule(
        run["lr_strategy"], run["lr"], -(-30 // 8), num_epochs, (1, 2, 3), 2, decay_epochs=0.5, decay_rate=0.97
    )


@pytest.mark.parametrize("run", RUNS, ids=run_id)
def test_rates(run):
    schedule = schedule_of(run)
    rates = [schedule(number) for number in range(len(run["loss"]))]
    np.testing.assert_allclose(rates, run["lr_per_step"], rtol=1e-6, atol=1e-15)


# The optimizer and the losses of others, which are trained every time. What these add is the rates, which are tested;
# the run that is left has the plain network beside the average.
OF_OTHER_RATES = {
    "ResNet18-piecewise_decay",
    "ResNet18-cosine_decay",
    "ResNet18-cosine_decay_warmup",
    "ResNet18-exponential_decay_warmup",
    "ResNet18-linear_decay",
    "ResNet18-default_decay",
}
# Twenty steps in float64: every time the first ten losses are compared, in float32.
LONG = {"ResNet18-cosine_decay_RMSProp"}


def prepare(run: dict, dtype: torch.dtype) -> TrainStep:
    """A step of the run's, with the weights that it began with."""
    torch.manual_seed(0)  # of dropout
    model = models.build(run["model"], class_dim=REFERENCE["class_dim"]).to(dtype)
    set_known_weights(model)
    return TrainStep(
        model,
        build_optimizer(model, run["lr_strategy"], run["lr"], run["l2_decay"], momentum=0.9),
        schedule_of(run),
        smoothing=run["label_smoothing"] or 0.0,
        ema=ExponentialMovingAverage(model, run["ema"]) if run["ema"] else None,
    )


def train(step: TrainStep, run: dict, steps: int, dtype: torch.dtype) -> None:
    """Takes the first steps of a run, and compares rates and losses."""
    step.model.train()
    rates, losses = [], []
    for number in range(steps):
        images, labels, others, weight = known_batch(number)
        targets = Targets(labels, others, weight) if run["mixup"] else Targets(labels)
        loss, _ = step(images.to(dtype), targets)
        rates.append(step.optimizer.param_groups[0]["lr"])
        losses.append(float(loss))

    np.testing.assert_allclose(rates, run["lr_per_step"][:steps], rtol=1e-6, atol=1e-15)
    comparable = COMPARABLE_STEPS.get(run["model"], 10)
    np.testing.assert_allclose(losses[: min(5, comparable)], run["loss"][: min(5, comparable)], rtol=1e-4)
    np.testing.assert_allclose(losses[:comparable], run["loss"][:comparable], rtol=1e-3)


@pytest.mark.parametrize("run", [pytest.param(run, id=run_id(run)) for run in RUNS if run_id(run) in LONG])
def test_first_steps(run):
    train(prepare(run, torch.float32), run, 10, torch.float32)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run, marks=[pytest.mark.full] * (run_id(run) in OF_OTHER_RATES | LONG), id=run_id(run))
        for run in RUNS
    ],
)
def test_trajectory(run):
    steps = len(run["loss"])
    step = prepare(run, precision(run))
    model = step.model
    initial = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    counts = values_per_channel(model, known_batch(0)[0].to(precision(run)))
    train(step, run, steps, precision(run))

    if ROUNDING.get(run_id(run)) == math.inf:
        return
    bar = min(5 * ROUNDING.get(run_id(run), WORST), WORST)
    images = known_batch(999)[0].to(precision(run))
    biased_variances(model, counts, {"kept": 0.9**steps, **initial})
    compare_logits(model, images, run["logits_after"], bar)
    if run["ema"]:
        # What is left of the initial variance in an average that starts at zero and takes in 0.9^(t + 1) of it.
        kept = 0.0
        for t in range(steps):
            decay = min(run["ema"], (1 + t) / (10 + t))
            kept = decay * kept + (1 - decay) * 0.9 ** (t + 1)
        biased_variances(step.ema.model, counts, {"kept": kept, **initial})
        compare_logits(step.ema.model, images, run["logits_ema"], bar)


def compare_logits(model: torch.nn.Module, images: torch.Tensor, expected: list, bar: float) -> None:
    with torch.no_grad():
        logits = model.eval()(images).numpy()
    error = np.abs(logits - np.array(expected)).max() / np.abs(expected).max()
    assert error < bar, error
