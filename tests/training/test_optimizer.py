"""Optimizers, what they decay, and learning rates by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import models
from models.errors import OptionError
from utils.training.optimizer import RMSProp, build_optimizer, current_lr, set_lr
from utils.training.schedule import Schedule


def adamw(model: nn.Module, lr: float = 0.01, weight_decay: float = 0.05) -> torch.optim.Optimizer:
    return build_optimizer(model, "default_decay", lr, 1e-4, optimizer="adamw", weight_decay=weight_decay)


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 5))


# ---------------------------------------------------------------------------------------------------------------- AdamW


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
            "DeiT_tiny_distilled_patch16_224",
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


def test_layers_learn_at_shares_of_the_rate():
    model = models.build("DeiT_tiny_patch16_224", class_dim=5)
    optimizer = build_optimizer(model, "cosine_decay", 0.1, 0.0, optimizer="adamw", weight_decay=0.05, layer_decay=0.5)
    set_lr(optimizer, 0.1)
    names = {parameter: key for key, parameter in model.named_parameters()}
    groups = {names[p]: group for group in optimizer.param_groups for p in group["params"]}
    assert groups.keys() == set(names.values())
    rates = {key: group["lr"] for key, group in groups.items()}
    assert rates["head.weight"] == rates["norm.bias"] == current_lr(optimizer) == 0.1
    assert rates["blocks.11.mlp.fc2.weight"] == rates["blocks.11.norm1.bias"] == pytest.approx(0.1 * 0.5)
    assert rates["blocks.0.attn.qkv.weight"] == pytest.approx(0.1 * 0.5**12)
    for key in ("pos_embed", "cls_token", "patch_embed.proj.weight"):
        assert rates[key] == pytest.approx(0.1 * 0.5**13)
    assert [groups[key]["weight_decay"] for key in ("head.weight", "head.bias", "pos_embed")] == [0.05, 0.0, 0.0]


def test_layers_that_are_not_counted():
    with pytest.raises(OptionError, match="layer_decay: ResNet does not number its layers"):
        build_optimizer(models.ResNet18(class_dim=5), "cosine_decay", 0.1, 0.0, optimizer="adamw", layer_decay=0.5)


def test_the_optimizer_goes_before_that_of_the_strategy():
    model = small_network()
    assert isinstance(build_optimizer(model, "cosine_decay_RMSProp", 0.1, 0.0), RMSProp)
    assert type(build_optimizer(model, "cosine_decay_RMSProp", 0.1, 0.0, optimizer="momentum")) is torch.optim.SGD
    assert type(build_optimizer(model, "adam_decay", 0.1, 0.0, optimizer="adamw")) is torch.optim.AdamW


# -------------------------------------------------------------------------------------------------------------- RMSProp


def test_rmsprop_leaves_out_steps_with_infinite_gradients():
    """Told by GradScaler as a fused optimizer is: a bad step changes nothing, a good one is the unscaled one."""
    torch.manual_seed(0)
    start = torch.randn(7)
    scaled, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [RMSProp([p], lr=0.1, epsilon=0.001, weight_decay=0.01) for p in (scaled, plain)]
    for step in range(4):
        gradient = torch.randn(7)
        bad = step in (0, 2)
        optimizers[0].grad_scale, optimizers[0].found_inf = torch.tensor([64.0]), torch.tensor([float(bad)])
        scaled.grad = gradient * 64
        if bad:
            scaled.grad[3] = torch.inf
        optimizers[0].step()
        if not bad:
            plain.grad = gradient
            optimizers[1].step()
        torch.testing.assert_close(scaled, plain)
    assert torch.isfinite(scaled).all()


# ------------------------------------------------------------------------------------------------------------- schedule


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


# ------------------------------------------------------------------------------------------------- PaddleClas's options


# By paddle.optimizer of PaddlePaddle 3.3.1 with L2Decay(0.01), or AdamW's weight_decay of 0.05: see `moved`.
PADDLE = {
    "nesterov": [0.442050001, 0.454505107, 0.314248989, 0.241330467],
    "momentum": [0.469500000, 0.461580501, 0.383991371, 0.308777165],
    "sgd": [0.469500000, 0.489030500, 0.418541470, 0.413122928],
    "adam": [0.400326797, 0.389909001, 0.324579906, 0.269655936],
    "adamw": [0.397500003, 0.386752931, 0.319904143, 0.263909427],
    "rmsprop": [0.199511068, 0.100809242, -0.271376995, -0.626433157],
}


def moved(optimizer_flags: dict, gradients: list[float], value: float = 0.5) -> list[float]:
    """A parameter's values over steps with the given gradients."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, value)
    optimizer = build_optimizer(model, "constant", 0.1, 0.01, **optimizer_flags)
    values = []
    for gradient in gradients:
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.step()
        values.append(model.weight.item())
    return values


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"optimizer": "momentum", "nesterov": True}, PADDLE["nesterov"]),
        ({"optimizer": "momentum"}, PADDLE["momentum"]),
        ({"optimizer": "sgd"}, PADDLE["sgd"]),
        ({"optimizer": "adam", "betas": (0.8, 0.95), "epsilon": 1e-3}, PADDLE["adam"]),
        ({"optimizer": "adamw", "betas": (0.8, 0.95)}, PADDLE["adamw"]),
        ({"optimizer": "rmsprop", "rho": 0.9, "epsilon": 1e-3}, PADDLE["rmsprop"]),
    ],
    ids=lambda value: value.get("optimizer") if isinstance(value, dict) else "",
)
def test_steps_are_those_of_paddlepaddle(flags, expected):
    assert moved(flags, [0.3, -0.2, 0.7, 0.05]) == pytest.approx(expected, rel=1e-6)


