"""What tests share: the --all option, a small data set, train.py on it, and published weights."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

# Tests run side by side, and their networks are small: more threads would only wait for each other. The processes that
# tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# As utils/__init__.py does for the scripts, which import it before OpenCV.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))

# Started in the background of a script, this process ignores SIGINT, and what it starts would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import cv2
import numpy as np
import pytest
from launch import Launcher

COLOURS = {"blue": (200, 40, 40), "green": (40, 200, 40), "grey": (120, 120, 120), "red": (40, 40, 200)}  # BGR


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked `full` too: every network")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if for_gpu:
        import torch  # which many a file of tests does without

        for item in for_gpu if not torch.cuda.is_available() else ():
            item.add_marker(pytest.mark.skip(reason="no GPU here"))
    if config.getoption("--all"):
        return
    full = [item for item in items if item.get_closest_marker("full")]
    if full:
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if item not in full]


@pytest.fixture(scope="session")
def launch() -> Iterator[Launcher]:
    """Runs scripts in several processes, quicker than PyTorch's launcher."""
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the ImageNet layout: four classes of noisy JPEGs told apart by colour, 12 for training and 4 for
    validation of each, of different sizes. Shared by all tests: copy it before changing it."""
    root = tmp_path_factory.mktemp("tiny_dataset")
    random = np.random.RandomState(0)
    for split, count in (("train", 12), ("val", 4)):
        lines = []
        for label, (name, colour) in enumerate(COLOURS.items()):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = random.randint(40, 81, 2)
                image = np.clip(random.normal(colour, 30, (height, width, 3)), 0, 255).astype(np.uint8)
                path = f"{split}/{name}/{number:02d}.jpg"
                cv2.imwrite(str(root / path), image)
                lines.append(f"{path} {label}\n")
        (root / f"{split}_list.txt").write_text("".join(lines))
    (root / "label_names.txt").write_text("".join(f"{label} {name}\n" for label, name in enumerate(COLOURS)))
    return root


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the small data set that a test may spoil."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "data"))


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """train.py, called in this process."""
    from training import InProcess  # it imports PyTorch, which many a file of tests does without

    return InProcess(monkeypatch, capsys)


@pytest.fixture(scope="module")
def variables() -> dict[str, bytes]:
    """The variable files of a published network."""
    from paddle_files import published_variables  # imports PyTorch, as above

    return published_variables()


@pytest.fixture(scope="module")
def trained() -> object:
    """That network, with its weights."""
    from paddle_files import published_network  # imports PyTorch, as above

    return published_network()


@pytest.fixture
def run_script_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a script's `main` in this process: script, flags."""

    def run(script: ModuleType, **flags: object) -> None:
        monkeypatch.setattr(sys, "argv", ["script.py", *(f"--{name}={value}" for name, value in flags.items())])
        script.main()

    return run
