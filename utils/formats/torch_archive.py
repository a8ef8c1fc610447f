"""Checks the bounds of torch.save files before PyTorch's own unpickler reads them.

That unpickler only calls functions that make tensors and containers. Even so a file of a kilobyte can keep it busy for
ever: forty tuples, each holding the previous one twice, take 2 ** 40 steps to hash, compare or print.
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

# A training file has about 40 opcodes per tensor, 200,000 with its optimizer. This many take 2 seconds.
_MAX_OPCODES = 500_000
# Most values in one object, counting every occurrence, and most in all keys and arguments together.
_MAX_VALUES = 2_000_000
_LEGACY_PICKLES = 5  # magic number, protocol, machine, content, keys of the storages

_GETS, _PUTS = ("BINGET", "LONG_BINGET", "GET"), ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE")
# These put the values they pop into the object below them.
_FILL = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")


def check_torch_file(path: Path, legacy: bool = False) -> None:
    """Refuses a file whose content is out of proportion to its length.

    Args:
        path: the file.
        legacy: whether it has the format of PyTorch before 1.6, which is not a zip archive.

    Raises:
        FormatError: its content is out of proportion, or it is damaged.
    """
    try:
        if legacy:
            content = read_file(path)
            # From memory: a read from disk would allocate as much as the file claims for a text.
            pickles = cast(IO[bytes], io.BytesIO(content) if isinstance(content, bytes) else content)
            for _ in range(_LEGACY_PICKLES):
                _check_pickle(pickles)
            return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise FormatError("the archive has two files with the same name")
            for member in members:
                check_stored(archive, member)
                if re.fullmatch(r"[^/]+/data\.pkl", member.filename):
                    _check_pickle(io.BytesIO(archive.read(member)))
    except FormatError:
        raise
    except ZIP_ERRORS as error:
        raise FormatError(f"damaged ({cut(' '.join(str(error).split()), 200)})") from None


def check_stored(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Checks a member of a PyTorch archive: these are not compressed, so it cannot be longer than the archive.

    Raises:
        FormatError: it is compressed, or claims to be longer.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > archive.start_dir:
        if re.match(r"[^/]+/code/", member.filename):  # the only members that PyTorch compresses
            raise FormatError("a TorchScript archive, which holds code: save the network's state_dict")
        raise FormatError(f"refused: {cut(member.filename, 60)!r} in it is compressed, which PyTorch never does")


def _check_pickle(file: IO[bytes]) -> None:
    """Reads one pickle, and refuses it if it is too long or repeats its parts too often."""
    # A value is represented by its index in the list of the values' parts.
    parts: list[list[int]] = []
    used: list[int] = []  # keys, which are hashed, and arguments of calls
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number == _MAX_OPCODES:
            raise FormatError(f"refused: it has more than {_MAX_OPCODES} opcodes, more than any weight file needs")
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
    """Pops an opcode's operands off the stack, with the mark if they reach down to one."""
    split = len(stack) - len(kinds)
    if pickletools.markobject in kinds:
        split = marks.pop() - kinds.index(pickletools.markobject)
    if split < (marks[-1] if marks else 0):
        raise FormatError("the pickle is damaged")
    taken = stack[split:]
    del stack[split:]
    return taken


def _sizes(parts: list[list[int]]) -> list[int]:
    """The number of values in each object, counting every occurrence.

    Raises:
        FormatError: an object has too many, or contains itself.
    """
    sizes = [0] * len(parts)  # 0: not known yet; -1: being counted
    for first in range(len(parts)):
        left = [first]
        while left:
            value = left[-1]
            if sizes[value] == 0:
                sizes[value] = -1
                if any(sizes[part] == -1 for part in parts[value]):
                    raise FormatError("refused: a container in it contains itself")
                left += [part for part in parts[value] if sizes[part] == 0]
            else:
                left.pop()
                if sizes[value] == -1:
                    sizes[value] = 1 + sum(sizes[part] for part in parts[value])
                    if sizes[value] > _MAX_VALUES:
                        raise FormatError("refused: it repeats parts of itself too often for a file of weights")
    return sizes
