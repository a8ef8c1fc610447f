"""Random numbers: the seed of a run, and the generator states for resuming."""

from __future__ import annotations

import os
import random
import secrets
from typing import Any

import numpy as np
import torch

from utils.processes import broadcast_object, rank


def seed_everything(seed: int | None, deterministic: bool = False) -> int:
    """Seeds every source of randomness of this process.

    Args:
        seed: of the run; None: draw one, the same for all processes.
        deterministic: use deterministic operations if PyTorch has them, and seed 0 instead of None. Without it, cuDNN
            picks the fastest operation for each size.

    Returns:
        The seed of the run. (Each process seeds its generators with seed + rank; image order, crops and mixing depend
        on the run's seed, the epoch and the step.)
    """
    chosen: int = seed if seed is not None else 0 if deterministic else broadcast_object(secrets.randbits(31))
    own = chosen + rank()
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads this when it starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = deterministic
    # Benchmarking cuDNN's algorithms pays off, as only three sizes occur: training's, validation's and its last
    # batch's.
    torch.backends.cudnn.benchmark = not deterministic
    return chosen


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of PyTorch's generators, on which dropout and drop-connect depend."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores the states from `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
