"""One training step: precision, accumulation, clipping, distillation; and that nothing in it waits for the device."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from networks import SCHEDULE, assert_same, batch, make_step, network
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from utils.evaluation.metrics import Meter, total
from utils.reading.normalize import normalize
from utils.training.distill_terms import terms_of_words
from utils.training.distillation import Distillation
from utils.training.ema import ExponentialMovingAverage
from utils.training.loss import Targets, soft_label_loss
from utils.training.mixing import mix
from utils.training.optimizer import build_optimizer
from utils.training.step import TrainStep

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


# ---------------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("steps", [2, 3])  # 8 images in parts of 4, and in parts of 3, 3 and 2
def test_accumulation_is_the_whole_batch(steps):
    """With batch norm in evaluation mode, whose statistics a part of a batch cannot know."""
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


# ----------------------------------------------------------------------------------------------------- distillation


def test_the_teacher_stays_as_it_is():
    teacher = network(seed=1).eval().requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    images, labels = batch()
    model = network()
    expected = 0.75 * F.cross_entropy(copy.deepcopy(model)(images), labels)
    expected += 0.25 * soft_label_loss(copy.deepcopy(model)(images), teacher(images), 3.0)
    step = make_step(model, distillation=Distillation(model, teacher, terms_of_words(["soft"], 3.0, 0.25)))
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
        distillation=Distillation(model, teacher, terms_of_words([loss], 1.0, 0.5)),
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


# ------------------------------------------------------------------------------------------------------------- clipping


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 5))


def small_batch() -> tuple[torch.Tensor, Targets]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 2, 2, generator=generator)
    return images, Targets(torch.randint(5, (8,), generator=generator))


def clipped_gradients(clip_norm: float, **options) -> np.ndarray:
    """The gradients of a step, as plain SGD applies them; in float64, to tell them from how the parameters change."""
    model = small_network().double()
    optimizer = torch.optim.SGD(model.parameters(), SCHEDULE.lr)
    step = TrainStep(model, optimizer, SCHEDULE, clip_norm=clip_norm, **options)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    images, targets = small_batch()
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


def test_clipping_of_each_gradient():
    """PaddlePaddle's ClipGradByNorm."""
    free = clipped_gradients(0.0)
    sizes = [parameter.numel() for parameter in small_network().parameters()]
    parts = np.split(free, np.cumsum(sizes)[:-1])
    norms = [np.linalg.norm(part) for part in parts]
    limit = float(np.median(norms))
    expected = [part * min(1, limit / norm) for part, norm in zip(parts, norms, strict=True)]
    found = clipped_gradients(0.0, clip_norm_each=limit)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-5, atol=1e-12)


def test_an_l1_penalty():
    """PaddlePaddle's L1Decay: the sign of a parameter, after the limit of the gradient."""
    model = small_network()
    signs = nn.utils.parameters_to_vector(model.parameters()).detach().sign().numpy()
    free = clipped_gradients(0.0)
    limit = 0.25 * np.linalg.norm(free)
    found = clipped_gradients(limit, l1_decay=0.5)
    np.testing.assert_allclose(found, 0.25 * free + 0.5 * signs, rtol=1e-5, atol=1e-12)
    scaled = clipped_gradients(0.0, l1_decay=0.5, amp_dtype=torch.float16, loss_scale=256.0)
    np.testing.assert_allclose(scaled, free + 0.5 * signs, rtol=0.05, atol=5e-3)


def test_clipping_is_of_gradients_without_the_loss_scale():
    options = {"amp_dtype": torch.float16, "loss_scale": 256.0}
    free = clipped_gradients(0.0, **options)
    norm = np.linalg.norm(free)
    np.testing.assert_allclose(clipped_gradients(0.25 * norm, **options), 0.25 * free, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(clipped_gradients(2.0 * norm, **options), free)


def test_a_step_that_overflows_is_skipped_when_clipping_too():
    model = small_network()
    step = TrainStep(
        model,
        build_optimizer(model, "default_decay", 0.01, 0.0, optimizer="adamw"),
        SCHEDULE,
        clip_norm=1.0,
        amp_dtype=torch.float16,
        loss_scale=2.0**100,
    )
    before = copy.deepcopy(model.state_dict())
    step(*small_batch())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert step.scaler.get_scale() == 2.0**99
