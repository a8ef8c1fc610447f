"""The contestants of benchmarks/paddle_inference.py; each runs in a process of its own.

Paddle Inference may have a Python of its own, too, without PyTorch: each imports what it needs itself.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(python: str, contestant: str, *words: object) -> list[str]:
    """The command that runs a function of this module."""
    program = f"import sys; sys.path[:0] = {[str(ROOT)]}; from benchmarks.turns import contestants"
    return [python, "-c", f"{program}; contestants.{contestant}(*sys.argv[1:])", *map(str, words)]


def exported(model_file: str, engine: str, precision: str, batch_size: str, image_size: str, threads: str) -> None:
    """A network as predict.py runs it."""
    import torch

    from benchmarks.turns.race import pixels, serve
    from utils.deploy.exported import load_exported

    torch.set_num_threads(int(threads))
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    network = load_exported(model_file, None, torch.device("cpu"), dtype, engine=engine, batch_size=int(batch_size))
    images = torch.from_numpy(pixels(int(batch_size), int(image_size)))
    images = images.to(network.dtype, memory_format=network.memory_format)
    serve(lambda: network(images))


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
