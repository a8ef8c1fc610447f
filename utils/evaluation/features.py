"""Files of image features, written by infer.py."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from utils.console import log
from utils.errors import UserError, reason
from utils.evaluation.predictions import escaped, unescaped
from utils.system import replace

UNFINISHED = ".unfinished"


class Features(NamedTuple):
    """The features of an image, the classifier's input: the image's name, and float32 (channels,)."""

    image: str
    row: np.ndarray


class FeatureFile:
    """A float32 array (images, channels) in NAME.npy, and the images' names, one per line, in NAME.npy.txt.

    (NAME.txt could be the user's own list of these images.) Names are escaped as in `utils.evaluation.predictions`.

    Rows are written as they arrive, so they need not fit into memory. Until the end, the files are named
    NAME.npy.unfinished and NAME.npy.txt.unfinished; an interrupted run leaves them for resuming.

    Args:
        path: the .npy file.
        resume: keep the rows of an interrupted or complete run, and append to them.

    Attributes:
        done: how many rows are kept, by the image's name.

    Raises:
        UserError: the files cannot be written, or the file to resume is not a file of features.
    """

    def __init__(self, path: str, resume: bool = False) -> None:
        self.path = Path(path)
        self.done: Counter[str] = Counter()
        self._finals = self.path, Path(f"{path}.txt")
        self._unfinished = tuple(Path(f"{final}{UNFINISHED}") for final in self._finals)
        self._count, self._channels = 0, 0
        ends = 0, 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if resume:
                ends = self._keep()
            for unfinished in self._unfinished:
                unfinished.touch()
            # Closed by __exit__.
            self._rows, self._names = (open(name, "r+b") for name in self._unfinished)  # noqa: SIM115
            for file, end in zip((self._rows, self._names), ends, strict=True):
                file.truncate(end)
                file.seek(end)
        except OSError as error:
            raise UserError(f"--features_path {path}: {reason(error)}") from None

    def _keep(self) -> tuple[int, int]:
        """Reads the image names of an earlier run, and continues its files.

        Returns:
            The offsets after the last complete row and name, as a killed run may have written only one of them, or
            parts of them.
        """
        sources = [
            unfinished if unfinished.exists() else final
            for unfinished, final in zip(self._unfinished, self._finals, strict=True)
        ]
        ends = 0, 0
        start, rows = self._complete_rows(sources[0]) if sources[0].exists() else (0, 0)
        if rows and not sources[1].exists():
            raise UserError(
                f"--features_path: {sources[0]} has no names of its images, {sources[1]}: give another one, or "
                "--resume=False"
            )
        if all(source.exists() for source in sources):
            with open(sources[1], "rb") as file:
                names = [line for line in islice(file, rows) if line.endswith(b"\n")]
            self._count = len(names)
            self.done = Counter(unescaped(name[:-1].decode(errors="surrogateescape")) for name in names)
            ends = start + 4 * self._channels * self._count, sum(map(len, names))
            for source, unfinished in zip(sources, self._unfinished, strict=True):
                replace(source, unfinished)
        log(f"{self._count} rows kept from {sources[0]}")
        return ends

    def _complete_rows(self, path: Path) -> tuple[int, int]:
        """Where a file's rows begin, and the number of complete ones, regardless of its header."""
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                return 0, 0
            try:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError("another version")
                shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
                if by_columns or dtype != np.dtype("<f4") or len(shape) != 2 or shape[1] < 1:
                    raise ValueError("not a two-dimensional float32 array")
            except ValueError:
                raise UserError(f"--features_path: {path} is not a file of features: give another one") from None
            self._channels = shape[1]
            return file.tell(), (size - file.tell()) // (4 * self._channels)

    def write(self, features: Sequence[Features]) -> None:
        """Appends rows and flushes them, so that an interrupted run can resume from there.

        Raises:
            UserError: they cannot be written, or differ in length from the existing rows.
        """
        if not features:
            return
        rows = np.stack([row for _, row in features]).astype("<f4", copy=False)
        channels = rows.shape[1]
        if self._channels not in (0, channels):
            raise UserError(
                f"--resume: the features in {self.path} have {self._channels} channels, but this network's have "
                f"{channels}: give another --features_path, or --resume=False"
            )
        try:
            if not self._channels:
                self._channels = channels
                self._write_header()
            self._rows.write(rows.tobytes())
            self._names.write(b"".join(f"{escaped(name)}\n".encode(errors="surrogateescape") for name, _ in features))
            self._rows.flush()
            self._names.flush()
        except OSError as error:
            raise UserError(f"--features_path {self.path}: {reason(error)}") from None
        self._count += len(rows)

    def _write_header(self) -> None:
        # numpy pads the header for any number of rows, so the final header is as long as the first.
        self._rows.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._count, self._channels)}
        np.lib.format.write_array_header_1_0(self._rows, header)

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        complete = kind is None and self._count > 0
        try:
            if complete:
                self._write_header()
                self._rows.flush()
        except OSError as problem:
            raise UserError(f"--features_path {self.path}: {reason(problem)}") from None
        finally:
            for file in (self._rows, self._names):
                with suppress(OSError):  # errors that `write` already reported
                    file.close()
        if complete:
            try:
                for unfinished, final in zip(reversed(self._unfinished), reversed(self._finals), strict=True):
                    replace(unfinished, final)
            except OSError as problem:  # a folder with that name
                raise UserError(f"--features_path {self.path}: {reason(problem)}") from None
            log(f"wrote {self.path}: {self._count} rows of {self._channels}, with image names in {self._finals[1]}")
        elif not self._count:
            for unfinished in self._unfinished:
                unfinished.unlink()
