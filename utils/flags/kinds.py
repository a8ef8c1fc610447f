"""Converts a flag's text to a value: booleans, bounded numbers, ranges."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Callable
from typing import Any

TRUE_WORDS = frozenset({"true", "1", "yes", "on"})
FALSE_WORDS = frozenset({"false", "0", "no", "off"})


def boolean(text: str) -> bool:
    """`True` or `False` from any of the accepted words."""
    word = text.strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is not a boolean: give True or False")


def number(
    kind: type[int] | type[float],
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> Callable[[str], Any]:
    """A parser of one finite number in [low, high]; `above` excludes `low` itself, `below` excludes `high`."""
    noun = "a whole number" if kind is int else "a number"
    bounds = []
    if low > -math.inf:
        bounds.append(f"{'above' if above else 'at least'} {low:g}")
    if high < math.inf:
        bounds.append(f"{'below' if below else 'at most'} {high if kind is int else format(high, 'g')}")
    allowed = " ".join([noun, " and ".join(bounds)]).strip()

    def parse_number(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            commas = ": write it with a point, and without commas" if "," in text else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}{commas}") from None
        inside = low <= value <= high and not (above and value == low) and not (below and value == high)
        if not inside or abs(value) == math.inf:  # nan is not inside
            raise argparse.ArgumentTypeError(f"{text} is not allowed: it must be {allowed}")
        return value

    return parse_number


positive_int = number(int, 1)
non_negative_int = number(int, 0)
positive = number(float, 0, above=True)
non_negative = number(float, 0)
fraction = number(float, 0, 1)
part = number(float, 0, 1, below=True)  # 1 makes no sense: a momentum of 1 never forgets

# Stands for --batch_size=auto until a number is chosen.
AUTO = 0

# Limits of --crop_sweep.
MOST_SIZES, LARGEST_SIZE = 1000, 65535
# Limit for a training image.
LARGEST_SIDE = 8192


def of_pixels(largest: float, above: bool = False) -> Callable[[str], float]:
    """A parser of a number for pixels scaled to 0..1; for one on the scale 0..255 its error gives the converted
    value.
    """
    parse = number(float, 0, largest, above=above)

    def parse_scaled(text: str) -> float:
        try:
            return parse(text)
        except argparse.ArgumentTypeError:
            with contextlib.suppress(ValueError):
                if largest < (value := float(text)) <= 255:
                    raise argparse.ArgumentTypeError(
                        f"{text} is for pixels of 0 to 255, but pixels are scaled to 0..1: divide all values by 255, "
                        f"which gives {value / 255:.6g}"
                    ) from None
            raise

    return parse_scaled


def device_name(text: str) -> str:
    """cpu, cuda, cuda:N or mps; gpu, gpu:N and N alone also mean cuda."""
    match = re.fullmatch(r"(cpu|mps)|(?:(?:cuda|gpu)(?::(\d{1,3}))?|(\d{1,3}))", text.strip().lower())
    if match is None:
        several = ", and start a process for each GPU, python -m torch.distributed.run" if "," in text else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a device: give cpu, cuda, cuda:N or mps{several}")
    number = match[2] or match[3]
    return match[1] or ("cuda" if number is None else f"cuda:{int(number)}")


def size_range(text: str) -> list[int]:
    """The whole numbers of FIRST:LAST:STEP, both ends included."""
    try:
        first, last, step = map(int, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:LAST:STEP, such as 192:352:32") from None
    if not (0 < first <= last and step > 0):
        raise argparse.ArgumentTypeError(f"{text!r} contains no sizes: give FIRST:LAST:STEP, such as 192:352:32")
    if last > LARGEST_SIZE or (last - first) // step >= MOST_SIZES:
        raise argparse.ArgumentTypeError(f"{text!r} is too much: give at most {MOST_SIZES} sizes, up to {LARGEST_SIZE}")
    return list(range(first, last + 1, step))


def image_size(text: str) -> str:
    """An image size: N for a square, or HEIGHTxWIDTH."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 1 <= int(part) <= LARGEST_SIDE for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an image size: give N or HEIGHTxWIDTH, such as 224 or 192x256, up to {LARGEST_SIDE}"
        )
    return "x".join(str(int(part)) for part in parts)


def frozen_part(text: str) -> int | str:
    """The frozen part of a network: a number of stages, or backbone."""
    if text.lower() == "backbone":
        return "backbone"
    if not text.isdecimal() or len(text) > 4:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of stages nor backbone")
    return int(text)


def sides(size: str) -> tuple[int, int]:
    """Height and width of an `image_size`."""
    parts = size.split("x")
    return int(parts[0]), int(parts[-1])


def local_path(text: str) -> str:
    """A path to write to; not a URL, which would become a local folder of that name."""
    if _is_url(text):
        raise argparse.ArgumentTypeError(f"{text} is a URL, but it is written to local disks only: give a path")
    return text


def _is_url(text: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


def data_root(text: str) -> str:
    """A folder, or a URL without credentials, which would be logged and noted in checkpoints; its protocol in small
    letters, as clients expect it.
    """
    if not _is_url(text):
        return text
    if re.search(r"://[^/]*@|\?", text):
        raise argparse.ArgumentTypeError(
            "a URL must not contain a user name, password or query, as it would be logged: give credentials as its "
            "client expects them (docs/clusters.md)"
        )
    protocol, place = text.split("://", 1)
    return f"{protocol.lower()}://{place}"


def delimiter(text: str) -> str:
    """A delimiter between the parts of a line: a few characters, or tab or blank."""
    named = {"tab": "\t", "\\t": "\t", "blank": " ", "space": " "}.get(text.lower(), text)
    if not 1 <= len(named) <= 8 or any(sign.isalnum() or sign in "\r\n" for sign in named):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a delimiter: give a few characters such as , or ;, tab, or blank"
        )
    return named


def stride(text: str) -> str:
    """A stride, N or HEIGHTxWIDTH."""
    parts = text.lower().split("x")
    try:
        sizes = [int(part) for part in parts]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a stride: give a number, or HEIGHTxWIDTH such as 2x1")
    return "x".join(map(str, sizes))
