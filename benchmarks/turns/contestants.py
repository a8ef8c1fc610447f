"""The contestants of benchmarks/inference.py and paddle_inference.py; each runs in its own process.

Paddle Inference may also use another Python, without PyTorch, so each contestant imports what it needs itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[2]


def command(python: str, contestant: str, *words: object) -> list[str]:
    """The command that runs a function of this module."""
    program = f"import sys; sys.path[:0] = {[str(ROOT)]}; from benchmarks.turns import contestants"
    return [python, "-c", f"{program}; contestants.{contestant}(*sys.argv[1:])", *map(str, words)]


def exported(
    model_file: str,
    engine: str,
    precision: str,
    batch_size: str,
    image_size: str,
    threads: str,
    device: str = "cpu",
    clock: str = "wall",
) -> None:
    """A network as predict.py runs it; with `auto`, in the engine that was measured to be the fastest."""
    import math

    import torch

    from benchmarks.turns.race import pixels
    from utils.deploy.exported import load_exported

    torch.set_num_threads(int(threads))
    network = load_exported(
        model_file,
        device=device,
        dtype=_dtype(precision),
        engine=engine,
        batch_size=int(batch_size),
        images=math.inf,
        measure=True,
    )
    images = torch.from_numpy(pixels(int(batch_size), int(image_size)))
    images = images.to(network.device, network.dtype, memory_format=network.memory_format)
    _serve(lambda: network(images), device, clock)


def network(
    contestant: str,
    name: str,
    precision: str,
    batch_size: str,
    image_size: str,
    threads: str,
    device: str,
    clock: str,
) -> None:
    """A network as PyTorch runs it, see `benchmarks.turns.networks.runner`."""
    import torch

    from benchmarks.turns.networks import runner
    from benchmarks.turns.race import pixels

    torch.set_num_threads(int(threads))
    images = torch.from_numpy(pixels(int(batch_size), int(image_size))).to(device)
    try:
        run = runner(contestant, name, images, _dtype(precision))
    except LookupError:
        raise SystemExit(f"{contestant} is not installed, or has no {name}") from None
    _serve(run, device, clock)


def _dtype(precision: str) -> torch.dtype:
    import torch

    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)


def _serve(run: Callable[[], object], device: str, clock: str) -> None:
    """Lets `benchmarks.turns.race.serve` run it, with the work on a GPU, and time it by a clock: wall or process."""
    import torch

    from benchmarks.turns.race import serve

    def whole() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    serve(whole, time.process_time if clock == "process" else time.perf_counter)


def paddle(program: str, params: str, onednn: str, batch_size: str, image_size: str, threads: str) -> None:
    """A program in Paddle Inference; `onednn`: True or False."""
    import paddle.inference  # type: ignore[import-not-found]  # an optional peer

    from benchmarks.turns.race import pixels, serve

    config = paddle.inference.Config(program, params)
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(int(threads))
    config.disable_glog_info()
    if onednn == "True":
        config.enable_mkldnn()
    else:
        config.disable_mkldnn()
    predictor = paddle.inference.create_predictor(config)
    feed = predictor.get_input_handle(predictor.get_input_names()[0])
    fetch = predictor.get_output_handle(predictor.get_output_names()[0])
    images = pixels(int(batch_size), int(image_size))

    def run() -> object:
        feed.copy_from_cpu(images)
        predictor.run()
        return fetch.copy_to_cpu()

    serve(run)
