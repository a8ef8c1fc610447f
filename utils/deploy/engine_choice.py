"""Chooses the engine for a program: PyTorch, or another installed engine that was measured to be faster here.

    CACHE/engines/CHECKSUM/model.onnx    what the other engines run: the same graph and weights
    CACHE/engines/CHECKSUM/found.json    how far each engine's logits are from PyTorch's, and each engine's speed

CACHE is the user's cache folder (`utils.system.cache_folder`). CHECKSUM covers the graph, its weights and the version
of PyTorch that wrote the ONNX model. Nothing is ever read from the model's own folder.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from utils.console import note
from utils.deploy.comparing import TOLERANCE, export_program, relative_difference, test_images
from utils.deploy.network import Description, ExportedNetwork, Settings
from utils.deploy.onnx_engines import choose_engine, import_engine, load_onnx
from utils.devices import processor
from utils.errors import FlagError, UserError, cut, of_the_machine, one_line, reason
from utils.files import written_together
from utils.system import cache_folder, usable_processors

# Engines besides PyTorch that auto may choose on a CPU. (ONNX Runtime has no bfloat16 there.)
OTHERS = {torch.float32: ("onnxruntime", "openvino"), torch.bfloat16: ("openvino",)}
# Packages that writing an ONNX model needs.
WRITERS = ("onnx", "onnxscript")

# auto refuses an engine whose logits differ from PyTorch's by more than this, relative to the largest.
CLOSE = 1e-5
# auto takes another engine if its time is at most this share of PyTorch's.
GAIN = 0.97
# Without --engine=auto the engines are measured only if PyTorch would need this many seconds, for this many images.
LONG, MANY = 60.0, 500
# Of a measurement: seconds of a turn, and of the pause before it in which the previous engine's threads stop spinning;
# turns per engine; seconds after which each engine gets only two turns.
TURN, REST, TURNS, PATIENCE = 0.2, 0.1, 5, 20.0
# An undisturbed measurement gets at least this share of the processors' time.
BUSY = 0.5


@dataclass(frozen=True)
class Source:
    """A program that any engine can run.

    Attributes:
        model_file: its name, for errors.
        description: the network's description.
        checksum: computes the checksum of its graph and weights.
        module: builds it in float32 on the CPU.
        own: loads it for PyTorch.
    """

    model_file: str
    description: Description
    checksum: Callable[[], str]
    module: Callable[[], fx.GraphModule]
    own: Callable[[], ExportedNetwork]


@dataclass(frozen=True)
class Speed:
    """Seconds that an engine takes: to load and answer its first batch, and for each later batch."""

    start: float
    batch: float


def checksum_of(module: fx.GraphModule) -> str:
    """Checksum of a graph and its weights, in hexadecimal digits."""
    digest = hashlib.sha256(str(module.graph).encode())
    for node in module.graph.find_nodes(op="get_attr"):
        tensor: Tensor = getattr(module, node.target)
        digest.update(f"{node.target} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def load_by_engine(source: Source, settings: Settings) -> ExportedNetwork:
    """Loads a program into the engine that the settings name, or into the one that auto chooses.

    Raises:
        UserError: the engine cannot run it, or is not installed.
        FlagError: the program's output is not class scores.
    """
    if settings.engine == "auto":
        return _by_fastest(source, settings)
    if settings.engine == "pytorch":
        return source.own()
    if not source.description.class_dim:
        raise FlagError(f"--engine={settings.engine} works for class scores only: leave it out for other outputs")
    if settings.device.type == "cpu":
        choose_engine(settings.engine, settings.device, settings.dtype, "float32")  # fails before a model is written
    import_engine(settings.engine)
    kept = _Kept(source)
    with kept.lock():
        if not (difference := kept.difference(settings.engine)) <= TOLERANCE:
            raise UserError(
                f"--engine={settings.engine}: its logits for --model_file {source.model_file} differ from PyTorch's "
                f"by {difference:.1e} of the largest: leave the flag out"
            )
    return kept.load(settings.engine, settings)


def _by_fastest(source: Source, settings: Settings) -> ExportedNetwork:
    """The program in the engine that is known to take the least time for the expected number of images."""
    others = [name for name in OTHERS.get(settings.dtype, ()) if importlib.util.find_spec(name) is not None]
    if settings.device.type != "cpu" or not settings.images or not others or not source.description.class_dim:
        return source.own()
    if settings.measure is not True and not (cache_folder() / "engines").is_dir() and not _may_be_long(settings):
        return source.own()
    kept = _Kept(source)
    way = _way_to_run(others, settings)
    if (speeds := kept.speeds(way)) is not None:
        name = _least_time(speeds, settings)
        network = source.own() if name == "pytorch" else None
    else:
        network = source.own()
        if not _is_worth_measuring(network, settings):
            return network
        try:
            with kept.lock():
                speeds = kept.speeds(way) or _measured(kept, network, others, way, settings)
        except UserError as error:
            note(f"{source.description.network}: run by pytorch: {one_line(error)}")
            return network
        name = _least_time(speeds, settings)
        if name == "pytorch":
            note(f"{source.description.network}: run by pytorch: no other engine takes less time for these images")
    if name != "pytorch":
        gain = speeds["pytorch"].batch / speeds[name].batch
        note(f"{source.description.network}: run by {name}, {gain:.2f} times as fast here as pytorch")
        try:
            return kept.load(name, settings)
        except UserError as error:  # the cached files are damaged: the next measurement makes them again
            kept.forget()
            note(f"{source.description.network}: run by pytorch: {one_line(error)}")
    return network or source.own()


def _may_be_long(settings: Settings) -> bool:
    return settings.measure is None and settings.images >= MANY


def _is_worth_measuring(own: ExportedNetwork, settings: Settings) -> bool:
    """Whether to measure the engines now: because the settings ask for it, or because PyTorch would take long."""
    if settings.measure is None and any(importlib.util.find_spec(name) is None for name in WRITERS):
        return False  # nobody asked for it, so no message
    if not _may_be_long(settings):
        return settings.measure is True
    count = min(8, settings.batch_size)
    images = _inputs(own, count)
    own(images)
    start = time.perf_counter()
    own(images)
    return (time.perf_counter() - start) / count * settings.images >= LONG


def _way_to_run(others: list[str], settings: Settings) -> str:
    """Everything that a speed depends on, apart from the program."""
    sizes = f"batches of {settings.batch_size}, {torch.get_num_threads()} threads"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *others))
    return f"{processor()}, {sizes}, {str(settings.dtype).removeprefix('torch.')}, {versions}"


def _least_time(speeds: Mapping[str, Speed], settings: Settings) -> str:
    """The engine that takes the least time for the expected number of images; PyTorch if no other saves enough."""
    batches = min(settings.images, 1e9) / settings.batch_size

    def seconds(name: str) -> float:
        speed = speeds[name]
        return speed.start + batches * speed.batch * (GAIN if name == "pytorch" else 1.0)

    return min(speeds, key=seconds)


def _inputs(network: ExportedNetwork, count: int) -> Tensor:
    """Random images of the shape that a network takes."""
    shape = network.description.image_shape
    images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    return images.to(network.device, network.dtype, memory_format=network.memory_format)


def _measured(kept: _Kept, own: ExportedNetwork, others: list[str], way: str, settings: Settings) -> dict[str, Speed]:
    """Measures the engines, and caches the results.

    Raises:
        UserError: the cache folder cannot be made, or a package for writing ONNX models is missing.
    """
    _require_writers()
    name = own.description.network
    note(f"{name}: timing the engines once, to choose the fastest: pytorch, {', '.join(others)}")
    networks = {"pytorch": own}
    start = time.perf_counter()
    kept.source.own()(_inputs(own, settings.batch_size))
    starts = {"pytorch": time.perf_counter() - start}
    for other in others:
        try:
            if not (difference := kept.difference(other)) <= CLOSE:
                note(f"{name}: {other} is not used: its logits differ by {difference:.1e} of the largest")
                continue
            start = time.perf_counter()
            network = kept.load(other, settings)
            network(_inputs(network, settings.batch_size))
            starts[other] = time.perf_counter() - start
        except UserError as error:
            note(f"{name}: {other} is not used: {one_line(error)}")
            continue
        if settings.dtype == torch.float32 or _is_as_exact(network, own, kept.source):
            networks[other] = network
    batches, is_busy = _race(networks, settings.batch_size)
    speeds = {each: Speed(starts[each], batches[each]) for each in networks}
    if is_busy:
        note(f"{name}: other programs are using the processors: these timings serve this run only and are not saved")
    else:
        kept.keep_speeds(way, speeds)
    gc.collect()
    return speeds


def _race(networks: Mapping[str, ExportedNetwork], batch_size: int) -> tuple[dict[str, float], bool]:
    """Seconds that each network takes for a batch: the best of several turns, taken alternately.

    With one thread processor time is measured, which other programs hardly affect. With several it is wall time, which
    means little on a busy machine.

    Returns:
        The times, and whether other programs took too much of the processors for the times to be reliable.
    """
    threads = torch.get_num_threads()
    clock = time.process_time if threads == 1 else time.perf_counter
    best = dict.fromkeys(networks, math.inf)
    patience = time.perf_counter() + PATIENCE
    real = used = 0.0
    for turn in range(TURNS):
        if turn >= 2 and time.perf_counter() > patience:
            break
        for name, network in networks.items():
            images = _inputs(network, batch_size)
            time.sleep(REST)
            network(images)
            begin, used_before = time.perf_counter(), time.process_time()
            while time.perf_counter() < begin + TURN or best[name] == math.inf:
                start = clock()
                network(images)
                best[name] = min(best[name], clock() - start)
            real += time.perf_counter() - begin
            used += time.process_time() - used_before
    return best, threads > 1 and used < BUSY * real * min(threads, usable_processors())


def _is_as_exact(network: ExportedNetwork, own: ExportedNetwork, source: Source) -> bool:
    """Whether an engine's low-precision logits are about as close to the float32 logits as PyTorch's are."""
    with torch.inference_mode():
        images = test_images(source.description.image_shape)
        expected = source.module()(images)
    errors = (
        relative_difference(each(images.to(each.dtype, memory_format=each.memory_format)), expected)
        for each in (network, own)
    )
    return next(errors) <= 2 * next(errors)


def _require_writers() -> None:
    """Raises `UserError` if a package for writing ONNX models is missing."""
    if missing := [name for name in WRITERS if importlib.util.find_spec(name) is None]:
        raise UserError(f"writing ONNX models needs {missing[0]}: pip install -r requirements-onnx.txt")


class _Kept:
    """A program's ONNX model and measurements in the user's cache folder."""

    def __init__(self, source: Source) -> None:
        self.source = source
        identity = f"{source.checksum()} {torch.__version__}"
        self.folder = cache_folder() / "engines" / hashlib.sha256(identity.encode()).hexdigest()[:32]
        self._model = self.folder / "model.onnx"
        self._found = self.folder / "found.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Makes other processes wait, so that they find what this one has made.

        Raises:
            UserError: the folder cannot be made.
        """
        from filelock import FileLock  # slow to import, and needed only here

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock").acquire()
        except OSError as error:
            raise UserError(
                f"--engine: cannot make the folder {self.folder} for ONNX models ({reason(error)}): set XDG_CACHE_HOME "
                "to another cache folder"
            ) from None
        with lock:
            yield

    def load(self, engine: str, settings: Settings) -> ExportedNetwork:
        """Loads the ONNX model into an engine; raises what `load_onnx` raises."""
        return load_onnx(str(self._model), None, replace(settings, engine=engine))

    def difference(self, engine: str) -> float:
        """How far an engine's logits are from PyTorch's, in float32; writes the ONNX model if it is missing.

        Raises:
            UserError: the model cannot be written, or the engine cannot run it.
        """
        found = self._read()
        version = f"{engine} {importlib.metadata.version(engine)}" if importlib.util.find_spec(engine) else engine
        differences = found["differences"] if isinstance(found.get("differences"), dict) else {}
        if isinstance(differences.get(version), float) and self._model.is_file():
            return differences[version]
        module, images = self.source.module(), test_images(self.source.description.image_shape)
        with torch.inference_mode():
            expected = module(images)
        if not self._model.is_file():
            self._write(module, images)
        network = self.load(engine, Settings(torch.device("cpu"), batch_size=len(images)))
        difference = relative_difference(network(images), expected)
        self._write_found({**found, "differences": {**differences, version: difference}})
        return difference

    def _write(self, module: fx.GraphModule, images: Tensor) -> None:
        """Writes the program as an ONNX model; raises `UserError` if that is impossible."""
        _require_writers()
        from utils.deploy.onnx_export import USUAL_FORM, write_onnx  # PyTorch's exporter takes seconds to import

        with written_together(self.folder, "--engine") as temporary:
            try:
                write_onnx(export_program(module, images), self.source.description, temporary, USUAL_FORM)
            except UserError:
                raise
            except Exception as error:  # PyTorch's exporters raise anything at an operator they do not know
                if of_the_machine(error) is not None:
                    raise
                text = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(
                    f"--model_file {self.source.model_file} cannot be exported to ONNX: {cut(text, 300)}"
                ) from None

    def speeds(self, way: str) -> dict[str, Speed] | None:
        """The speeds measured for one way of running the program; None if there are none, or the files are damaged."""
        try:
            speeds = {name: Speed(*map(float, pair)) for name, pair in self._read()["speeds"][way].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        sound = all(0 < speed.batch < math.inf and 0 <= speed.start < math.inf for speed in speeds.values())
        known = "pytorch" in speeds and speeds.keys() <= {"pytorch", *OTHERS[torch.float32]}
        return speeds if sound and known and (len(speeds) == 1 or self._model.is_file()) else None

    def keep_speeds(self, way: str, speeds: Mapping[str, Speed]) -> None:
        found = self._read()
        others = found["speeds"] if isinstance(found.get("speeds"), dict) else {}
        measured = {name: [speed.start, speed.batch] for name, speed in speeds.items()}
        self._write_found({**found, "speeds": {**others, way: measured}})

    def forget(self) -> None:
        """Deletes the cached files."""
        for path in (self._found, self._model):
            path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._found.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write_found(self, found: dict[str, Any]) -> None:
        with written_together(self.folder, "--engine") as temporary:
            (temporary / self._found.name).write_text(json.dumps(found, indent=1), encoding="utf-8")
