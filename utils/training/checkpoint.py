"""Checkpoints of a run: written whole or not at all, found again, checked before they are trusted.

    output/<model>/<epoch>/       after an epoch
    output/<model>/step_<n>/      within an epoch (--save_iter, or a run that was told to stop)
    output/<model>/best_model/    the best validated epoch
    output/<model>/best_model_ema/  the averaged parameters of the epoch where they were best, and nothing else
    output/<model>/latest/        the newest of them all

Each holds `weights.safetensors` (parameters and batch-norm statistics, loadable anywhere), `ema_weights.safetensors`
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

# Folders of steps within an epoch that are kept: the newest, and one more should it be damaged.
KEPT_STEPS = 2

# Ends the name of a folder that is about to be deleted.
DELETED = ".deleted"

# Ends the name of a folder that is being written.
TEMPORARY = ".tmp"

# Stands for the number of the save and the steps of a checkpoint whose manifest cannot be read.
UNREADABLE = (-1, -1)

# Seconds to wait for a folder: the reader workers of a run that was killed hold its lock until they notice.
LOCK_PATIENCE = 3.0
# What some network file systems, which have no locks, say.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


# What a damaged manifest makes of reading it.
_NO_MANIFEST = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def _checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Renames a finished folder to its name; one that is there already is moved aside first and deleted last.

    What train.py has not written, such as a state of PaddlePaddle's of that epoch, is never deleted.
    """
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if _is_foreign(folder):
        kept = next(path for n in itertools.count(1) if not (path := Path(f"{folder}.before_{n}")).exists())
        warn(f"{folder} is not of train.py and is in the way of a checkpoint: it is {kept} from now on")
        replace(folder, kept)
    elif folder.exists():
        replace(folder, old)
    replace(temporary, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _is_foreign(folder: Path) -> bool:
    """Whether there is something else than a checkpoint of ours under the name of one."""
    ours = (MANIFEST, WEIGHTS)
    return folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in ours)


class RunFolder:
    """The folder of one run, and of one process: a second run that wants it gets an error, not a mixture.

    A context manager; at the end of the block other runs can have the folder, and as soon as the process is gone,
    whatever ended it.

    Args:
        path: `output/<model>`; made if need be.
        keep: number of epoch folders to keep, newest first; 0 keeps all.

    Attributes:
        record: the file in the folder that says what the run is (`utils.training.record`); manifests name it.
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
        with contextlib.suppress(OSError):  # a full disk: the note is a courtesy to who comes second
            self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._saves = max((save for save, _ in _orders(path).values()), default=0)
        self._delete()

    def _take_lock(self) -> None:
        """Takes the folder for this process, if need be after a short wait.

        Raises:
            UserError: another run has it.
            OSError: nothing can be written into it.
        """
        try:
            self._lock.acquire()
        except Timeout:
            try:
                holder = self._holder.read_text().strip()
            except (OSError, ValueError):
                holder = ""
            raise UserError(
                f"--model_save_dir: another run ({holder or 'unknown process'}) is writing to {self.path}: end it or "
                "wait for it, or give another folder"
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            warn(f"{self.path} cannot be locked ({error}): see to it that no other run writes there")

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
        """Writes a checkpoint under each of `names`: once, with links for the others.

        Args:
            names: folders, such as "7", "best_model", "latest".
            model: the network (not its distributed wrapper).
            position: how far the run is.
            training: state of `utils.training.step.TrainStep`: optimizer, scaler, "step" (the number of steps done).
            ema_model: the averaged network, if there is one.
            notes: "model", "class_dim", `INPUT_FLAGS` and perhaps the classes' names, written into the weight files.
            teacher: name and network of the one that learns beside it, if there is one.

        Returns:
            Whether it was written. If not (a full disk), a warning has said so, what was there before is untouched,
            and the next save tries again.
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
        # PyTorch's and safetensors' writers have errors of their own for a full disk.
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            warn(f"could not save {self.path / first}: {error}; earlier checkpoints are untouched")
            return False
        self._prune()
        return True

    def _link(self, name: str, other: str) -> None:
        """Makes `other` the same checkpoint as `name`; the files are shared, as nothing ever writes into them.

        best_model_ema gets the averaged parameters alone, as its weights: nobody can resume from a best model's past.
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
        """Deletes the folders written first beyond the number to keep, of whichever run they are."""
        orders = _orders(self.path)
        oldest_first = sorted(orders, key=orders.__getitem__)
        epochs = [folder for folder in oldest_first if folder.name.isdecimal()]
        steps = [folder for folder in oldest_first if re.fullmatch(r"step_\d+", folder.name)]
        for folder in [*(epochs[: -self.keep] if self.keep else []), *steps[:-KEPT_STEPS]]:
            with contextlib.suppress(OSError):
                replace(folder, folder.with_name(f".{folder.name}{DELETED}"))
        self._delete()

    def _delete(self) -> None:
        """Deletes what was renamed to be deleted: a kill in between leaves no part of a checkpoint under its name. And
        what a killed run has left of a save that it did not end."""
        halves = [folder for folder in self.path.glob(f".*{TEMPORARY}") if not (folder / MANIFEST).exists()]
        for folder in (*self.path.glob(f".*{DELETED}"), *halves):
            shutil.rmtree(folder, ignore_errors=True)


def _orders(run_folder: Path) -> dict[Path, tuple[float, float]]:
    """The checkpoints in a run's folder, and what orders them: the number of their save, and their steps.

    A manifest that cannot be read comes first of all.
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
    """Whether a run that is to write to `run_folder` will meet checkpoints there that are not of its past.

    Args:
        run_folder: `output/<model>` of the run.
        resumed: the checkpoint that it goes on from; None if it starts afresh.
    """
    orders = {folder.resolve(): order for folder, order in _orders(run_folder).items()}
    past = orders.get(resumed.resolve(), UNREADABLE) if resumed is not None else UNREADABLE
    return any(order > past for order in orders.values())


