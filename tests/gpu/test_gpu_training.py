"""Training on a GPU: loss scaling, what must not wait, compiled steps, batch norm over processes, whole runs."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
import torch
import training
from gpu import WITH_ALL, nothing_waits, tf32
from networks import assert_same, batch, make_step, network
from training import NETWORK, assert_same_checkpoint, losses

from utils.devices import place
from utils.evaluation.metrics import Meter
from utils.reading.dataset import open_dataset
from utils.reading.normalize import normalize
from utils.reading.opencv_loader import OpenCVLoader
from utils.reading.to_device import to_device
from utils.reading.transforms import TrainTransform
from utils.training.loss import Targets

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def on(device: str, count: int = 8) -> tuple[torch.Tensor, Targets]:
    images, labels = batch(count=count)
    return images.to(device), Targets(labels.to(device))


# ------------------------------------------------------------------------------------------------------------ a step


@pytest.mark.parametrize("device", WITH_ALL)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_step_is_that_of_float64_on_the_cpu(device, memory_format):
    """Gradients, batch norm statistics and the optimizer's arithmetic."""
    reference = network("MobileNetV1_x0_25").double()
    model = place(copy.deepcopy(reference).float(), torch.device(device), memory_format)
    images, targets = on("cpu")
    make_step(reference)(images.double(), targets)
    with tf32(False):
        make_step(model)(images.to(device, memory_format=memory_format), Targets(targets.labels.to(device)))
    # A step of lr 0.05: gradients of up to a few units, to five digits.
    assert_same(reference.float(), model.cpu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", WITH_ALL)
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_step_that_overflows_is_skipped(device, dynamic):
    """The network stays, and the next step is taken; float16's largest number is 65,504."""
    model = network("MobileNetV1_x0_25").to(device)
    options = {"amp_dtype": torch.float16, "dynamic_loss_scaling": dynamic, "clip_norm": 1.0}
    step = make_step(model, loss_scale=2.0**40, **options)
    before = [p.detach().clone() for p in model.parameters()]
    step(*on(device))
    assert float(step.skipped) == 1.0
    assert all(map(torch.equal, model.parameters(), before))
    assert step.scaler.get_scale() == (2.0**39 if dynamic else 2.0**40)
    step.scaler.update(1024.0)
    step.fixed_scale = None if dynamic else 1024.0
    step(*on(device))
    assert float(step.skipped) == 0.0 and step.scaler.get_scale() == 1024.0
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    assert not all(map(torch.equal, model.parameters(), before))


@pytest.mark.parametrize("device", WITH_ALL)
def test_a_compiled_step_is_the_same(device):
    plain, compiled = network("MobileNetV1_x0_25"), network("MobileNetV1_x0_25")
    steps = []
    for model in (plain, compiled):
        place(model, torch.device(device), torch.channels_last)
        if model is compiled:
            model.compile()
        steps.append(make_step(model))
    with tf32(False):
        for number in range(3):
            images, targets = on(device)
            first, second = (float(step(images, targets)[0]) for step in steps)
            assert second == pytest.approx(first, rel=1e-3), number


# ----------------------------------------------------------------------------------------------- what must not wait


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        pytest.param("cuda", None, marks=pytest.mark.gpu),
        pytest.param("cuda", torch.float16, marks=pytest.mark.gpu),
        ("cpu", None),
    ],
)
def test_an_epoch_never_waits_for_the_device(device, dtype, tiny_dataset):
    """train.py's loop with the reader's workers: page-locked memory, copies beside the step, sums on the device."""
    images = open_dataset(str(tiny_dataset), "train", 4)
    loader = OpenCVLoader(images, TrainTransform((32, 32)), 8, training=True, workers=1, pin_memory=device == "cuda")
    step = make_step(network("MobileNetV1_x0_25").to(device), amp_dtype=dtype, loss_scale=128.0)
    meter = Meter(torch.device(device))
    before = [p.detach().clone() for p in step.model.parameters()]

    def train(epoch: int) -> None:
        for pixels, labels, _ in to_device(loader.epoch(epoch), torch.device(device)):
            loss, logits = step(normalize(pixels, MEAN, STD, torch.channels_last), Targets(labels))
            meter.add(loss, logits, labels, step.step, step.skipped)

    train(0)  # what is made once
    with nothing_waits(device):
        train(1)
    loader.close()
    assert float(meter.sums[5]) == 2 * 48  # images, of which none is lost
    assert not any(map(torch.equal, step.model.parameters(), before))


@pytest.mark.gpu
def test_a_wait_is_found():
    with pytest.raises(RuntimeError, match="synchroniz"), nothing_waits("cuda"):
        torch.ones(1, device="cuda").item()


