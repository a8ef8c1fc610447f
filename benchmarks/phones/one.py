"""One network in one engine, as benchmarks/mobile.py asks: in a process of its own, which may end as it likes."""

from __future__ import annotations

import importlib.metadata
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.phones.engines import ENGINES, PACKAGES, NotPossible, Run, Source

# Of a measurement: runs before it, runs at most, and seconds after which there are no more.
WARM_UP, RUNS, SECONDS = 3, 50, 5.0


def measure(engine: str, source_folder: str, folder: str) -> None:
    """Converts, compares and measures; what is found goes to `folder`/result.json as it is found.

    Args:
        engine: of `ENGINES`.
        source_folder: with the network.
        folder: for what is made of it.
    """
    source, way, place = Source(Path(source_folder)), ENGINES[engine](), Path(folder)
    found: dict[str, Any] = {"versions": versions(engine)}

    def keep(**more: Any) -> None:
        found.update(more)
        (place / "result.json").write_text(json.dumps(found))

    keep()
    try:
        start = time.perf_counter()
        files = way.convert(source, place)
        keep(seconds=time.perf_counter() - start, bytes=size(files))
        run, images, expected = way.open(files, source), source.array("images"), source.array("expected")
        answers = all_of(run, images)
        keep(difference=float(np.abs(answers - expected).max() / np.abs(expected).max()), ms=fastest(run, images[:1]))
        if source.has_photos:
            photos, float32 = source.array("photos"), source.array("photo_logits")
            keep(agreement=agreement(all_of(run, photos), float32))
            quantized = way.quantize(source, place)
            keep(int8_bytes=size(quantized))
            run = way.open(quantized, source)
            keep(int8_agreement=agreement(all_of(run, photos), float32), int8_ms=fastest(run, images[:1]))
    except Exception as error:  # whatever the packages of others raise
        text = " ".join(str(error).split()).partition(" While executing ")[0] or type(error).__name__  # no traceback
        name = "" if isinstance(error, NotPossible) else f"{type(error).__name__}: "
        keep(failed=f"{name}{text}"[:300])


def versions(engine: str) -> dict[str, str]:
    found = {}
    for package in PACKAGES[engine]:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def all_of(run: Run, images: np.ndarray) -> np.ndarray:
    """The logits of some images, which run one by one."""
    return np.concatenate([run(image[None]).reshape(1, -1) for image in images])


def agreement(logits: np.ndarray, expected: np.ndarray) -> float:
    """Share of the images that two forms of a network see the same class in."""
    return float((logits.argmax(1) == expected.argmax(1)).mean())


def fastest(run: Run, image: np.ndarray) -> float:
    """Milliseconds of the processor that an image takes at the least: other programs change that little."""
    for _ in range(WARM_UP):
        run(image)
    best, end = float("inf"), time.perf_counter() + SECONDS
    for _ in range(RUNS):
        start = time.process_time()
        run(image)
        best = min(best, time.process_time() - start)
        if time.perf_counter() > end:
            break
    return 1000 * best
