"""Programs compiled by torch.compile; their first answers are checked against the uncompiled program."""

from __future__ import annotations

import math
import os
import tempfile

import torch
from torch import Tensor, nn

from utils.console import warn
from utils.devices import keep_compiled_code_by_processor
from utils.errors import UserError


class CompiledProgram:
    """A program that is compiled at its first run, or loaded from PyTorch's cache of compiled code.

    Cached code may be wrong: compiled for another processor, or damaged. So the first logits are compared with those
    of the uncompiled program; if they differ, the program is compiled again in a separate, empty cache.

    Args:
        program: maps images to logits; its weights are on its device.
        name: the network's name, for errors.
        precision: relative spacing of the numbers it computes with: `torch.finfo(dtype).eps`.
    """

    def __init__(self, program: nn.Module, name: str, precision: float) -> None:
        self._program = program
        self._name = name
        # Half of the digits must agree. Rounding over all layers costs fewer; wrong code costs all of them.
        self._tolerance = math.sqrt(precision)
        self._apart: tempfile.TemporaryDirectory | None = None
        keep_compiled_code_by_processor()
        self._compile()

    def _compile(self) -> None:
        # Freezing lets the compiler change the weights' layout and fold constants.
        self._compiled = torch.compile(self._program, dynamic=True, options={"freezing": True})
        self._checked: set[bool] = set()

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, classes).

        Raises:
            UserError: even freshly compiled code gives other logits than the program.
        """
        logits = self._compiled(images)
        single = len(images) == 1  # the compiler specializes for a batch of one
        if single not in self._checked:
            if not self._agrees(logits, images):
                self._compile_apart()
                return self(images)
            self._checked.add(single)
        return logits

    def _agrees(self, logits: Tensor, images: Tensor) -> bool:
        """Whether the logits equal the program's up to rounding. (Logits that are not finite are refused later.)"""
        expected = self._program(images).float()
        difference = (logits.float() - expected).norm()
        return not expected.isfinite().all() or bool(difference <= self._tolerance * expected.norm())

    def _compile_apart(self) -> None:
        """Compiles the program again with an empty cache folder, which is removed when this process ends."""
        from torch._inductor.utils import clear_caches  # importing it takes seconds; by now the compiler is loaded

        if self._apart is not None:
            raise UserError(
                f"--use_compile: {self._name} gives other logits when PyTorch compiles it: leave the flag out"
            )
        folder = os.environ["TORCHINDUCTOR_CACHE_DIR"]
        warn(
            f"--use_compile: the code for {self._name} in PyTorch's cache {folder} gives wrong logits: compiling the "
            "network again; delete that folder"
        )
        self._apart = tempfile.TemporaryDirectory(prefix="torchinductor_")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = self._apart.name
        clear_caches()
        torch.compiler.reset()
        self._compile()
