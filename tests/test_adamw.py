"""How transformers are trained: AdamW and what it decays, gradient clipping, stochastic depth, the cosine's end."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from training import assert_same_checkpoint

import models
from models.layers import DropPath
from utils.build import build_model, check_train_flags
from utils.engine import TrainStep
from utils.errors import FlagError
from utils.flags import parse
from utils.loss import Targets
from utils.optimizer import RMSProp, Schedule, build_optimizer

SCHEDULE = Schedule("default_decay", lr=0.01, steps_per_epoch=10, num_epochs=1)
TRANSFORMER = "DeiT_tiny_distilled_patch16_224"


def adamw(model: nn.Module, lr: float = 0.01, weight_decay: float = 0.05) -> torch.optim.Optimizer:
    return build_optimizer(model, "default_decay", lr, 1e-4, optimizer="adamw", weight_decay=weight_decay)


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 5))


def batch(seed: int) -> tuple[torch.Tensor, Targets]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, 2, 2, generator=generator)
    return images, Targets(torch.randint(5, (8,), generator=generator))


# ---------------------------------------------------------------------------------------------------------- AdamW


def test_adamw_is_the_papers():
    """Algorithm 2 of arXiv:1711.05101 in NumPy, float64: the decay is times the rate and passes the moments by."""
    model = small_network().double()
    optimizer = adamw(model, lr=0.01, weight_decay=0.3)
    state = {name: (p.detach().numpy().copy(), 0.0, 0.0) for name, p in model.named_parameters()}
    rng = np.random.default_rng(0)
    for step, lr in enumerate((0.01, 0.003, 0.02, 0.001), 1):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, parameter in model.named_parameters():
            gradient = rng.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(gradient)
            value, first, second = state[name]
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            decay = 0.3 if value.ndim > 1 else 0.0
            state[name] = value - lr * (change + decay * value), first, second
        optimizer.step()
        for name, parameter in model.named_parameters():
            np.testing.assert_allclose(parameter.detach().numpy(), state[name][0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "decayed", "kept"),
    [
        (
            TRANSFORMER,
            ["patch_embed.proj.weight", "blocks.3.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "head_dist.weight"],
            ["cls_token", "dist_token", "pos_embed", "norm.weight", "blocks.3.attn.qkv.bias", "blocks.0.norm1.weight"],
        ),
        (
            "SwinTransformer_tiny_patch4_window7_224",
            ["layers.0.downsample.reduction.weight", "head.weight"],
            ["layers.2.blocks.5.attn.relative_position_bias_table", "patch_embed.norm.weight", "head.bias"],
        ),
        (
            "ConvNeXt_tiny",
            ["downsample_layers.0.0.weight", "stages.1.0.dwconv.weight"],
            ["stages.1.0.gamma", "stages.1.0.norm.weight", "stages.1.0.dwconv.bias", "norm.bias"],
        ),
        ("TNT_small", ["head.weight"], ["cls_token", "patch_pos", "pixel_pos"]),
    ],
)
def test_what_is_decayed(name, decayed, kept):
    model = models.build(name, class_dim=5)
    names = {parameter: key for key, parameter in model.named_parameters()}
    groups = {names[p]: group["weight_decay"] for group in adamw(model).param_groups for p in group["params"]}
    assert groups.keys() == set(names.values())
    assert {key: groups[key] for key in decayed} == dict.fromkeys(decayed, 0.05)
    assert {key: groups[key] for key in kept} == dict.fromkeys(kept, 0.0)
    assert all(groups[key] == 0.0 for key in groups if key.endswith("bias"))


def test_the_optimizer_goes_before_that_of_the_strategy():
    model = small_network()
    assert isinstance(build_optimizer(model, "cosine_decay_RMSProp", 0.1, 0.0), RMSProp)
    assert type(build_optimizer(model, "cosine_decay_RMSProp", 0.1, 0.0, optimizer="momentum")) is torch.optim.SGD
    assert type(build_optimizer(model, "adam_decay", 0.1, 0.0, optimizer="adamw")) is torch.optim.AdamW


# ------------------------------------------------------------------------------------------------------- clipping


def clipped_gradients(clip_norm: float, **options) -> np.ndarray:
    """The gradients of a step, as plain SGD applies them; in float64, to tell them from how the parameters change."""
    model = small_network().double()
    optimizer = torch.optim.SGD(model.parameters(), SCHEDULE.lr)
    step = TrainStep(model, optimizer, SCHEDULE, clip_norm=clip_norm, **options)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    images, targets = batch(0)
    step(images.double(), targets)
    return ((before - nn.utils.parameters_to_vector(model.parameters()).detach()) / SCHEDULE.lr).numpy()


@pytest.mark.parametrize("parts", [1, 2])
def test_clipping_is_by_the_norm_of_all_gradients(parts):
    free = clipped_gradients(0.0)
    norm = np.linalg.norm(free)
    np.testing.assert_allclose(
        clipped_gradients(0.25 * norm, accumulate_steps=parts), 0.25 * free, rtol=1e-5, atol=1e-12
    )
    np.testing.assert_array_equal(clipped_gradients(2.0 * norm), free)


def test_clipping_is_of_gradients_without_the_loss_scale():
    options = {"amp_dtype": torch.float16, "loss_scale": 256.0}
    free = clipped_gradients(0.0, **options)
    norm = np.linalg.norm(free)
    np.testing.assert_allclose(clipped_gradients(0.25 * norm, **options), 0.25 * free, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(clipped_gradients(2.0 * norm, **options), free)


def test_a_step_that_overflows_is_skipped_when_clipping_too():
    model = small_network()
    step = TrainStep(model, adamw(model), SCHEDULE, clip_norm=1.0, amp_dtype=torch.float16, loss_scale=2.0**100)
    before = copy.deepcopy(model.state_dict())
    step(*batch(0))
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert step.scaler.get_scale() == 2.0**99


# ---------------------------------------------------------------------------------------------- stochastic depth


def rates(model: nn.Module) -> list[float]:
    return [module.p for module in model.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize("name", [TRANSFORMER, "SwinTransformer_tiny_patch4_window7_224", "ConvNeXt_tiny"])
def test_drop_path_grows_linearly_with_depth(name):
    size = "--image_shape=3,32,32" if name == TRANSFORMER else "--class_dim=5"
    model = build_model(parse("train", [f"--model={name}", "--drop_path=0.33", size]))
    found = rates(model)
    np.testing.assert_allclose(found, np.linspace(0.0, 0.33, len(found)), atol=1e-12)
    assert len(found) == {TRANSFORMER: 12, "ConvNeXt_tiny": 18}.get(name, 12)


def test_the_networks_own_drop_path():
    flags = ["--model=DeiT_tiny_patch16_224", "--image_shape=3,32,32"]
    assert rates(build_model(parse("train", flags)))[-1] == pytest.approx(0.1)
    assert set(rates(build_model(parse("train", [*flags, "--drop_path=0"])))) == {0.0}


@pytest.mark.parametrize(
    ("name", "remedy"), [("ResNet18", "leave the flag out"), ("EfficientNetB0", "give --drop_connect_rate")]
)
def test_drop_path_of_a_network_without(name, remedy):
    args = parse("train", [f"--model={name}", "--drop_path=0.1"])
    with pytest.raises(FlagError, match=f"--drop_path: {name} drops no paths: {remedy}"):
        build_model(args)


def test_a_teacher_needs_no_drop_path():
    args = parse("train", ["--model=DeiT_tiny_patch16_224", "--image_shape=3,32,32", "--drop_path=0.1"])
    build_model(args, "MobileNetV1_x0_25")


# ------------------------------------------------------------------------------------------------------- schedule


def test_warm_up_and_cosine_down_to_a_rate():
    schedule = Schedule("cosine_decay_warmup", 1e-3, 50, 30, warm_up_epochs=5, min_lr=1e-5)
    for step in (0, 1, 100, 249):
        assert schedule(step) == pytest.approx(1e-3 * step / 250, rel=1e-12)
    for step in (250, 251, 700, 875, 1400, 1499):
        expected = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * (step - 250) / 1250)) / 2
        assert schedule(step) == pytest.approx(expected, rel=1e-5)
    assert schedule(250) == 1e-3 and schedule(875) == pytest.approx(5.05e-4) and schedule(1500) == 1e-5
    by_epoch = Schedule("cosine_decay", 1e-3, 50, 30, min_lr=1e-5)
    assert by_epoch(0) == by_epoch(49) == 1e-3
    assert by_epoch(15 * 50) == by_epoch(16 * 50 - 1) == pytest.approx(5.05e-4)


# ---------------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--optimizer=adamw", "--l2_decay=1e-4"], "--l2_decay does nothing here"),
        (["--weight_decay=0.1"], "--weight_decay does nothing here"),
        (["--min_lr=1e-5"], "--min_lr does nothing here"),
        (["--optimizer=adamw", "--weight_decay=0.1", "--lr_strategy=cosine_decay", "--min_lr=1e-5"], ""),
    ],
)
def test_flags_without_effect_are_named(flags, said, capsys):
    check_train_flags(parse("train", flags))
    warnings = capsys.readouterr().err
    assert said in warnings and warnings.count("\n") == bool(said)


def test_the_last_rate_is_not_above_the_first():
    with pytest.raises(FlagError, match=r"--min_lr 0.2 is above --lr 0.1"):
        check_train_flags(parse("train", ["--lr_strategy=cosine_decay", "--lr=0.1", "--min_lr=0.2"]))


# ------------------------------------------------------------------------------------------------------ train.py

EVERYTHING = {
    "model": "DeiT_tiny_patch16_224", "lr": 1e-3, "lr_strategy": "cosine_decay_warmup", "warm_up_epochs": 0.5,
    "min_lr": 1e-5, "optimizer": "adamw", "clip_norm": 1.0, "drop_path": 0.2, "use_ra": True, "random_erasing": 0.25,
    "use_mixup": True, "mixup_alpha": 0.8, "use_cutmix": True, "use_label_smoothing": True, "use_ema": True,
    "num_epochs": 2, "validate": False,
}  # fmt: skip


@pytest.mark.parametrize("extra", [{}, {"use_fp16": True, "accumulate_steps": 2, "with_mem_opt": True}])
def test_all_at_once_and_resumed_to_the_last_bit(train_here, tiny_dataset, tmp_path, extra):
    flags = EVERYTHING | extra
    assert train_here(tiny_dataset, tmp_path / "whole", **flags).code == 0
    assert train_here(tiny_dataset, tmp_path / "parts", **flags, max_iter=4).code == 0
    result = train_here(tiny_dataset, tmp_path / "parts", **flags, checkpoint="auto")
    assert result.code == 0 and "resumed from" in result.out
    name = EVERYTHING["model"]
    assert_same_checkpoint(tmp_path / "whole" / name / "latest", tmp_path / "parts" / name / "latest")
