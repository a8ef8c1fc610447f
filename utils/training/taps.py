"""Captures outputs of a network's inner layers."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models.names import paddleclas_names
from models.network import Network

# Global average pooling of the last map; a separate layer in PaddleClas's networks.
POOLED = "avg_pool"


class LayerError(ValueError):
    """A layer does not exist, or its output cannot be used."""


def last_layer(model: Network) -> str:
    """The path of the layer with the last feature map.

    Raises:
        LayerError: the network does not declare one.
    """
    try:
        layer = model.trunk()[-1]
    except NotImplementedError:
        layer = None
    path = next((path for path, module in model.named_modules() if module is layer), None)
    if path is None:
        raise LayerError(f"{type(model).__name__} has no separate layer for the last feature map: name a layer")
    return path


def find_layer(model: Network, name: str) -> nn.Module:
    """A layer by its path in the network, `layer4.1`, or in PaddleClas's network of the same name, `blocks[7]`.

    Raises:
        LayerError: there is none.
    """
    modules = dict(model.named_modules())
    if name in modules:
        return modules[name]
    prefix = re.sub(r"\[(\d+)\]", r".\1", name) + "."
    names = paddleclas_names(model)
    wanted = {key for key, published in names.items() if published.startswith(prefix)}
    for path, module in modules.items():
        if wanted and path and wanted == {key for key in names if key.startswith(f"{path}.")}:
            return module
    near = difflib.get_close_matches(name, modules, 1)
    hint = (
        f"did you mean {near[0]}?" if near else f"choose from {', '.join(path for path, _ in model.named_children())}"
    )
    raise LayerError(f"{type(model).__name__} has no layer {name!r}: {hint}")


class Taps:
    """Captures the outputs of a network's layers.

    Args:
        model: the network.
    """

    def __init__(self, model: Network) -> None:
        self._model = model
        self._watched: set[str] = set()
        self._caught: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._listening = self._measuring = False

    def catch(self, names: Iterable[str]) -> None:
        """Captures these layers too.

        Args:
            names: as `find_layer` takes them, or `POOLED`.

        Raises:
            LayerError: there is no such layer.
        """
        for name in names:
            if name not in self._watched:
                self._watched.add(name)
                self._catch(find_layer(self._model, last_layer(self._model) if name == POOLED else name), name)

    def _catch(self, layer: nn.Module, name: str) -> None:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if not self._listening:
                return
            if self._measuring:
                if not isinstance(output, Tensor) or (name == POOLED and output.dim() != 4):
                    raise LayerError(f"layer {name} of {type(self._model).__name__} does not return a feature map")
                self._versions[name] = output._version
            self._caught[name] = output.mean((2, 3), keepdim=True) if name == POOLED else output

        layer.register_forward_hook(keep)

    @contextlib.contextmanager
    def listening(self) -> Iterator[dict[str, Tensor]]:
        """Captures, within the block, the last output of each layer, by the layer's name."""
        self._caught.clear()
        self._listening = True
        try:
            yield self._caught
        finally:
            self._listening = False

    def output_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """Layer -> the shape of its output for one image of that size.

        Raises:
            LayerError: a layer returns no tensor or is not used, or its output is overwritten later.
        """
        model, training = self._model, self._model.training
        like = next(model.parameters())
        model.eval()
        self._measuring = True
        try:
            with torch.no_grad(), self.listening() as caught:
                model.forward(like.new_zeros(1, 3, height, width))  # not a compiled one
            shapes = {name: tuple(output.shape) for name, output in caught.items()}
            written = [
                name for name, output in caught.items() if name != POOLED and output._version != self._versions[name]
            ]
        finally:
            self._measuring = False
            self._caught.clear()
            model.train(training)
        if missing := self._watched - shapes.keys():
            raise LayerError(f"layer {min(missing)} of {type(model).__name__} is not used")
        if written:
            raise LayerError(f"the next layer overwrites the output of {written[0]}: give --with_inplace=False")
        return shapes