def is_past(checkpoint: Path, resumed: Path) -> bool:
    """Whether a checkpoint was written no later than the one beside it that a run goes on from."""
    orders = _orders(checkpoint.parent)
    past = orders.get(checkpoint.parent / resumed.resolve().name, UNREADABLE)
    return checkpoint in orders and orders[checkpoint] <= past


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are whole; raises `UserError` with what is wrong otherwise."""
    try:
        manifest = json.loads(read_text(folder / MANIFEST, limit=1))
        for name, checksum in manifest["crc32"].items():
            if not name.isprintable():
                raise ValueError("a file in it has no name")
            if os.path.basename(name) != name or _checksum(folder / name) != checksum:
                raise UserError(f"{folder / name} is damaged (wrong checksum)")
        _ = int(manifest["save"]), int(manifest["step"])
    except _NO_MANIFEST as error:
        raise UserError(f"{folder} is no complete checkpoint ({one_line(error)})") from None
    return manifest


def find_checkpoint(checkpoint: str, run_folder: Path) -> Path | None:
    """The folder to resume from.

    Args:
        checkpoint: --checkpoint: a checkpoint, the folder of a run, or "auto" for `run_folder`.
        run_folder: `output/<model>` of this run.

    Returns:
        The named checkpoint, or the complete one of the folder that was written last; a damaged one is passed over with
        a warning. None for "auto" in a folder without any.

    Raises:
        UserError: there is nothing to resume from.
    """
    folder = run_folder if checkpoint == "auto" else Path(checkpoint)
    if (folder / MANIFEST).exists():
        _read_manifest(folder)
        return folder
    candidates = []
    for candidate, order in _orders(folder).items():
        # One that cannot be read is looked at first, to say that it is damaged.
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
            "--model_save_dir, or remove them"
        )
    if checkpoint == "auto":
        return None
    if not folder.exists():
        raise UserError(f"--checkpoint: {checkpoint} does not exist; give a folder that train.py saved, or auto")
    raise UserError(
        f"--checkpoint: {checkpoint} holds no complete training state; "
        "to start from weights alone give them as --pretrained_model"
    )


def _check_state(state: dict[str, Any]) -> None:
    """Raises `ValueError` if a state has the right checksum, and values that none could have."""
    position, training, notes = state["position"], state["training"], state["notes"]
    if not all(isinstance(value, dict) for value in (training, notes, position.best, position.highest)):
        raise ValueError("it has something else in place of a dictionary")
    if not (isinstance(position.random, list) and isinstance(position.history, list)):
        raise ValueError("it has something else in place of a list")
    if not all(isinstance(best, int | float) for best in (*position.best.values(), *position.highest.values())):
        raise ValueError("its best accuracy is no number")
    counts = [position.batch_size, position.epoch, position.step_in_epoch, position.images or 0, position.stale]
    counts.append(training["step"])
    if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts):
        raise ValueError("its place in the training is none")
    if position.seed is not None and type(position.seed) is not int:
        raise ValueError("its seed is no number")
    if not _is_plain(notes):
        raise ValueError("its notes are more than texts and numbers")


def _is_plain(value: Any) -> bool:
    """Whether a value is made of texts, numbers, lists and dictionaries alone."""
    held = [*value, *value.values()] if isinstance(value, dict) else value
    return all(map(_is_plain, held)) if isinstance(held, list | tuple) else isinstance(held, str | int | float | None)


def read_state(folder: Path) -> dict[str, Any]:
    """The training state of a checkpoint, on the CPU: "position", "training" and "notes", as given to `save`.

    Only tensors and plain values are read, no code is run.
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
            f"--checkpoint: {folder / STATE} is of another version of this program ({one_line(error)})"
        ) from None
    except Exception as error:  # whatever a damaged file makes the unpickler raise
        first = cut(str(error).splitlines()[0], 300) if str(error) else type(error).__name__
        raise UserError(f"--checkpoint: {folder / STATE} cannot be read ({first})") from None
    return state