def test_what_paddleclas_does_not_decay():
    """no_weight_decay_name against the names of its files, and one_dim_param_no_weight_decay."""
    model = models.build("SwinTransformer_tiny_patch4_window7_224", class_dim=5)
    names = {parameter: key for key, parameter in model.named_parameters()}

    def decayed(**options) -> set[str]:
        optimizer = build_optimizer(model, "constant", 0.1, 0.0, optimizer="adamw", **options)
        return {names[p] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}

    words = ["relative_position_bias_table", ".bias", "norm"]
    expected = {key for key in names.values() if not any(word in key for word in words)}
    assert decayed(no_decay_names=words) == decayed(no_decay_names=words, decay_vectors=True) == expected
    assert decayed(no_decay_names=[], decay_vectors=True) == set(names.values())
    assert decayed(no_decay_names=[]) == {key for parameter, key in names.items() if parameter.dim() > 1}


@pytest.mark.parametrize("optimizer", ["momentum", "rmsprop", "adam"])
def test_what_other_optimizers_do_not_decay(optimizer):
    model = models.build("PPLCNet_x0_25", class_dim=5)
    names = {parameter: key for key, parameter in model.named_parameters()}

    def decays(**options) -> dict[str, float]:
        built = build_optimizer(model, "constant", 0.1, 0.25, optimizer=optimizer, **options)
        return {names[p]: group["weight_decay"] for group in built.param_groups for p in group["params"]}

    # Batch norms have a decay of their own, 0.
    assert {key for key, decay in decays().items() if not decay} == {key for key in names.values() if ".bn." in key}
    spared = decays(no_decay_names=["blocks6.0.se.conv1", "fc.bias"])
    assert {key for key in spared if spared[key] != decays()[key]} == {
        "blocks6.0.se.fc1.weight", "blocks6.0.se.fc1.bias", "fc.bias"
    }  # fmt: skip
    assert {key for key, decay in decays(decay_vectors=False).items() if decay} == {
        key for parameter, key in names.items() if parameter.dim() > 1
    }


@pytest.mark.parametrize(
    ("name", "firsts"), [("PPLCNet_x0_25", ["conv1", "blocks2"]), ("ResNet18_vd", ["conv1", "bn1", "layer1"])]
)
def test_stages_learn_at_shares_of_the_rate(name, firsts):
    model = models.build(name, class_dim=5)
    names = {parameter: key for key, parameter in model.named_parameters()}
    factors = [0.0, 0.25, *[0.5] * (len(model.stem_and_stages()) - 2)]
    built = build_optimizer(model, "constant", 0.8, 1e-4, optimizer="momentum", lr_factors=factors)
    set_lr(built, 0.8)
    rates = {names[p]: group["lr"] for group in built.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    for key, rate in rates.items():
        first = key.split(".")[0]
        whole = first in ("fc", "last_conv")
        stem = first in firsts[:-1]
        assert rate == (0.8 if whole else 0.0 if stem else 0.2 if first == firsts[-1] else 0.4), key
    before = model.conv1[0].weight.clone()
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    model.conv1[0].weight.grad = torch.ones_like(before)
    built.step()
    assert torch.equal(model.conv1[0].weight, before) and current_lr(built) == 0.8
    with pytest.raises(OptionError, match="lr_mult: 2 factors, and"):
        build_optimizer(model, "constant", 0.8, 0.0, optimizer="momentum", lr_factors=[1, 1])
    with pytest.raises(OptionError, match="lr_mult: AlexNet has no stages"):
        build_optimizer(models.build("AlexNet", class_dim=5), "constant", 0.8, 0.0, lr_factors=[1, 1])
