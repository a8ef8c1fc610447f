"""Letters in pictures: in a font that has them, or what stands in for them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from utils.evaluation.pictures import draw
from utils.evaluation.predictions import Prediction
from utils.reading import fonts
from utils.reading.fonts import drawable
from utils.reading.grid import write_grid


def write_font(path: Path, letters: str) -> Path:
    """A font whose letters are squares."""
    pen = TTGlyphPen(None)
    for move, point in (
        (pen.moveTo, (100, 0)),
        (pen.lineTo, (100, 800)),
        (pen.lineTo, (900, 800)),
        (pen.lineTo, (900, 0)),
    ):
        move(point)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):04X}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def machine(monkeypatch) -> list[font_manager.FontEntry]:
    """The fonts of a machine that has none but Matplotlib's, to add to."""
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(fonts, "_replaced", [])
    fonts._best_font.cache_clear()
    yield own
    fonts._best_font.cache_clear()


def test_latin_needs_no_font_and_no_matplotlib(monkeypatch):
    monkeypatch.setattr(fonts, "_best_font", lambda texts: pytest.fail("fonts are looked for"))
    assert drawable(["café  $x_\n", "b"], ["0", "1"]) == (["café $x_", "b"], None)


def test_other_scripts_that_the_usual_font_has(machine, capsys):
    text = drawable(["кошка", "γάτα", "cat"], "012")
    assert text.lines == ["кошка", "γάτα", "cat"] and text.font is not None and text.font.endswith("DejaVuSans.ttf")
    assert not capsys.readouterr().err


def test_without_a_font_numbers_stand_for_names_and_one_warning_says_so(machine, capsys):
    assert drawable(["猫", "dog"], ["class 0", "class 1"]).lines == ["class 0", "dog"]
    assert drawable(["鳥"], ["class 2"]).lines == ["class 2"]
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert "no font on this machine has the letters of '猫': pictures show 'class 0' and the like" in warnings[0]


def test_a_font_of_the_machine_that_has_the_letters(machine, tmp_path, capsys):
    path = write_font(tmp_path / "Han.ttf", "猫犬")
    machine.append(font_manager.FontEntry(fname=str(path), name="Han"))
    text = drawable(["猫", "犬 dog", "鳥"], "012")
    assert text == (["猫", "犬 dog", "2"], str(path))
    assert "'鳥'" in capsys.readouterr().err


def test_pictures_are_drawn_with_it(machine, tmp_path):
    """A letter that is a square is one below the images of --show, and beside those of --vis_dir."""
    path = write_font(tmp_path / "Han.ttf", "猫")
    machine.append(font_manager.FontEntry(fname=str(path), name="Han"))
    pixels = np.full((40, 40, 3), 255, np.uint8)
    write_grid(str(tmp_path / "grid.png"), [pixels], ["猫"], 1)
    caption = cv2.imread(str(tmp_path / "grid.png"))[40:, :, 0] < 128
    assert caption.sum() > 80 and caption.any(0).sum() < 16
    panel = np.asarray(draw(pixels, Prediction("x.jpg", [1.0], [0], ["猫"])).convert("L"))[30:50, 240:270] < 128
    assert panel.sum() > 80


def test_captions_end_before_the_next_one(tmp_path):
    """Of small pictures they have more room than these."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    write_grid(str(tmp_path / "grid.png"), [pixels] * 2, ["a very long name of a class, of several"] * 2, 2)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    left, right = np.split(grid[32:], 2, axis=1)
    assert grid.shape[1] == 2 * 124 and (left == right).all() and (left < 255).any() and (left[:, -4:] == 255).all()
