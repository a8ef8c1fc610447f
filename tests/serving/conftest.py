"""A small exported network for all tests of the server."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export, tiny; copy it before changing it."""
    from exports import export_tiny  # it imports PyTorch

    folder = tmp_path_factory.mktemp("exports") / "tiny"
    export_tiny(folder)
    return folder
