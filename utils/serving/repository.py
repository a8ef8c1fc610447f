"""Finds and loads the exports of a server, and loads them again when their files are replaced.

A request keeps the network that it started with; later requests get the new one. Files that do not fit together yet,
because an export is still being copied, are tried again when they change.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.console import log, warn
from utils.deploy.network import ExportedNetwork
from utils.errors import UserError, of_the_machine, one_line
from utils.evaluation.classify import Classifier
from utils.formats.inference_model import is_inference_model
from utils.reading.build import eval_transform
from utils.reading.transforms import EvalTransform
from utils.serving.batcher import Batcher
from utils.serving.metrics import Metrics
from utils.serving.refusal import Refusal

# Names of model files that are searched for in each subfolder of a folder of exports.
MODEL_FILES = ("model", "model.onnx")
# Seconds between two checks of the files.
INTERVAL = 1.0
# Name of the only service of PaddleClas's hub serving, which its clients request.
HUB_NAME = "clas_system"

# Loads an export: path of the model file -> the network and its classifier.
Load = Callable[[str], tuple[ExportedNetwork, Classifier]]
# Path, size and modification time of each file of an export.
Stamp = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Served:
    """A loaded export.

    Attributes:
        name: its name in the path of a request.
        network, classifier: as in predict.py.
        transform: prepares an image.
        batcher: collects its inputs into batches.
        version: 1 at first, and one more for each replacement.
    """

    name: str
    network: ExportedNetwork
    classifier: Classifier
    transform: EvalTransform
    batcher: Batcher
    version: int


def forward_of(network: ExportedNetwork, classifier: Classifier) -> Callable[[Sequence[np.ndarray]], Tensor]:
    """Returns the function that computes a batch's logits, on the CPU, for inputs that are pixels, uint8 (H, W, 3), or
    prepared inputs, float32 (3, H, W)."""

    @torch.inference_mode()
    def forward(inputs: Sequence[np.ndarray]) -> Tensor:
        given = [index for index, each in enumerate(inputs) if each.dtype != np.uint8]
        pixels = [index for index, each in enumerate(inputs) if each.dtype == np.uint8]
        parts = []
        if pixels:
            stacked = torch.from_numpy(np.stack([inputs[index] for index in pixels]))
            parts.append(classifier.prepare(stacked))
        if given:
            stacked = torch.from_numpy(np.stack([inputs[index] for index in given]))
            parts.append(stacked.to(network.device, network.dtype, memory_format=network.memory_format))
        logits = network(parts[0] if len(parts) == 1 else torch.cat(parts)).cpu()
        return logits[torch.tensor(pixels + given).argsort()]

    return forward


class Repository:
    """The exports of --model_file: a single one, or all in the subfolders of a folder, by their names.

    Args:
        model_file: the flag.
        params_file: the flag, for a single export.
        load: loads an export.
        largest: most images in a batch.
        longest_wait: most seconds that an image waits for others.
        metrics: counts batches and loads.

    Attributes:
        served: the loaded exports by name.

    Raises:
        UserError: there is no export, or one cannot be loaded.
    """

    def __init__(
        self,
        model_file: str,
        params_file: str | None,
        load: Load,
        largest: int,
        longest_wait: float,
        metrics: Metrics,
    ) -> None:
        self._root, self._params_file, self._load = Path(model_file), params_file, load
        self._largest, self._longest_wait, self._metrics = largest, longest_wait, metrics
        self._is_folder = self._root.is_dir() and not is_inference_model(model_file)
        self._loader = ThreadPoolExecutor(1, "load")
        self._tried: dict[str, Stamp] = {}
        self._seen: dict[str, Stamp] = {}
        self.served: dict[str, Served] = {}
        if self._is_folder and params_file:
            raise UserError(
                f"--params_file is for a single export, and --model_file {model_file} is a folder: leave it out",
                2,
            )
        found = dict(self._found())
        if not found:
            raise UserError(
                f"--model_file {model_file} is a folder without exports: give NAME/model, or a folder of such folders"
            )
        for name, path in found.items():
            self._tried[name] = self._stamp(path)
            self.served[name] = self._loaded(name, path)

    def get(self, name: str | None) -> Served:
        """The export of a name; without a name, or with hub serving's, the only export. Raises `Refusal`."""
        if name in self.served:
            return self.served[name]
        if name in (None, HUB_NAME) and len(self.served) == 1:
            return next(iter(self.served.values()))
        names = ", ".join(sorted(self.served)[:20])
        raise Refusal(404, f"there is no network of that name; the networks are: {names}")

    async def watch(self) -> None:
        """Checks for changed files and loads them, until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Loads new files that were unchanged at two checks, and drops exports that are gone from a folder."""
        found = dict(self._found())
        stamps = {name: self._stamp(path) for name, path in found.items()}
        settled = [name for name, stamp in stamps.items() if stamp and self._seen.get(name) == stamp]
        self._seen = stamps
        for name in settled:
            if self._tried.get(name) == stamps[name]:
                continue
            self._tried[name] = stamps[name]
            try:
                loop = asyncio.get_running_loop()
                self.served[name] = await loop.run_in_executor(self._loader, self._loaded, name, found[name])
            except Exception as error:  # whatever is wrong with the new files, the old network stays
                self._metrics.loads.labels(name, "failed").inc()
                line = one_line(error) if isinstance(error, UserError) else of_the_machine(error)
                warn(f"{name} cannot be loaded: {line or one_line(error)}")
            else:
                log(f"{name} was loaded again: version {self.served[name].version}")
        if self._is_folder:
            for name in [name for name in self.served if name not in found]:
                del self.served[name]
                self._tried.pop(name, None)
                log(f"{name} is gone")

    def _found(self) -> Iterator[tuple[str, Path]]:
        """Names and model files of the existing exports."""
        if not self._is_folder:
            path = self._root
            own = path.is_dir() or path.name in (*MODEL_FILES, "__model__") or path.stem == "inference"
            name = path.resolve().name if path.is_dir() else path.resolve().parent.name if own else path.stem
            yield name or "model", path
            return
        try:
            folders = sorted(path for path in self._root.iterdir() if path.is_dir() and path.name[0] != ".")
        except OSError:  # perhaps only for a moment, so the loaded export stays
            yield from ((name, self._root / name) for name in self.served)
            return
        for folder in folders:
            inside = [folder / name for name in MODEL_FILES if (folder / name).is_file()]
            if is_inference_model(str(folder)):
                yield folder.name, folder
            elif inside:
                yield folder.name, inside[0]

    def _stamp(self, path: Path) -> Stamp:
        """The state of an export's files; empty if its model file is missing."""
        if path.is_dir():
            names = sorted(str(each) for each in path.iterdir() if each.is_file())
        else:
            beside = ("params", "__params__", f"{path.name}.data", f"{path.stem}.pdiparams", "inference.yml")
            names = [str(path), *(str(path.parent / name) for name in beside)]
        stamp = []
        for name in (*names, *([self._params_file] if self._params_file else [])):
            try:
                status = os.stat(name)
            except OSError:
                if name == str(path):
                    return ()
                continue
            stamp.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
        return tuple(stamp)

    def _loaded(self, name: str, path: Path) -> Served:
        """Loads an export and runs it once, so that the first request does not have to wait for that."""
        network, classifier = self._load(str(path))
        forward, transform = forward_of(network, classifier), eval_transform(network.description)
        forward([np.zeros((*transform.image_size, 3), np.uint8)] * self._largest)
        batches, seconds = self._metrics.batch.labels(name), self._metrics.engine.labels(name)

        def on_batch(size: int, duration: float) -> None:
            batches.observe(size)
            seconds.observe(duration)

        batcher = Batcher(forward, self._largest, self._longest_wait, on_batch)
        self._metrics.queue.labels(name).set_function(lambda: batcher.waiting)
        self._metrics.loads.labels(name, "loaded").inc()
        version = self.served[name].version + 1 if name in self.served else 1
        return Served(name, network, classifier, transform, batcher, version)
