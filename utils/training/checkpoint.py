"""Checkpoints of a run: written atomically, found again, and verified before use.

    output/<model>/<epoch>/       after an epoch
    output/<model>/step_<n>/      within an epoch (--save_iter, or a run that was told to stop)
    output/<model>/best_model/    the best validated epoch
    output/<model>/best_model_ema/  the averaged parameters of the epoch where they were best, and nothing else
    output/<model>/latest/        the newest of them all

Each holds `weights.safetensors` (parameters and batch norm statistics, loadable anywhere), `ema_weights.safetensors`
when an average is kept, `teacher_weights.safetensors` of a teacher that learns, `state.pt` (optimizer, schedule,
scaler, random states, position) and `manifest.json`, which is written last and has the checksums of the others, and the
number of the save: every save in a folder has a higher one than those before, whichever run it is of and whatever the
clock says.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import re
import shutil
import socket
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from models.network import Network
from utils.console import warn
from utils.errors import UserError, cut, one_line
from utils.files import read_text
from utils.formats.torch_archive import check_torch_file
from utils.system import replace, sync
from utils.training.position import Position
from utils.weights.write import save_weights

BEST = "best_model"
BEST_EMA = "best_model_ema"
WEIGHTS = "weights.safetensors"
EMA_WEIGHTS = "ema_weights.safetensors"
TEACHER_WEIGHTS = "teacher_weights.safetensors"
STATE = "state.pt"
MANIFEST = "manifest.json"

# Step folders to keep: the newest, and one more in case it is damaged.
KEPT_STEPS = 2

# Suffix of a folder about to be deleted.
DELETED = ".deleted"

# Suffix of a folder being written.
TEMPORARY = ".tmp"

# Save number and steps of a checkpoint with an unreadable manifest.
UNREADABLE = (-1, -1)

# Seconds to wait for a folder: reader workers of a killed run hold its lock until they notice.
LOCK_PATIENCE = 3.0
# Errors of network file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


# Errors when reading a damaged manifest.
_NO_MANIFEST = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def _checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Renames a finished folder to its final name; an existing one is moved aside first and deleted last.

    Folders not written by train.py, such as PaddlePaddle's state of that epoch, are never deleted.
    """
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if _is_foreign(folder):
        kept = next(path for n in itertools.count(1) if not (path := Path(f"{folder}.before_{n}")).exists())
        warn(f"{folder} was not written by train.py, but a checkpoint needs its name: it is renamed to {kept}")
        replace(folder, kept)
    elif folder.exists():
        replace(folder, old)
    replace(temporary, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _is_foreign(folder: Path) -> bool:
    """Whether something other than our checkpoint has the name of one."""
    ours = (MANIFEST, WEIGHTS)
    return folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in ours)


