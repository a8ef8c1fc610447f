"""Programs compiled by torch.compile, whose answers are compared with the programs' own before they are given."""

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
    """A program that is compiled when it is first run, or taken from PyTorch's cache of such code.

    The cache may hold code that is wrong here: made on another processor, or damaged. So the first answers are compared
    with those of the program itself; where they differ it is compiled anew, apart from that cache.

    Args:
        program: from images to logits, with its weights, on its device.
        name: of the network, for errors.
        precision: the spacing of the numbers it computes with, relative to them: `torch.finfo(dtype).eps`.
    """

    def __init__(self, program: nn.Module, name: str, precision: float) -> None:
        self._program = program
        self._name = name
        # Half of the digits. The rounding of every layer together takes fewer, wrong code takes them all.
        self._tolerance = math.sqrt(precision)
        self._apart: tempfile.TemporaryDirectory | None = None
        keep_compiled_code_by_processor()
        self._compile()

    def _compile(self) -> None:
        # Freezing lets the compiler lay the weights out anew, and fold what depends on them alone.
        self._compiled = torch.compile(self._program, dynamic=True, options={"freezing": True})
        self._checked: set[bool] = set()

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, classes).

        Raises:
            UserError: compiled anew, the network answers otherwise than the program, too.
        """
        logits = self._compiled(images)
        single = len(images) == 1  # for one image the compiler makes code of its own
        if single not in self._checked:
            if not self._agrees(logits, images):
                self._compile_apart()
                return self(images)
            self._checked.add(single)
        return logits

    def _agrees(self, logits: Tensor, images: Tensor) -> bool:
        """Whether these logits are the program's, but for rounding. (Those that are not finite are refused later.)"""
        expected = self._program(images).float()
        difference = (logits.float() - expected).norm()
        return not expected.isfinite().all() or bool(difference <= self._tolerance * expected.norm())

    def _compile_apart(self) -> None:
        """Has PyTorch compile the program again, in an empty folder that is removed when this process ends."""
        from torch._inductor.utils import clear_caches  # takes seconds; the compiler is there by now

        if self._apart is not None:
            raise UserError(
                f"--use_compile: {self._name}, compiled by PyTorch, answers otherwise than it does by itself: leave "
                "the flag out"
            )
        folder = os.environ["TORCHINDUCTOR_CACHE_DIR"]
        warn(
            f"--use_compile: code for {self._name} in PyTorch's cache {folder} answers otherwise than the network by "
            "itself: compiling it anew; remove that folder"
        )
        self._apart = tempfile.TemporaryDirectory(prefix="torchinductor_")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = self._apart.name
        clear_caches()
        torch.compiler.reset()
        self._compile()
