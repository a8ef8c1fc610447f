"""Imports torchvision even if its compiled operators do not load."""

from __future__ import annotations

from types import ModuleType

import torch

# A Library object removes its definitions when it is collected, so it must live as long as the process.
_libraries: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Returns the `torchvision` package.

    torchvision's compiled operators load only into the torch build they were made for. With another one, such as
    torchvision's CUDA wheel with a CPU-only torch, the package skips them, then fails with "operator torchvision::nms
    does not exist" because it still describes two of them. Declaring these two lets the import finish; the networks,
    state dicts and transforms used here need no compiled operator.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
        import torchvision
    return torchvision
