"""One training step: precision, accumulation, memory, distillation; and that nothing in it waits for the device."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import models
from utils.augment import mix
from utils.build import build_train_step
from utils.ema import ExponentialMovingAverage
from utils.engine import Distillation, TrainStep
from utils.flags import parse
from utils.loss import Targets, jensen_shannon_loss, soft_label_loss
from utils.memory import checkpoint_activations
from utils.metrics import Meter, total
from utils.optimizer import RMSProp, Schedule, build_optimizer
from utils.transforms import normalize

SCHEDULE = Schedule("default_decay", lr=0.05, steps_per_epoch=10, num_epochs=1)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def batch(seed: int = 0, count: int = 8, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    return images, torch.randint(classes, (count,), generator=generator)


def network(name: str = "ResNet18", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(name, class_dim=5)


def make_step(model: nn.Module, strategy: str = "default_decay", optimizer: str | None = None, **options) -> TrainStep:
    return TrainStep(model, build_optimizer(model, strategy, 0.05, 1e-4, optimizer=optimizer), SCHEDULE, **options)


def assert_same(one: nn.Module, other: nn.Module, **tolerance) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(
            a, b, **(tolerance or {"rtol": 0, "atol": 0}), msg=lambda m, name=name: f"{name}: {m}"
        )


# ---------------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("steps", [2, 3])  # 8 images in parts of 4, and in parts of 3, 3 and 2
def test_accumulation_is_the_whole_batch(steps):
    """With batch-norm in evaluation mode, whose statistics a part of a batch cannot know."""
    whole = network().double().eval()
    parts = copy.deepcopy(whole)
    images, labels = batch()
    targets = Targets(labels, labels.flip(0), 0.7)
    loss, logits = make_step(whole, smoothing=0.1)(images.double(), targets)
    loss_of_parts, logits_of_parts = make_step(parts, smoothing=0.1, accumulate_steps=steps)(images.double(), targets)
    torch.testing.assert_close(loss_of_parts, loss)
    torch.testing.assert_close(logits_of_parts, logits)
    assert_same(whole, parts, rtol=1e-9, atol=1e-12)


# ----------------------------------------------------------------------------------------------------- loss scaling


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


@pytest.mark.parametrize("strategy", ["default_decay", "exponential_decay_warmup", "adam_decay"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_float16_skips_a_step_that_overflows(strategy, dynamic):
    """The network, the optimizer and, if it is dynamic, the scale afterwards."""
    model = network("MobileNetV1_x0_25")
    step = make_step(model, strategy, amp_dtype=torch.float16, loss_scale=2.0**40, dynamic_loss_scaling=dynamic)
    parameters = [p.detach().clone() for p in model.parameters()]
    step(batch()[0], Targets(batch()[1]))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))
    assert step.scaler.get_scale() == (2.0**39 if dynamic else 2.0**40)
    step.scaler.update(1024.0)
    step.fixed_scale = 1024.0
    step(batch()[0], Targets(batch()[1]))
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))


def test_bfloat16_keeps_float32_masters():
    model, reference = network(), network()
    images, labels = batch()
    loss, _ = make_step(model, amp_dtype=torch.bfloat16)(images, Targets(labels))
    expected, _ = make_step(reference)(images, Targets(labels))
    assert loss.dtype == torch.float32
    assert loss != expected
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)
    assert all(tensor.dtype != torch.bfloat16 for tensor in model.state_dict().values())


# ------------------------------------------------------------------------------------------------------ compilation


@pytest.mark.full
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_a_compiled_network_has_the_same_gradients():
    """In float64, where rounding is not amplified by a small batch's statistics."""
    model = network("MobileNetV1_x0_25").double()
    compiled = copy.deepcopy(model)
    compiled.compile()
    images, labels = batch()
    losses = []
    for net in (model, compiled):
        losses.append(F.cross_entropy(net(images.double()), labels))
        losses[-1].backward()
    torch.testing.assert_close(*losses, rtol=1e-10, atol=0)
    for (name, one), other in zip(model.named_parameters(), compiled.parameters(), strict=True):
        tolerance = 1e-8 * float(one.grad.abs().max())
        torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=tolerance, msg=name)
    assert_same(model, compiled, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("flag", ["use_compile", "fuse_elewise_add_act_ops", "fuse_bn_act_ops"])
def test_flags_that_compile(flag, monkeypatch):
    """They compile the network before its first step, and nothing else does."""
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: calls.append(module))
    for given in (f"--{flag}=False", f"--{flag}=True"):
        args = parse("train", [given, "--model=MobileNetV1_x0_25", "--class_dim=5"])
        model = network("MobileNetV1_x0_25")
        build_train_step(args, model, torch.device("cpu"))
    assert calls == [model]