class RunFolder:
    """The folder of one run, locked by one process: a second run gets an error instead of mixing files.

    A context manager; the lock ends with the block, or with the process, however that ends.

    Args:
        path: `output/<model>`; created if necessary.
        keep: number of newest epoch folders to keep; 0 keeps all.

    Attributes:
        record: the file in the folder that describes the run (`utils.training.record`); manifests name it.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        self.keep = keep
        self.record: str | None = None
        self._lock = FileLock(path / ".lock", timeout=LOCK_PATIENCE)
        self._holder = path / ".holder"
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise UserError(f"--model_save_dir: cannot write to {path}: {error.strerror}") from None
        with contextlib.suppress(OSError):  # a full disk: the note only helps the error message of a second run
            self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._saves = max((save for save, _ in _orders(path).values()), default=0)
        self._delete()

    def _take_lock(self) -> None:
        """Locks the folder for this process, waiting briefly if necessary.

        Raises:
            UserError: another run has it.
            OSError: the folder is not writable.
        """
        try:
            self._lock.acquire()
        except Timeout:
            try:
                holder = self._holder.read_text().strip()
            except (OSError, ValueError):
                holder = ""
            raise UserError(
                f"--model_save_dir: another run ({holder or 'unknown process'}) is writing to {self.path}: stop it, "
                "wait for it, or give another folder"
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            warn(f"{self.path} cannot be locked ({error}): make sure that no other run writes there")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._holder.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._lock.release()

    def save(
        self,
        names: Iterable[str],
        model: Network,
        position: Position,
        training: dict[str, Any],
        ema_model: Network | None,
        notes: dict[str, Any],
        teacher: tuple[str, Network] | None = None,
    ) -> bool:
        """Writes a checkpoint under the first of `names`, and links the others to it.

        Args:
            names: folders, such as "7", "best_model", "latest".
            model: the network (not its distributed wrapper).
            position: progress of the run.
            training: state of `utils.training.step.TrainStep`: optimizer, scaler, "step" (the number of steps done).
            ema_model: the averaged network, if there is one.
            notes: "model", "class_dim", `INPUT_FLAGS` and optionally the class names, saved in the weight files.
            teacher: name and network of a teacher that learns, if there is one.

        Returns:
            Whether it was written. If not (a full disk), a warning is printed, earlier files are untouched, and the
            next save tries again.
        """
        first, *others = names
        temporary = self.path / f".{first}{TEMPORARY}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            save_weights(model, temporary / WEIGHTS, notes)
            if ema_model is not None:
                save_weights(ema_model, temporary / EMA_WEIGHTS, notes)
            if teacher is not None:
                save_weights(teacher[1], temporary / TEACHER_WEIGHTS, {**notes, "model": teacher[0]})
            with open(temporary / STATE, "wb") as file:
                torch.save({"position": asdict(position), "training": training, "notes": notes}, file)
            files = sorted(temporary.iterdir())
            checksums = {file.name: _checksum(file) for file in files}
            self._saves += 1
            manifest = {"save": self._saves, "step": training["step"], "record": self.record, "crc32": checksums}
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            for file in (*files, temporary / MANIFEST, temporary):
                sync(file)
            _put_in_place(temporary, self.path / first)
            for other in others:
                self._link(first, other)
        # PyTorch's and safetensors' writers raise their own errors for a full disk.
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            warn(f"could not save {self.path / first}: {error}; earlier checkpoints are untouched")
            return False
        self._prune()
        return True

    def _link(self, name: str, other: str) -> None:
        """Makes `other` the same checkpoint as `name`, with shared files, as nothing ever modifies them.

        best_model_ema gets only the averaged parameters, as its weights, and cannot be resumed.
        """
        files = {file.name: file.name for file in (self.path / name).iterdir()}
        if other == BEST_EMA:
            files = {EMA_WEIGHTS: WEIGHTS}
        temporary = self.path / f".{other}{TEMPORARY}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for source, target in files.items():
            try:
                os.link(self.path / name / source, temporary / target)
            except OSError:  # a file system without hard links
                shutil.copy2(self.path / name / source, temporary / target)
        _put_in_place(temporary, self.path / other)

    def _prune(self) -> None:
        """Deletes the oldest folders beyond the number to keep, of any run."""
        orders = _orders(self.path)
        oldest_first = sorted(orders, key=orders.__getitem__)
        epochs = [folder for folder in oldest_first if folder.name.isdecimal()]
        steps = [folder for folder in oldest_first if re.fullmatch(r"step_\d+", folder.name)]
        for folder in [*(epochs[: -self.keep] if self.keep else []), *steps[:-KEPT_STEPS]]:
            with contextlib.suppress(OSError):
                replace(folder, folder.with_name(f".{folder.name}{DELETED}"))
        self._delete()

    def _delete(self) -> None:
        """Deletes folders renamed for deletion, so that a kill never leaves half a checkpoint under its name, and the
        unfinished saves of killed runs.
        """
        halves = [folder for folder in self.path.glob(f".*{TEMPORARY}") if not (folder / MANIFEST).exists()]
        for folder in (*self.path.glob(f".*{DELETED}"), *halves):
            shutil.rmtree(folder, ignore_errors=True)


def _orders(run_folder: Path) -> dict[Path, tuple[float, float]]:
    """The checkpoints in a run's folder with their sort keys: save number and steps.

    Unreadable manifests sort first.
    """
    orders = {}
    for manifest in run_folder.glob("*/" + MANIFEST):
        try:
            values = json.loads(read_text(manifest, limit=1))
            orders[manifest.parent] = int(values["save"]), int(values["step"])
        except _NO_MANIFEST:
            orders[manifest.parent] = UNREADABLE
    return orders


def holds_others(run_folder: Path, resumed: Path | None) -> bool:
    """Whether `run_folder` has checkpoints that a run writing there did not descend from.

    Args:
        run_folder: `output/<model>` of the run.
        resumed: the checkpoint that it continues from; None if it starts afresh.
    """
    orders = {folder.resolve(): order for folder, order in _orders(run_folder).items()}
    past = orders.get(resumed.resolve(), UNREADABLE) if resumed is not None else UNREADABLE
    return any(order > past for order in orders.values())


def is_past(checkpoint: Path, resumed: Path) -> bool:
    """Whether a checkpoint was written no later than the one in the same folder that a run continues from."""
    orders = _orders(checkpoint.parent)
    past = orders.get(checkpoint.parent / resumed.resolve().name, UNREADABLE)
    return checkpoint in orders and orders[checkpoint] <= past


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint with intact files; otherwise raises `UserError` with what is wrong."""
    try:
        manifest = json.loads(read_text(folder / MANIFEST, limit=1))
        for name, checksum in manifest["crc32"].items():
            if not name.isprintable():
                raise ValueError("a file in it has no name")
            if os.path.basename(name) != name or _checksum(folder / name) != checksum:
                raise UserError(f"{folder / name} is damaged (wrong checksum)")
        _ = int(manifest["save"]), int(manifest["step"])
    except _NO_MANIFEST as error:
        raise UserError(f"{folder} is not a complete checkpoint ({one_line(error)})") from None
    return manifest


