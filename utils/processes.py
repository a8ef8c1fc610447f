"""Several processes: starting, stopping, agreeing."""

from __future__ import annotations

import gc
import os
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from utils import errors
from utils.errors import FlagError, UserError

# Ctrl-C again, this many seconds after the first, ends a run at once. A launcher passes the first one on, so that it
# comes twice within milliseconds.
PATIENCE = 1.0


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes of a launcher (`python -m torch.distributed.run`) for as long as the block runs.

    nccl on GPUs; gloo on CPUs and for small agreements between the processes. Without a launcher it does nothing.

    After the block the group and its threads are gone, provided that nothing outside keeps what was built on the group
    inside (a `DistributedDataParallel`, a pending operation).

    An error in the block ends all processes, with one line whether one of them met it or all did.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    # Functions of this module have the group as a default argument if there is one when they are defined, and then keep
    # it for good. `DistributedDataParallel` imports the module: be there first, while there is no group.
    import torch.distributed.nn.functional  # noqa: F401

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(minutes=30)
    try:
        store, rank_, size = next(rendezvous("env://", timeout=timeout))
    except (ValueError, dist.DistError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}, but the processes cannot meet ({reason}): start them with "
            "python -m torch.distributed.run, with --standalone or a free --master_port"
        ) from None
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # The launcher of a single node keeps its store when it restarts the processes; without a part of their own
        # they would find the addresses of the dead ones in it. (Nodes count their restarts differently.)
        store = dist.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=store, rank=rank_, world_size=size, timeout=timeout)
    try:
        yield
        dist.barrier()  # leave together: one that is gone looks like a failure to the others
    except (Exception, KeyboardInterrupt) as error:
        code = _end_together(error, dist.PrefixStore(f"end_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store))
        # Without tidying up, here or at exit: that may wait for an operation that others will not join. (gloo's threads
        # finish theirs before they can be joined, and those of nccl wait for the GPU.)
        errors.flush_output()
        os._exit(code)
    _leave_group()


def _leave_group() -> None:
    """Ends the group and joins its threads.

    They own the tensors of their last operation, here of the barrier, until they are joined. One that frees a tensor
    while the interpreter is ending asks for the lock that it will never get: Python ends the thread by unwinding its
    stack, which gloo's and PyTorch's destructors forbid, and the process aborts after all its work is done.

    The group ends with the last that keeps it, and that has to be this function: a `DistributedDataParallel` ends it
    with that lock held, which a thread that frees a tensor waits for.
    """
    gc.collect()  # the optimizer, the step and with it the DistributedDataParallel refer to each other
    dist.destroy_process_group()


def _end_together(error: BaseException, store: dist.Store) -> int:
    """Says why this process ends, if it is the first to fail; returns its exit code.

    The others fail with it, of the same cause or because they have lost contact: they end without a word, with its exit
    code. Of an error that is neither the user's nor the machine's the first shows the traceback.
    """
    try:
        if store.add("failed", 1) > 1:
            store.wait(["exit_code"], timedelta(seconds=errors.PATIENCE))  # until the first has spoken
            return int(store.get("exit_code"))
    except RuntimeError:  # the store has gone with the first
        return 1
    if not isinstance(error, UserError):
        if _lost_contact(error):
            error = UserError(
                "another process of this run is gone: it was killed, or its machine failed "
                "(train.py goes on with --checkpoint=auto, infer.py and predict.py with --resume=True)"
            )
        elif line := errors.of_the_machine(error, errors.LESS_MEMORY):
            error = UserError(line)
    code = 1
    if isinstance(error, UserError):
        errors.report(str(error))
        code = error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        errors.report_interruption()
        code = 130
    elif isinstance(error, BrokenPipeError):  # the reader of stdout (`| head`) has seen enough
        code = 141
    else:
        traceback.print_exception(error)
    store.set("exit_code", str(code))
    return code


def _lost_contact(error: BaseException) -> bool:
    """Whether an operation between processes failed. (Those of gloo raise plain RuntimeErrors.)"""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """The values of all processes, by rank, in every process."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_to_main(value: Any) -> list[Any]:
    """The values of all processes, by rank, in the main process; none in the others."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return [] if values is None else values


def gather_dict(values: dict) -> dict:
    """The entries of all processes' dictionaries, in every process."""
    return {key: value for part in gather_objects(values) for key, value in part.items()}


def refuse_several(what: str) -> None:
    """Raises `FlagError` if a launcher has started several processes for `what`, which is not theirs to share."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise FlagError(f"{what} runs in one process: start it without torch.distributed.run")


def check_agreement(values: dict[str, Any]) -> None:
    """Raises `UserError` in every process if the processes were started with different values."""
    for number, other in enumerate(gather_objects(values)):
        for name, value in values.items():
            if other.get(name) != value:
                raise UserError(
                    f"the processes disagree: --{name} is {value!r} in process {rank()}, {other.get(name)!r} in "
                    f"process {number}; start all of them with the same command and the same data"
                )


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Gives every process rank 0's buffers (batch-norm statistics)."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


@torch.no_grad()
def broadcast_module(model: nn.Module) -> None:
    """Gives every process rank 0's parameters and buffers."""
    if dist.is_initialized():
        for parameter in model.parameters():
            dist.broadcast(parameter, src=0)
    broadcast_buffers(model)


class StopSignal:
    """Ends a run in order when SIGTERM or SIGINT arrives: all processes stop after the same step.

    A context manager: outside the block the signals do what they did before.

    A SIGINT that is ignored when the block starts stays ignored: under nohup, in the background of a script and in cron
    jobs a Ctrl-C is meant for others. Not so under a launcher, which passes on only what stopped it, and kills after 30
    seconds what goes on.

    Attributes:
        received: number of the signal that this process got, or 0. The others may not know of it yet.
    """

    def __enter__(self) -> StopSignal:
        self.received = 0
        self._since = 0.0
        self._previous: tuple[Any, Tensor] | None = None
        numbers = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN or dist.is_torchelastic_launched():
            numbers.append(signal.SIGINT)
        self._handlers = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None:
            self._finish_previous()  # nothing may be under way when the processes part

    def _receive(self, number: int, frame: object) -> None:
        if not self.received:
            self._since = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > PATIENCE:
            raise KeyboardInterrupt
        self.received = number

    def poll(self) -> int:
        """The number of the signal on which all processes stop now; 0 to go on.

        Every process calls it once a step. It starts a small agreement on the CPU and answers with the one started
        the step before, so that nobody waits for it.
        """
        answer = self._finish_previous()
        if not dist.is_initialized():
            return self.received
        flag = torch.tensor(self.received)
        self._previous = (dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True), flag)
        return answer

    def agree(self) -> int:
        """The same, but takes in all that was received up to now; waits for the other processes."""
        return max(self._finish_previous(), *gather_objects(self.received), 0)

    def _finish_previous(self) -> int:
        if self._previous is None:
            return 0
        (work, flag), self._previous = self._previous, None
        work.wait()
        return int(flag)
