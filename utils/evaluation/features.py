"""The file of image features that infer.py writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from torch import Tensor

from utils.console import log
from utils.errors import UserError, reason
from utils.evaluation.predictions import escaped


class FeatureFile:
    """A float32 array (images, channels) in NAME.npy, and the images' names, a line each, in NAME.npy.txt.

    (NAME.txt may well be the user's own list of these images.) Names are escaped as in `utils.evaluation.predictions`.

    Rows are written as they come, so that there may be more of them than fit into memory. Until the end the files have
    temporary names.

    Args:
        path: the .npy file.

    Attributes:
        done: names of the images that need not be done; none.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.done: frozenset[str] = frozenset()
        self._shape: tuple[int, int] | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rows = open(f"{path}.{os.getpid()}", "wb")  # noqa: SIM115 (closed by __exit__)
            self._names = open(f"{path}.{os.getpid()}.txt", "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"--features_path {path}: {reason(error)}") from None

    def write(self, features: Tensor, images: Sequence[str]) -> None:
        """Adds the features (N, C) of N images."""
        rows = features.float().cpu().numpy()
        if self._shape is None:
            self._shape = 0, rows.shape[1]
            self._write_header()
        self._rows.write(rows.tobytes())
        self._names.writelines(f"{escaped(name)}\n" for name in images)
        self._shape = self._shape[0] + len(rows), self._shape[1]

    def _write_header(self) -> None:
        # numpy pads the header for any number of rows, so the final one has the length of the first.
        self._rows.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._rows, header)

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        complete = kind is None and self._shape is not None
        if complete:
            self._write_header()
        self._rows.close()
        self._names.close()
        names = f"{self.path}.txt"
        for file, final in ((self._rows, self.path), (self._names, names)):
            if complete:
                os.replace(file.name, final)
            else:
                os.unlink(file.name)
        if complete:
            rows, channels = self._shape
            log(f"wrote {self.path}: {rows} rows of {channels}, their images' names in {names}")