# ------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("strategy", ["default_decay", "exponential_decay_warmup", "adam_decay"])
def test_a_state_of_another_memory_format_is_taken_up(strategy):
    """A run on a GPU goes on on a CPU, where channels_last is the default: momentum belongs to the same weights."""
    models_ = [network("MobileNetV1_x0_25").double() for _ in range(2)]
    models_[1].to(memory_format=torch.channels_last)
    whole, resumed = (make_step(model, strategy) for model in models_)
    for number in range(4):
        images, labels = batch(number)
        whole(images.double(), Targets(labels))
        if number == 1:
            models_[1].load_state_dict(models_[0].state_dict())
            resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
        elif number > 1:
            resumed(images.double().contiguous(memory_format=torch.channels_last), Targets(labels))
    assert_same(*models_, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("name", ["ResNet18", "DenseNet121", "MobileNetV2_x0_25", "SE_ResNet18_vd"])
def test_checkpointed_activations(name):
    """The same losses, parameters and running statistics, with fewer bytes kept for the gradient."""
    model = network(name).train()
    saving = copy.deepcopy(model)
    assert checkpoint_activations(saving) > 1
    assert kept_bytes(copy.deepcopy(saving)) < 0.7 * kept_bytes(copy.deepcopy(model))
    steps = make_step(model), make_step(saving)
    for number in range(2):
        images, labels = batch(number)
        losses = []
        for step in steps:
            torch.manual_seed(number)  # of dropout
            losses.append(step(images, Targets(labels))[0])
        assert losses[0] == losses[1]
    assert_same(model, saving)


def kept_bytes(model: nn.Module) -> int:
    """Bytes of the tensors that a forward pass keeps for the gradient, parameters aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    sizes: dict[int, int] = {}
    alive = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch()[0])
    return sum(sizes.values())


# ----------------------------------------------------------------------------------------------------- distillation


def test_distillation_losses():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    p, q = student.softmax(1), teacher.softmax(1)
    m = (p + q) / 2
    js = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2
    torch.testing.assert_close(jensen_shannon_loss(student, teacher).double(), js, rtol=1e-5, atol=1e-7)
    assert jensen_shannon_loss(student, student).abs() < 1e-6
    torch.testing.assert_close(jensen_shannon_loss(student, teacher), jensen_shannon_loss(teacher, student))

    soft = -4 * ((teacher / 2).softmax(1) * (student / 2).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(soft_label_loss(student, teacher, 2.0).double(), soft, rtol=1e-5, atol=1e-7)

    # Side classifiers learn from the teacher too, with 0.3 each.
    outputs = student, teacher, 2 * student
    sides = jensen_shannon_loss(student, teacher) + 0.3 * jensen_shannon_loss(2 * student, teacher)
    torch.testing.assert_close(Distillation(nn.Identity(), "js")(None, outputs, teacher), sides)
    hard = torch.tensor(3.0, dtype=torch.float64)
    sides = sum(w * soft_label_loss(x, teacher, 2.0) for w, x in zip((1, 0.3, 0.3), outputs, strict=True))
    loss = Distillation(nn.Identity(), "soft", 2.0, 0.25)(hard, outputs, teacher)
    torch.testing.assert_close(loss, 0.75 * hard + 0.25 * sides)


def test_the_teacher_stays_as_it_is():
    teacher = network(seed=1).eval().requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    images, labels = batch()
    model = network()
    expected = 0.75 * F.cross_entropy(copy.deepcopy(model)(images), labels)
    expected += 0.25 * soft_label_loss(copy.deepcopy(model)(images), teacher(images), 3.0)
    step = make_step(model, distillation=Distillation(teacher, "soft", 3.0, 0.25))
    loss, _ = step(images, Targets(labels))
    torch.testing.assert_close(loss, expected.detach())
    assert all(torch.equal(before[key], tensor) for key, tensor in teacher.state_dict().items())
    assert not teacher.training


# ----------------------------------------------------------------------------------- nothing waits for the device


class HostReads(TorchFunctionMode):
    """Notes what brings values of the device to the host: calls from Python, and operations that read them inside.

    The CPU is its own device here, and stands for a GPU: what would wait for one is called all the same.
    """

    CALLS = ("cpu", "item", "numpy", "tolist", "__array__", "__bool__", "__float__", "__index__", "__int__")
    OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")

    class _Operations(TorchDispatchMode):
        def __init__(self, found: list[str]) -> None:
            super().__init__()
            self.found = found

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            # Values of a mask are read from it, be it an index or a condition of their number.
            masked = name in ("index", "index_put_") and any(
                index is not None and index.dtype == torch.bool for index in args[1]
            )
            if name in HostReads.OPERATIONS or masked:
                self.found.append(name)
            return func(*args, **(kwargs or {}))

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._operations = self._Operations(self.found)

    def __enter__(self) -> HostReads:
        self._operations.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._operations.__exit__(*exception)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        # (A move to the device of another tensor cannot be told from one to the host here.)
        to_host = name == "to" and "cpu" in [a for a in (*args[1:], *kwargs.values()) if isinstance(a, str)]
        if name in self.CALLS or to_host:
            self.found.append(name)
        return func(*args, **kwargs)


@contextlib.contextmanager
def no_reads(device: str) -> Iterator[HostReads]:
    """Notes reads; on a GPU, PyTorch refuses them too."""
    with HostReads() as reads:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield reads
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [
        ("cosine_decay_warmup", None),
        ("exponential_decay_warmup", None),
        ("adam_decay", None),
        ("cosine_decay_warmup", "adamw"),
    ],
)
@pytest.mark.parametrize("loss", ["soft", "js"])
def test_a_step_reads_nothing_from_the_device(device, dtype, strategy, optimizer, loss):
    """Of all that a step can be asked to do: precision, scaling, clipping, average, mixing, distillation, parts."""
    model = network("MobileNetV1_x0_25").to(device)
    teacher = network("MobileNetV1_x0_25").to(device).eval().requires_grad_(False)
    step = make_step(
        model,
        strategy,
        optimizer,
        smoothing=0.1,
        amp_dtype=dtype,
        loss_scale=128.0,
        ema=ExponentialMovingAverage(model, 0.99),
        distillation=Distillation(teacher, loss),
        accumulate_steps=2,
        clip_norm=1.0,
    )
    meter = Meter(torch.device(device))
    pixels = torch.randint(256, (8, 32, 32, 3), dtype=torch.uint8, device=device)
    labels = batch()[1].to(device)

    def train(number: int) -> None:
        images = normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), torch.channels_last)
        images, targets = mix(images, labels, 0.2, 1.0, np.random.default_rng(number))
        loss, logits = step(images, targets)
        meter.add(loss, logits, labels, step.step)

    train(0)  # state is made in the first step
    parameters = [p.detach().clone() for p in model.parameters()]
    with no_reads(device) as reads:
        for number in range(1, 4):
            train(number)
    assert reads.found == []
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))  # it does train


READS = {
    "item": lambda x: x.sum().item(),
    "a condition": lambda x: 1 if x.sum() > 0 else 0,
    "a list": lambda x: x.tolist(),
    "a copy": lambda x: x.cpu(),
    "a move": lambda x: x.to("cpu"),
    "an array": lambda x: x.detach().cpu().numpy(),
    "a mask": lambda x: x[x > 0],
    "finite": lambda x: bool(torch.isfinite(x).all()),
    "clipping that checks": lambda x: nn.utils.clip_grad_norm_(_with_gradient(x), 1.0, error_if_nonfinite=True),
    "a printed line": lambda x: total(Meter(x.device).take()),
}


def _with_gradient(x: torch.Tensor) -> nn.Parameter:
    parameter = nn.Parameter(x.clone())
    parameter.grad = x.clone()
    return parameter


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reads_are_found(device, read):
    """What the test above would say of a step that did one of these."""
    x = torch.randn(5, device=device)
    with HostReads() as reads:
        read(x)
    assert reads.found
    if device == "cuda":
        with pytest.raises(RuntimeError, match="synchroniz"), no_reads(device):
            read(x)


def test_an_optimizer_that_is_not_fused_is_found():
    """GradScaler asks the device whether to call it."""
    model = network("MobileNetV1_x0_25")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    step = TrainStep(model, optimizer, SCHEDULE, amp_dtype=torch.float16, loss_scale=128.0)
    images, labels = batch()
    with HostReads() as reads:
        step(images, Targets(labels))
    assert "item" in reads.found
