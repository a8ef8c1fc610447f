"""Random numbers: one seed for a run, and the states that a resumed run takes up."""

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
        seed: of the run; None: one is drawn, the same for all processes.
        deterministic: have PyTorch choose deterministic operations where it has them, and 0 for a seed of None.
            Without it cuDNN chooses the fastest for each size it meets.

    Returns:
        The seed of the run. (Each process draws its own numbers, from seed + rank; the order of the images, the crops
        and the mixing are drawn from the run's seed, the epoch and the step.)
    """
    chosen: int = seed if seed is not None else 0 if deterministic else broadcast_object(secrets.randbits(31))
    own = chosen + rank()
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS has to know before it starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = deterministic
    # Trying cuDNN's algorithms out pays where sizes recur: training's, validation's and its last batch's are three.
    torch.backends.cudnn.benchmark = not deterministic
    return chosen


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of PyTorch's generators, on which dropout and drop-connect depend."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Takes up the states that `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