@pytest.mark.gpu
def test_batches_arrive_whole_while_memory_is_used_again(tiny_dataset):
    """The reader's memory is page-locked and lent: a batch must not change before its copy is done."""
    images = open_dataset(str(tiny_dataset), "train", 4)
    batches = {}
    for pinned in (False, True):
        loader = OpenCVLoader(images, TrainTransform((224, 224)), 4, training=True, workers=2, pin_memory=pinned)
        batches[pinned] = []
        for epoch in range(3):
            for pixels, labels, _ in to_device(loader.epoch(epoch), torch.device("cuda")):
                torch.cuda._sleep(2_000_000)  # the device is behind
                batches[pinned].append((pixels.clone(), labels.clone()))
        loader.close()
    for (pixels, labels), (expected, known) in zip(batches[True], batches[False], strict=True):
        assert torch.equal(pixels, expected) and torch.equal(labels, known)


# --------------------------------------------------------------------------------------------------------- processes

SYNC_BATCH_NORM = """
import sys
import torch
import torch.distributed as dist
from utils.training.sync_batch_norm import synchronize_batch_norm

rank, device, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
several = device == "cuda" and torch.cuda.device_count() > 1
backend = "gloo" if not several else "cpu:gloo,cuda:nccl"
if several:
    torch.cuda.set_device(rank)
dist.init_process_group(backend, store=dist.FileStore(file, 2), rank=rank, world_size=2)
torch.manual_seed(0)
layer = torch.nn.BatchNorm2d(3).to(device)
whole = torch.nn.BatchNorm2d(3).to(device)
images = torch.randn(8, 3, 5, 5).to(device) * 2 + 1
weights = torch.randn(8, 3, 5, 5).to(device)
inputs, all_inputs = images.clone().requires_grad_(), images.clone().requires_grad_()
synchronize_batch_norm(layer, torch.device(device))
mine = slice(4 * rank, 4 * rank + 4)
(layer(inputs[mine]) * weights[mine]).sum().backward()
(whole(all_inputs) * weights).sum().backward()
for one, other in (
    (layer.running_mean, whole.running_mean),
    (layer.running_var, whole.running_var),
    (inputs.grad[mine], all_inputs.grad[mine]),
):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
dist.barrier()
dist.destroy_process_group()
print("same", type(layer).__name__)
"""


@pytest.mark.parametrize("device", WITH_ALL)
def test_batch_norm_over_two_processes_is_that_of_the_whole_batch(device, tmp_path):
    """On one GPU the two share it and speak by gloo: nccl wants a GPU for each."""
    command = [sys.executable, "-c", SYNC_BATCH_NORM]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [*command, str(rank), device, str(tmp_path / "store")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert output.splitlines()[-1] == f"same {device.upper().replace('CUDA', 'GPU')}SyncBatchNorm2d"


@pytest.mark.gpu
def test_two_gpus(tiny_dataset, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    flags = {"sync_bn": True, "use_fp16": True, "num_epochs": 1, "device": "cuda"}
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(ROOT / "train.py"),
    ]
    command += training.command_line(tiny_dataset, tmp_path, **flags)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert len(losses(done.stdout)) == 3


# --------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("device", WITH_ALL)
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"use_fp16": True, "amp_dtype": "float16", "scale_loss": 1024, "use_ema": True, "lr_strategy": "adam_decay"},
        {"use_fp16": True, "amp_dtype": "bfloat16", "use_mixup": True, "accumulate_steps": 2, "clip_norm": 1.0},
    ],
    ids=["float32", "float16", "bfloat16"],
)
def test_resumed_to_the_last_bit(train_here, tiny_dataset, tmp_path, device, extra):
    flags = {"device": device, "enable_ce": True, "num_epochs": 2, "reader_thread": 1, **extra}
    assert train_here(tiny_dataset, tmp_path / "whole", **flags).code == 0
    assert train_here(tiny_dataset, tmp_path / "parts", **flags, max_iter=4).code == 0
    result = train_here(tiny_dataset, tmp_path / "parts", **flags, checkpoint="auto")
    assert result.code == 0 and "resumed from" in result.out
    assert_same_checkpoint(tmp_path / "whole" / NETWORK / "latest", tmp_path / "parts" / NETWORK / "latest")


@pytest.mark.parametrize("device", WITH_ALL)
def test_compiled_and_profiled_runs(train_here, tiny_dataset, tmp_path, device):
    flags = {"device": device, "use_fp16": True, "num_epochs": 3, "validate": False}
    compiled = train_here(tiny_dataset, tmp_path / "compiled", **flags, use_compile=True)
    plain = train_here(tiny_dataset, tmp_path / "plain", **flags)
    assert compiled.code == plain.code == 0
    assert losses(compiled.out)[0] == pytest.approx(losses(plain.out)[0], rel=0.02)
    folder = tmp_path / "profile"
    profiled = train_here(tiny_dataset, tmp_path / "profiled", **flags, is_profiler=True, profiler_path=folder)
    assert profiled.code == 0 and list(folder.glob("*.json"))
    assert ("Self CUDA" in profiled.out) == (device == "cuda")


@pytest.mark.gpu
def test_out_of_memory_is_one_line(train_here, tiny_dataset, tmp_path):
    with gpu.memory_limited(1e-6):
        result = train_here(tiny_dataset, tmp_path, device="cuda")
    assert result.code == 1
    assert result.error.startswith("out of memory: lower --batch_size, or --image_shape (")
