"""The base class of all networks, and the descriptions that a network gives of itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from models.errors import OptionError

AnyModule = TypeVar("AnyModule", bound=nn.Module)

# A module, or another function of a feature map.
Layer = Callable[[Tensor], Tensor]

NOTHING = "(?!)"  # a pattern that matches no name

# Stride of the finest feature map for detection and segmentation.
FINEST_STRIDE = 4


class Stage(NamedTuple):
    """Describes a stage's map: (N, channels, H / stride, W / stride)."""

    stride: int
    channels: int


def shapes_only(model: AnyModule) -> AnyModule:
    """A copy of a network on the meta device: its tensors have shapes, but no values and no memory."""
    ghosts: dict[int, Any] = {}
    for parameter in model.parameters():
        ghost = torch.empty_like(parameter, device="meta")
        ghosts[id(parameter)] = nn.Parameter(ghost, parameter.requires_grad)
    for buffer in model.buffers():
        ghosts[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, ghosts)


class Network(nn.Module):
    """A network that classifies images.

    The weight readers (utils/weights) learn from it what its published files look like, and users get its features.
    These defaults hold unless a network overrides them.

    Attributes:
        paddleclas_computed: pattern of names in PaddleClas's files whose values the network computes itself.
        auxiliary_weights: pattern of names in PyTorch's files of layers that only training needs, and that the network
            lacks here.
        new_parts: pattern of state-dict keys that a file may lack and that are then initialized: a foundation model's
            classifier.
        paddleclas_dropout: the dropout convention that PaddleClas's weights need, if it differs from the network's
            `Dropout` layers.
        forms: by publisher ("fluid", "PaddleClas"), the name of the network for its weights, if names and shapes of the
            tensors are the same.
        published_by: the publisher of this form; "" if `forms` is empty.
        image_size: height and width of its images, if it takes only one size; otherwise the size with which
            `describe_stages` measures.
    """

    paddleclas_computed: ClassVar[str] = NOTHING
    auxiliary_weights: ClassVar[str] = NOTHING
    new_parts: ClassVar[str] = NOTHING
    paddleclas_dropout: ClassVar[str | None] = None
    forms: Mapping[str, str] = {}
    published_by: str = ""
    image_size: int = 224

    # ------------------------------------------------------------------------------------------ what it calculates

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, 3, H, W) -> logits (N, class_dim); in training, auxiliary classifiers may add theirs."""
        raise NotImplementedError

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the vector that the classifier sees, (N, C)."""
        return self.forward_trunk(images).mean((2, 3))

    def trunk(self) -> Sequence[Layer]:
        """The layers from the images to the last feature map, in order."""
        raise NotImplementedError

    def layer_maps(self, images: Tensor) -> Iterator[Tensor]:
        """The output of each layer of the trunk, (N, C, h, w)."""
        x = images
        for layer in self.trunk():
            x = layer(x)
            yield x

    def forward_trunk(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the last feature map, (N, C, h, w)."""
        x = images
        for x in self.layer_maps(images):  # noqa: B007 (the last one counts)
            pass
        return x

    def stage_maps(self, images: Tensor) -> Iterable[Tensor]:
        """The maps before each reduction in the trunk, and the last map; the images may be among them."""
        x = images
        for y in self.layer_maps(images):
            if round(x.shape[2] / y.shape[2]) > 1:
                yield x
            x = y
        yield x

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """The last map of each stage from stride 4 on, finest first, for detection and segmentation.

        Usually there are four, with strides 4, 8, 16 and 32; a transformer without a pyramid has one. The images must
        be large enough for every stage to halve.

        Args:
            images: (N, 3, H, W).

        Returns:
            Maps (N, channels, H / stride, W / stride); `describe_stages` returns channels and strides.
        """
        return [x for _, x in self._strided_maps(images)]

    def _strided_maps(self, images: Tensor) -> list[tuple[int, Tensor]]:
        """The maps of `forward_stages` with their nominal strides; unpadded layers lose a few more positions."""
        stride, size, maps = 1, images.shape[2], []
        for x in self.stage_maps(images):
            stride *= round(size / x.shape[2])
            size = x.shape[2]
            if stride >= FINEST_STRIDE:
                maps.append((stride, x))
        return maps

    def describe_stages(self) -> tuple[Stage, ...]:
        """Stride and channels of each map of `forward_stages`, measured by computing shapes only."""
        with torch.no_grad():
            images = torch.empty(1, 3, self.image_size, self.image_size, device="meta")
            maps = shapes_only(self).eval()._strided_maps(images)
        return tuple(Stage(stride, x.shape[1]) for stride, x in maps)

    # --------------------------------------------------------------------------------------- how it is finetuned

    def layer_numbers(self) -> dict[str, int]:
        """Parameters -> the number of their layer, counted from the images; the classifier has the largest number.

        Raises:
            OptionError: the network does not define the order of its layers.
        """
        raise OptionError("layer_decay", f"{type(self).__name__} does not number its layers: leave the flag out")

    def stem_and_stages(self) -> tuple[tuple[str, ...], ...]:
        """Prefixes of the parameter names of the stem and of each stage.

        Raises:
            OptionError: the network does not define its stages.
        """
        raise OptionError("lr_mult", f"{type(self).__name__} has no stages with their own learning rates")

    # ------------------------------------------------------------------------------------------ what its files hold

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path of the layer at `path`."""
        return path

    def caffe_layer(self, path: str) -> str:
        """Caffe's layer at `path`: a convolution, a batch norm or a linear layer.

        Raises:
            ValueError: the network was never published for Caffe.
        """
        raise ValueError(f"{type(self).__name__} has no names in Caffe: {path}")

    def adapt_tensor(self, key: str, tensor: Tensor) -> Tensor:
        """Interpolates a file's tensor for this network's image size, if possible; otherwise returns it unchanged.

        Args:
            key: the network's own tensor, which has another shape.
            tensor: the file's tensor.
        """
        return tensor


def main_output(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The main classifier's logits, for a network that may have auxiliary classifiers."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]
