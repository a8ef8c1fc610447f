"""Bounds on files of torch.save, looked at before PyTorch's own unpickler makes anything of them.

That unpickler calls nothing but what makes tensors and containers, and yet a file of a kilobyte can keep it busy for
ever: a tuple of twice the tuple before, forty times over, takes 2 ** 40 steps to be hashed as a key, compared or
printed.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any, cast

from utils.errors import FormatError, cut
from utils.files import read_file
from utils.formats.archives import ZIP_ERRORS

# A training's file has about 40 opcodes per tensor: 200,000 with all of its optimizer's. 2 seconds' work.
_MAX_OPCODES = 500_000
# Values that one is made of, each counted as often as it stands in it; the same of all keys and arguments together.
_MAX_VALUES = 2_000_000
_LEGACY_PICKLES = 5  # magic number, protocol, machine, content, keys of the storages that follow

_GETS, _PUTS = ("BINGET", "LONG_BINGET", "GET"), ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE")
# These put what they take into what lies below it.
_FILL = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")


def check_torch_file(path: Path, legacy: bool = False) -> None:
    """Refuses a file whose content is out of proportion to its length.

    Args:
        path: the file.
        legacy: it is of PyTorch before 1.6, and no zip archive.

    Raises:
        FormatError: it is, or it is damaged.
    """
    try:
        if legacy:
            content = read_file(path)
            # Not from the disk: that would set aside as much memory as the file says that a text is long.
            pickles = cast(IO[bytes], io.BytesIO(content) if isinstance(content, bytes) else content)
            for _ in range(_LEGACY_PICKLES):
                _check_pickle(pickles)
            return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise FormatError("the archive has two files of one name")
            for member in members:
                check_stored(archive, member)
                if re.fullmatch(r"[^/]+/data\.pkl", member.filename):
                    _check_pickle(io.BytesIO(archive.read(member)))
    except FormatError:
        raise
    except ZIP_ERRORS as error:
        raise FormatError(f"damaged ({cut(' '.join(str(error).split()), 200)})") from None


def check_stored(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Checks a file of an archive of PyTorch's, which compresses nothing: it cannot be longer than the archive.

    Raises:
        FormatError: it is compressed, or said to be longer.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > archive.start_dir:
        if re.match(r"[^/]+/code/", member.filename):  # the one thing that is compressed
            raise FormatError("a TorchScript archive, which holds code: save the network's state_dict")
        raise FormatError(f"refused: {cut(member.filename, 60)!r} in it is compressed, which PyTorch never does")


def _check_pickle(file: IO[bytes]) -> None:
    """Reads one pickle, and refuses it if it is too long, or refers to parts of itself too often."""
    # Each value is a number: of the list of the values that it is made of.
    parts: list[list[int]] = []
    used: list[int] = []  # keys, which are hashed, and arguments of calls
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number == _MAX_OPCODES:
            raise FormatError(f"refused: it has more than {_MAX_OPCODES} opcodes, which no file of weights needs")
        name = opcode.name
        if name in _PUTS:
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif opcode.stack_before or opcode.stack_after:
            taken = _take(stack, marks, opcode.stack_before)
            if name in ("SETITEM", "SETITEMS"):
                used += taken[1::2]
            elif name in ("REDUCE", "NEWOBJ", "BUILD", "BINPERSID"):
                used.append(taken[-1])
            if name in _FILL:
                parts[taken[0]] += taken[1:]
                stack.append(taken[0])
            else:
                for _ in opcode.stack_after:
                    parts.append(taken)
                    stack.append(len(parts) - 1)
    sizes = _sizes(parts)
    if sum(sizes[value] for value in used) > _MAX_VALUES:
        raise FormatError("refused: it repeats parts of itself too often for a file of weights")


def _take(stack: list[int], marks: list[int], kinds: list[pickletools.StackObject]) -> list[int]:
    """Takes what an opcode needs off the stack, and the mark, if it goes down to one."""
    split = len(stack) - len(kinds)
    if pickletools.markobject in kinds:
        split = marks.pop() - kinds.index(pickletools.markobject)
    if split < (marks[-1] if marks else 0):
        raise FormatError("the pickle is damaged")
    taken = stack[split:]
    del stack[split:]
    return taken


def _sizes(parts: list[list[int]]) -> list[int]:
    """How many values each one is made of, what stands in many places counted in each.

    Raises:
        FormatError: one is made of too many, or of itself.
    """
    sizes = [0] * len(parts)  # 0: not known yet; -1: being counted
    for first in range(len(parts)):
        left = [first]
        while left:
            value = left[-1]
            if sizes[value] == 0:
                sizes[value] = -1
                if any(sizes[part] == -1 for part in parts[value]):
                    raise FormatError("refused: a container in it holds itself")
                left += [part for part in parts[value] if sizes[part] == 0]
            else:
                left.pop()
                if sizes[value] == -1:
                    sizes[value] = 1 + sum(sizes[part] for part in parts[value])
                    if sizes[value] > _MAX_VALUES:
                        raise FormatError("refused: it repeats parts of itself too often for a file of weights")
    return sizes
