"""The file of image features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from utils.evaluation.features import FeatureFile
from utils.evaluation.predictions import unescaped


def test_features_of_many_rows(tmp_path):
    with FeatureFile(str(tmp_path / "f.npy")) as file:
        for start in range(0, 3000, 7):
            count = min(7, 3000 - start)
            rows = torch.arange(start, start + count)[:, None].expand(count, 3).float()
            file.write(rows, [str(number) for number in range(start, start + count)])
    features = np.load(tmp_path / "f.npy")
    assert features.shape == (3000, 3)
    assert (features == np.arange(3000)[:, None]).all()
    assert (tmp_path / "f.npy.txt").read_text().split() == [str(number) for number in range(3000)]


def test_a_line_per_name_and_no_file_of_the_users_is_touched(tmp_path):
    names = ["a\nb.jpg", "c\r.jpg", "d\te\\n.jpg", "f.jpg"]
    (tmp_path / "photos.txt").write_text("dear to its owner")
    with FeatureFile(str(tmp_path / "photos.npy")) as file:
        file.write(torch.zeros(4, 3), names)
    with (tmp_path / "photos.npy.txt").open() as lines:
        assert [unescaped(line.rstrip("\n")) for line in lines] == names
    assert (tmp_path / "photos.txt").read_text() == "dear to its owner"


def test_interrupted_features_leave_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), FeatureFile(str(tmp_path / "f.npy")) as file:
        file.write(torch.zeros(2, 3), ["a", "b"])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
