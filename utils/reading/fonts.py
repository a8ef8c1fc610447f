"""Text in pictures: finds a font with all letters, or substitutes the text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from PIL import ImageFont

from utils.console import warn

# Letters that every font has: Latin-1.
_COMMON = frozenset([*range(32, 127), *range(160, 256)])

# Matplotlib's font with a box for every letter.
_BOXES = "LastResort"

# Whether a text was replaced: one warning is enough.
_replaced: list[str] = []


class Text(NamedTuple):
    """Lines that can be drawn.

    Attributes:
        lines: one per requested text.
        font: path of a font with their letters; None: any font.
    """

    lines: list[str]
    font: str | None

    def pillow_font(self, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        """The font for Pillow, `size` in pixels."""
        return ImageFont.load_default(size) if self.font is None else _sized(self.font, size)


def drawable(texts: Sequence[str], instead: Sequence[str]) -> Text:
    """Texts and a font with their letters. Texts that no font on this machine covers are replaced, with a warning.

    Args:
        texts: in any script. Blanks and line breaks become single blanks.
        instead: for each text, a Latin replacement.
    """
    lines = [" ".join(text.split()) for text in texts]
    rare = [frozenset(map(ord, line)) - _COMMON for line in lines]
    if not any(rare):
        return Text(lines, None)
    font = _best_font(frozenset(filter(None, rare)))
    letters = _letters(font)
    missing = [number for number, wanted in enumerate(rare) if wanted - letters]
    if missing and not _replaced:
        _replaced.append(lines[missing[0]])
        warn(
            f"no font on this machine has the letters of {lines[missing[0]]!r}: pictures show "
            f"{instead[missing[0]]!r} and the like; install a font with them, such as Noto Sans CJK"
        )
    for number in missing:
        lines[number] = instead[number]
    return Text(lines, font)


def fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """`text`, shortened to fit `width` pixels."""
    while text.strip("…") and font.getlength(text) > width:
        text = text[:-2].rstrip(" ,") + "…"
    return text


_sized = cache(ImageFont.truetype)


@cache
def _best_font(texts: frozenset[frozenset[int]]) -> str:
    """The font that covers most texts, each given by its letters; Matplotlib's default in a tie."""
    from matplotlib import font_manager  # takes a second to import

    usual = font_manager.findfont("DejaVu Sans")
    best, most = usual, sum(text <= _letters(usual) for text in texts)
    for font in sorted({entry.fname for entry in font_manager.fontManager.ttflist if entry.style == "normal"}):
        if most == len(texts):
            break
        if _BOXES not in font and (count := sum(text <= _letters(font) for text in texts)) > most:
            best, most = font, count
    return best


@cache
def _letters(font: str) -> frozenset[int]:
    """The letters in a font; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(font, 12)
        return frozenset(FT2Font(font).get_charmap()) | _COMMON
    except (OSError, RuntimeError):
        return frozenset()
