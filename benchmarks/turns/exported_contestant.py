"""A contestant of benchmarks/paddle_inference.py: a network as predict.py runs it.

python exported_contestant.py MODEL_FILE ENGINE BATCH_SIZE IMAGE_SIZE THREADS PRECISION
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from race import serve

from utils.deploy.exported import load_exported


def main() -> None:
    model_file, engine, *numbers, precision = sys.argv[1:]
    batch_size, image_size, threads = map(int, numbers)
    torch.set_num_threads(threads)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    network = load_exported(model_file, None, torch.device("cpu"), dtype, engine=engine, batch_size=batch_size)
    pixels = np.random.RandomState(7).uniform(-2, 2, (batch_size, 3, image_size, image_size)).astype(np.float32)
    images = torch.from_numpy(pixels).to(network.dtype, memory_format=network.memory_format)
    serve(lambda: network(images))


if __name__ == "__main__":
    main()
