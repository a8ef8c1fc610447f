"""The file of image features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from utils.features import FeatureFile


def test_features_of_many_rows(tmp_path):
    with FeatureFile(str(tmp_path / "f.npy")) as file:
        for start in range(0, 3000, 7):
            count = min(7, 3000 - start)
            rows = torch.arange(start, start + count)[:, None].expand(count, 3).float()
            file.write(rows, [str(number) for number in range(start, start + count)])
    features = np.load(tmp_path / "f.npy")
    assert features.shape == (3000, 3)
    assert (features == np.arange(3000)[:, None]).all()
    assert (tmp_path / "f.txt").read_text().split() == [str(number) for number in range(3000)]


def test_interrupted_features_leave_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), FeatureFile(str(tmp_path / "f.npy")) as file:
        file.write(torch.zeros(2, 3), ["a", "b"])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
