"""Parses list files, lines `path label`, of any length."""

from __future__ import annotations

import os
import re

import numpy as np

from utils.errors import UserError, cut, reason


def _is_one_of(characters: bytes) -> np.ndarray:
    table = np.zeros(256, bool)
    table[list(characters)] = True
    return table


_BLANK = _is_one_of(b" \t\r\v\f")
_DIGIT = _is_one_of(b"0123456789")

# Number of blanks at either end of a line to strip from all lines at once.
_MOST_BLANKS = 4


def _strip(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    """Moves the ends of the lines text[starts:ends] past blanks, in place."""
    for _ in range(_MOST_BLANKS):
        if not (blank := (ends > starts) & _BLANK[text[ends - 1]]).any():
            break
        ends -= blank
    for _ in range(_MOST_BLANKS):
        if not (blank := (ends > starts) & _BLANK[text[np.minimum(starts, len(text) - 1)]]).any():
            break
        starts += blank
    # Lines with more are handled separately, as each round above processes all lines.
    for line in np.flatnonzero((ends > starts) & (_BLANK[text[ends - 1]] | _BLANK[text[starts % len(text)]])):
        content = text[starts[line] : ends[line]].tobytes()
        stripped = content.lstrip(b" \t\r\v\f")
        starts[line] += len(content) - len(stripped)
        ends[line] = starts[line] + len(stripped.rstrip(b" \t\r\v\f"))


def _bad_line(line: str, class_dim: int | None) -> str:
    """What is wrong with a line of a list file."""
    path_and_label = line.rsplit(None, 1)
    if len(line) > 300:
        line = f"{line[:300]}..."
    if len(path_and_label) == 1:
        remedy = ": write a blank instead of the comma" if re.search(r"[,;]\d+$", line) else ""
        return f"{line!r} has no label: write `relative/path label`{remedy}"
    label = path_and_label[1]
    if re.fullmatch(r"\d+([,;]\d+)+", label):
        return (
            f"{line!r} has several labels, {label[:300]}: write `relative/path label`, or for several labels per "
            "image, with --multi_label=True, `relative/path 0,1,0`"
        )
    if not label.lstrip("-").isdecimal():
        return f"label {label[:300]!r} of {line!r} is not a whole number: write `relative/path label`"
    allowed = f"0..{class_dim - 1} (--class_dim {class_dim})" if class_dim else "0 or more"
    return f"label {cut(label, 300)} of {line!r} is not in {allowed}"


def list_text(list_path: str) -> np.ndarray:
    """The bytes of a list file, uint8, without the byte-order mark of some editors.

    Raises:
        UserError: the file is missing or in UTF-16.
    """
    try:
        text = np.fromfile(list_path, np.uint8)
    except OSError as error:
        raise UserError(f"{list_path}: {reason(error)}") from None
    if text[:2].tobytes() in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{list_path} is in UTF-16: save it as UTF-8")
    return text[3:] if text[:3].tobytes() == b"\xef\xbb\xbf" else text


# Bytes of a list file to parse at a time, to keep temporary arrays small.
_BLOCK = 16 << 20
_LONGEST_LINE = 1 << 20  # paths have at most 4,096 bytes


def parse_list(text: np.ndarray, list_path: str, class_dim: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parses lines `path label` without creating a Python object per line.

    Args:
        text: the file, uint8.
        list_path: its name, for errors.
        class_dim: labels must be below it.

    Returns:
        Where each path starts in `text` (int64), its length (int32), its label (int32).

    Raises:
        UserError: a line that is wrong, named with its number, or no line at all.
    """
    parts = []
    lines_before = 0
    begin = 0
    while begin < len(text):
        end = min(begin + _BLOCK, len(text))
        if end < len(text) and text[end - 1] != ord("\n"):
            newlines = np.flatnonzero(text[end : end + _LONGEST_LINE] == ord("\n"))
            if not len(newlines) and len(text) - end > _LONGEST_LINE:
                raise UserError(f"{list_path}: a line has more than {_LONGEST_LINE >> 20} MB: give a list of images")
            end = end + int(newlines[0]) + 1 if len(newlines) else len(text)
        block = text[begin:end]
        numbers, starts, ends, line_count = _lines(block)
        labels, label_starts = _last_numbers(block, starts, ends)
        path_ends = label_starts.copy()
        _strip(block, starts, path_ends)
        limit = class_dim if class_dim is not None else np.iinfo(np.int32).max
        bad = (label_starts == ends) | (path_ends == label_starts) | (path_ends == starts) | (labels >= limit)
        if bad.any():
            first = int(np.argmax(bad))
            line = os.fsdecode(block[starts[first] : ends[first]].tobytes())
            raise UserError(f"{list_path} line {lines_before + numbers[first] + 1}: {_bad_line(line, class_dim)}")
        parts.append((starts + begin, (path_ends - starts).astype(np.int32), labels.astype(np.int32)))
        lines_before += line_count
        begin = end
    if not sum(len(part[0]) for part in parts):
        raise UserError(f"{list_path} is empty: a line is `relative/path label`")
    starts, lengths, labels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return starts, lengths, labels


def parse_label_list(text: np.ndarray, list_path: str, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parses lines `path 0,1,0,...`, for images with several labels.

    Args:
        text: the file, uint8.
        list_path: its name, for errors.
        classes: how many labels each line has.

    Returns:
        As `parse_list`; the labels are uint8 (N, classes).

    Raises:
        UserError: a line that is wrong, named with its number, or no line at all.
    """
    starts, lengths, labels = [], [], []
    begin = 0
    for number, line in enumerate(text.tobytes().split(b"\n"), 1):
        words = line.rsplit(None, 1)
        if words:
            digits, commas = words[-1][::2], words[-1][1::2]
            if len(words) < 2 or len(digits) != classes or digits.strip(b"01") or commas != b"," * (classes - 1):
                raise UserError(f"{list_path} line {number}: {_bad_labels(os.fsdecode(line.strip()), classes)}")
            path = words[0].strip()
            starts.append(begin + line.index(path))
            lengths.append(len(path))
            labels.append(digits)
        begin += len(line) + 1
    if not starts:
        raise UserError(f"{list_path} is empty: write lines `relative/path 0,1,0,...`")
    table = np.frombuffer(b"".join(labels), np.uint8).reshape(-1, classes) - ord("0")
    return np.array(starts, np.int64), np.array(lengths, np.int32), table


def parse_parts(
    text: np.ndarray, list_path: str, class_dim: int | None, delimiter: str | None, labelled: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parses lines `path DELIMITER label`, or lines with only a path.

    Args:
        text: the file, uint8.
        list_path: its name, for errors.
        class_dim: labels must be below it.
        delimiter: separates the parts of a line, of which only the first two are used; None: a blank or tab before an
            optional label at the end.
        labelled: whether there are labels; if not, all are -1, and anything after the path is ignored.

    Returns:
        As `parse_list`.

    Raises:
        UserError: a line that is wrong, named with its number, or no line at all.
    """
    starts, lengths, labels = [], [], []
    begin = 0
    for number, line in enumerate(text.tobytes().split(b"\n"), 1):
        whole = line.strip(b" \r\v\f")
        if delimiter is None:
            path, found = re.sub(rb"(?<=\S)\s+\d+(,[01])*$", b"", whole).strip(), b""
        else:
            path, _, rest = whole.partition(delimiter.encode())
            path, found = path.strip(), rest.split(delimiter.encode())[0].strip()
        if whole:
            if not path or (labelled and not _is_label(found, class_dim)):
                raise UserError(f"{list_path} line {number}: {_bad_parts(os.fsdecode(whole), delimiter, class_dim)}")
            starts.append(begin + line.index(path))
            lengths.append(len(path))
            labels.append(int(found) if labelled else -1)
        begin += len(line) + 1
    if not starts:
        raise UserError(f"{list_path} is empty: a line is `relative/path label`")
    return np.array(starts, np.int64), np.array(lengths, np.int32), np.array(labels, np.int32)


def _is_label(text: bytes, class_dim: int | None) -> bool:
    return text.isdigit() and len(text) < 10 and (class_dim is None or int(text) < class_dim)


def _bad_parts(line: str, delimiter: str | None, class_dim: int | None) -> str:
    """What is wrong with a line with delimiters."""
    sign = {"\t": "tab", " ": "blank"}.get(delimiter or "", delimiter)
    shown = f"{line[:300]}..." if len(line) > 300 else line
    allowed = f"0..{class_dim - 1} (--class_dim {class_dim})" if class_dim else "0 or more"
    if delimiter is not None and delimiter not in line:
        return f"{shown!r} does not contain the --list_delimiter {sign}: write path and label, separated by {sign}"
    label = line.split(delimiter)[1].strip() if delimiter else ""
    return (
        f"{shown!r} has the label {label[:100]!r}, but labels must be {allowed}: write path and label, "
        f"separated by {sign}"
    )


def _bad_labels(line: str, classes: int) -> str:
    """What is wrong with a line of a list of several labels."""
    values = line.rsplit(None, 1)[-1].split(",")
    shown = f"{line[:300]}..." if len(line) > 300 else line
    rule = f"write `relative/path 0,1,...` with a 0 or 1 for each of the {classes} classes of --class_dim"
    if set(values) <= {"0", "1"} and len(values) != classes:
        return f"{shown!r} has {len(values)} labels: {rule}"
    if set(values) <= {"0", "1"}:
        return f"{shown!r} has no path: {rule}"
    wrong = next(value for value in values if value not in ("0", "1"))
    return f"label {wrong[:100]!r} of {shown!r} is not 0 or 1: {rule}"


def _lines(block: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The numbers, starts and ends of non-blank lines, and the number of all lines."""
    newlines = np.flatnonzero(block == ord("\n"))
    ends = newlines if len(newlines) and newlines[-1] == len(block) - 1 else np.append(newlines, len(block))
    starts = np.concatenate(([0], ends[:-1] + 1))
    line_count = len(ends)
    ends = ends.copy()
    _strip(block, starts, ends)
    numbers = np.flatnonzero(ends > starts)
    return numbers, starts[numbers], ends[numbers], line_count


def _last_numbers(block: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole number, int64, at the end of each line block[starts:ends], and the start of its digits."""
    labels = np.zeros(len(starts), np.int64)
    label_starts = ends.copy()
    power = 1
    digit = np.ones(len(starts), bool)
    while power < 10**10:
        character = block[label_starts - 1]
        digit &= (label_starts > starts) & _DIGIT[character]
        if not digit.any():
            break
        labels += np.where(digit, character.astype(np.int64) - ord("0"), 0) * power
        label_starts -= digit
        power *= 10
    return labels, label_starts
