"""Every network as an entrypoint of torch.hub.

    torch.hub.load(repo, "ResNet50_vd", weights="ResNet50_vd_pretrained.tar")
    torch.hub.load(repo, "ResNet50_vd", weights="ResNet50_vd_pretrained.tar", class_dim=10, exclude=["fc_0"])

`repo` is "OWNER/NAME" on GitHub or, with `source="local"`, a folder. For a GitHub repository, `torch.hub.list(repo)`
lists the networks and `torch.hub.help(repo, name)` describes a network's input.
"""

# torch.hub treats every callable in this module as an entrypoint, so everything else is a module or begins with _.
from __future__ import annotations

import os as _os
import typing as _t

import models as _models

if not _os.path.samefile(_os.path.dirname(_models.__file__), _os.path.join(_os.path.dirname(__file__), "models")):
    raise ImportError(
        f"another package named models, {_models.__file__}, is already imported: load this one in a new process"
    )

from utils import weights as _weights

if _t.TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

dependencies = ["torch", "numpy", "safetensors"]


class _Entrypoint:
    """Builds one network; imports the network's module only when it or its `torch.hub.help` text is requested."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name

    def __call__(
        self, weights: str | _os.PathLike[str] | None = None, exclude: Sequence[str] = (), **options: _t.Any
    ) -> nn.Module:
        model = _models.build(self.__name__, **options)
        if weights is not None:
            _weights.load_pretrained(model, weights, exclude)
        return model

    @property
    def __doc__(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] (made when help asks for it)
        config = _models.input_config(self.__name__)
        size, mean, std = config.image_size, config.mean, config.std
        order = config.channel_order.upper()
        method = ("nearest", "bilinear", "bicubic", "area", "Lanczos")[config.interpolation]
        library = {"cv2": "OpenCV", "pil": "Pillow"}[config.resize_backend]
        geometry = f"a short side of {config.resize_short_size} ({method}, {library}) and the centre crop"
        if config.resize_mode == "crop":
            geometry = f"the middle {size}/{config.resize_short_size} of the short side, resized ({method}, {library})"
        return f"""{self.__name__}, in training mode.

    Its input is float (N, 3, {size}, {size}), {order}: pixels / 255, minus the mean {_numbers(mean)}, divided by the
    standard deviation {_numbers(std)}; evaluated with {geometry}. It
    returns logits (N, class_dim); `forward_features` returns the pooled features.

    Args:
        weights: a file or folder of weights in any format that --pretrained_model takes; None: random.
        exclude: tensors whose PyTorch or published name contains one of these stay random, as for a new classifier.
        **options: for the network's constructor, such as class_dim (1000 by default).

    Raises:
        ValueError: the network cannot be built with these options.
        utils.errors.UserError: the weights cannot be read or do not fit.
    """


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


globals().update({_name: _Entrypoint(_name) for _name in _models.list_models()})
