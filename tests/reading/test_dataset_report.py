"""What reader.py says of a dataset."""

from __future__ import annotations

import numpy as np
import pytest

from utils.reading.dataset_report import note_cut_off


@pytest.mark.parametrize(
    ("size", "image_size", "resize_mode", "share"),
    [
        ((40, 200), (224, 224), "short", "20%"),
        ((200, 40), (224, 224), "crop", "20%"),
        ((40, 200), (224, 224), "exact", None),
        ((40, 200), (224, 224), "pad", None),
        ((40, 200), (32, 160), "short", None),
        ((375, 500), (224, 224), "short", None),
    ],
)
def test_images_that_are_too_long_for_the_crop(size, image_size, resize_mode, share, capsys):
    note_cut_off("val", np.array([size, size, (50, 50)]), image_size, resize_mode)
    said = capsys.readouterr().err
    assert bool(said) == bool(share)
    if share:
        assert said.startswith(f"warning: val: the images are long, and the centre crop shows at most {share}")
