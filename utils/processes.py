"""Several processes: starting, stopping and agreeing."""

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

# A second Ctrl-C, at least this many seconds after the first, ends a run at once. A launcher passes the first one on,
# so the same Ctrl-C arrives twice within milliseconds.
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

    After the block the group and its threads are gone, unless something outside keeps an object built on the group (a
    `DistributedDataParallel`, a pending operation).

    An error in the block ends all processes, with a single line whether one of them met it or all did.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    # Functions of this module take an existing group as a default argument when they are defined, and then keep it
    # forever. `DistributedDataParallel` imports the module, so import it earlier, while there is no group.
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
        # The launcher of a single node keeps its store when it restarts the processes; without a separate prefix they
        # would find the addresses of the dead processes in it. (Nodes count their restarts differently.)
        store = dist.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=store, rank=rank_, world_size=size, timeout=timeout)
    try:
        yield
        dist.barrier()  # leave together: a process that has left looks like a failure to the others
    except (Exception, KeyboardInterrupt) as error:
        code = _end_together(error, dist.PrefixStore(f"end_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store))
        # No cleanup, here or at exit: it may wait for an operation that the other processes never join. (gloo's threads
        # finish theirs before they can be joined, and nccl's threads wait for the GPU.)
        errors.flush_output()
        os._exit(code)
    _leave_group()


def _leave_group() -> None:
    """Ends the group and joins its threads.

    They own the tensors of their last operation, here the barrier, until they are joined. A thread that frees a tensor
    while the interpreter shuts down asks for the interpreter's lock and never gets it: Python ends the thread by
    unwinding its stack, which gloo's and PyTorch's destructors forbid, and the process aborts after all its work is
    done.

    This function must drop the last reference to the group: a `DistributedDataParallel` drops it while holding that
    lock, for which a thread that frees a tensor waits.
    """
    gc.collect()  # the optimizer, the step and with it the DistributedDataParallel refer to each other
    dist.destroy_process_group()


def _end_together(error: BaseException, store: dist.Store) -> int:
    """Prints why this process ends, if it is the first to fail; returns its exit code.

    The other processes fail too, for the same reason or because they lose contact; they end silently with the same exit
    code. For an error caused by neither the user nor the machine, the first process shows the traceback.
    """
    try:
        if store.add("failed", 1) > 1:
            store.wait(["exit_code"], timedelta(seconds=errors.PATIENCE))  # until the first has printed its line
            return int(store.get("exit_code"))
    except RuntimeError:  # the store is gone with the first process
        return 1
    if not isinstance(error, UserError):
        if _lost_contact(error):
            error = UserError(
                "another process of this run is gone: it was killed, or its machine failed (continue train.py with "
                "--checkpoint=auto, infer.py and predict.py with --resume=True)"
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
    elif isinstance(error, BrokenPipeError):  # the reader of stdout (`| head`) has closed it
        code = 141
    else:
        traceback.print_exception(error)
    store.set("exit_code", str(code))
    return code


def _lost_contact(error: BaseException) -> bool:
    """Whether an operation between processes failed. (gloo raises plain RuntimeErrors.)"""
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
    """Raises `FlagError` if a launcher has started several processes for `what`, which needs a single one."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise FlagError(f"{what} runs in a single process: start it without torch.distributed.run")


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
    """Gives every process rank 0's buffers (batch norm statistics)."""
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
    jobs a Ctrl-C is meant for other processes. A launcher is different: it passes on only the signal that stopped it,
    and kills any process still running after 30 seconds.

    Attributes:
        received: number of the signal that this process received, or 0. The other processes may not know of it yet.
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
            self._finish_previous()  # no operation may be pending when the processes part

    def _receive(self, number: int, frame: object) -> None:
        if not self.received:
            self._since = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > PATIENCE:
            raise KeyboardInterrupt
        self.received = number

    def poll(self) -> int:
        """The number of the signal on which all processes stop now; 0 to go on.

        Every process calls it once a step. Each call starts a small agreement on the CPU and returns the result of the
        previous call's, so that no process waits.
        """
        answer = self._finish_previous()
        if not dist.is_initialized():
            return self.received
        flag = torch.tensor(self.received)
        self._previous = (dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True), flag)
        return answer

    def agree(self) -> int:
        """The same, but includes every signal received so far; waits for the other processes."""
        return max(self._finish_previous(), *gather_objects(self.received), 0)

    def _finish_previous(self) -> int:
        if self._previous is None:
            return 0
        (work, flag), self._previous = self._previous, None
        work.wait()
        return int(flag)