def find_checkpoint(checkpoint: str, run_folder: Path) -> Path | None:
    """The folder to resume from.

    Args:
        checkpoint: --checkpoint: a checkpoint, the folder of a run, or "auto" for `run_folder`.
        run_folder: `output/<model>` of this run.

    Returns:
        The named checkpoint, or the newest complete one in the folder, skipping damaged ones with a warning. None for
        "auto" in a folder without checkpoints.

    Raises:
        UserError: there is nothing to resume from.
    """
    folder = run_folder if checkpoint == "auto" else Path(checkpoint)
    if (folder / MANIFEST).exists():
        _read_manifest(folder)
        return folder
    candidates = []
    for candidate, order in _orders(folder).items():
        # Unreadable ones are checked first, to report the damage.
        order = (math.inf, math.inf) if order == UNREADABLE else order
        candidates.append((order, not candidate.name.startswith("."), candidate))
    for _, _, candidate in sorted(candidates, reverse=True):
        try:
            _read_manifest(candidate)
            return candidate
        except UserError as error:
            warn(f"{error}; trying the one before")
    if any(saved for _, saved, _ in candidates):
        raise UserError(
            f"--checkpoint: every checkpoint in {folder} is damaged (see above); to start afresh give another "
            "--model_save_dir or remove them"
        )
    if checkpoint == "auto":
        return None
    if not folder.exists():
        raise UserError(f"--checkpoint: {checkpoint} does not exist; give a folder that train.py saved, or auto")
    near = [folder.parent / MANIFEST, *sorted(folder.glob(f"*/*/{MANIFEST}"))]  # one of its files; the folder of runs
    hint = next((f"give {manifest.parent}" for manifest in near if manifest.exists()), "")
    hint = hint or "to start from weights alone, train.py takes --pretrained_model"
    raise UserError(f"--checkpoint: {checkpoint} contains no complete training state; {hint}")


def _check_state(state: dict[str, Any]) -> None:
    """Raises `ValueError` if a state with the right checksum contains impossible values."""
    position, training, notes = state["position"], state["training"], state["notes"]
    if not all(isinstance(value, dict) for value in (training, notes, position.best, position.highest)):
        raise ValueError("it should contain a dictionary but does not")
    if not (isinstance(position.random, list) and isinstance(position.history, list)):
        raise ValueError("it should contain a list but does not")
    if not all(isinstance(best, int | float) for best in (*position.best.values(), *position.highest.values())):
        raise ValueError("its best accuracy is not a number")
    counts = [position.batch_size, position.epoch, position.step_in_epoch, position.images or 0, position.stale]
    counts.append(training["step"])
    if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts):
        raise ValueError("its training position is invalid")
    if position.seed is not None and type(position.seed) is not int:
        raise ValueError("its seed is not a number")
    if not _is_plain(notes):
        raise ValueError("its notes contain more than texts and numbers")


def _is_plain(value: Any) -> bool:
    """Whether a value consists only of texts, numbers, lists and dictionaries."""
    held = [*value, *value.values()] if isinstance(value, dict) else value
    return all(map(_is_plain, held)) if isinstance(held, list | tuple) else isinstance(held, str | int | float | None)


def read_state(folder: Path) -> dict[str, Any]:
    """The training state of a checkpoint, on the CPU: "position", "training" and "notes", as given to `save`.

    Reads only tensors and plain values; runs no code.
    """
    try:
        check_torch_file(folder / STATE)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        state["position"] = Position(**state["position"])
        if missing := {"training", "notes"} - state.keys():
            raise KeyError(min(missing))
        _check_state(state)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--checkpoint: {folder / STATE} was written by another version of this program "
            f"({one_line(error)}): resume it with that version"
        ) from None
    except Exception as error:  # a damaged file can make the unpickler raise anything
        first = cut(str(error).splitlines()[0], 300) if str(error) else type(error).__name__
        raise UserError(f"--checkpoint: {folder / STATE} cannot be read ({first})") from None
    return state
