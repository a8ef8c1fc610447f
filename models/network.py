"""What every network is, and what it may tell about itself."""

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

# Of the maps that detection and segmentation work on, the finest has this stride.
FINEST_STRIDE = 4


class Stage(NamedTuple):
    """What there is to know of a stage's map: (N, channels, H / stride, W / stride)."""

    stride: int
    channels: int


def shapes_only(model: AnyModule) -> AnyModule:
    """A copy of a network on the meta device: its tensors have shapes, and neither values nor memory."""
    ghosts: dict[int, Any] = {}
    for parameter in model.parameters():
        ghost = torch.empty_like(parameter, device="meta")
        ghosts[id(parameter)] = nn.Parameter(ghost, parameter.requires_grad)
    for buffer in model.buffers():
        ghosts[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, ghosts)


class Network(nn.Module):
    """A network that classifies images.

    The weight readers (utils/weights) ask it what its published files look like, and users for its features; what is
    said here holds where a network says nothing else.

    Attributes:
        paddleclas_computed: pattern of names that PaddleClas's files hold and the network computes.
        auxiliary_weights: pattern of names of layers that PyTorch's files hold, that only training needs, and that are
            left out here.
        new_parts: pattern of state-dict keys that a file may lack, and that then start anew: a foundation model's
            classifier.
        paddleclas_dropout: the convention of dropout that PaddleClas's weights are right under, where it is not that of
            the network's `Dropout` layers.
        forms: by publisher ("fluid", "PaddleClas"), the name of the network that its weights are right in, where names
            and shapes of the tensors do not tell.
        published_by: the publisher of this form; "" where `forms` is empty.
        image_size: height and width of the images it was built for, if it takes no others; otherwise, those that
            `describe_stages` measures with.
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
        """(N, 3, H, W) -> logits (N, class_dim); in training, side classifiers may add theirs."""
        raise NotImplementedError

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the vector that the classifier sees, (N, C)."""
        return self.forward_trunk(images).mean((2, 3))

    def trunk(self) -> Sequence[Layer]:
        """The layers that lead from the images to the last feature map, one after another."""
        raise NotImplementedError

    def layer_maps(self, images: Tensor) -> Iterator[Tensor]:
        """What each layer of the trunk makes of the images, (N, C, h, w)."""
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
        """The maps that a layer of the trunk is about to make smaller, and the last; the images may be among them."""
        x = images
        for y in self.layer_maps(images):
            if round(x.shape[2] / y.shape[2]) > 1:
                yield x
            x = y
        yield x

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """The last map of each stage from a stride of 4, finest first, for detection and segmentation.

        As a rule there are four, of strides 4, 8, 16 and 32; a transformer without a pyramid has one. The images have
        to be large enough to be halved by every stage.

        Args:
            images: (N, 3, H, W).

        Returns:
            Maps (N, channels, H / stride, W / stride); `describe_stages` has channels and strides.
        """
        return [x for _, x in self._strided_maps(images)]

    def _strided_maps(self, images: Tensor) -> list[tuple[int, Tensor]]:
        """The maps of `forward_stages`, each with its nominal stride: unpadded layers lose a few more positions."""
        stride, size, maps = 1, images.shape[2], []
        for x in self.stage_maps(images):
            stride *= round(size / x.shape[2])
            size = x.shape[2]
            if stride >= FINEST_STRIDE:
                maps.append((stride, x))
        return maps

    def describe_stages(self) -> tuple[Stage, ...]:
        """Stride and channels of each map of `forward_stages`. They are measured; only shapes are calculated."""
        with torch.no_grad():
            images = torch.empty(1, 3, self.image_size, self.image_size, device="meta")
            maps = shapes_only(self).eval()._strided_maps(images)
        return tuple(Stage(stride, x.shape[1]) for stride, x in maps)

    # --------------------------------------------------------------------------------------- how it is finetuned

    def layer_numbers(self) -> dict[str, int]:
        """Parameters -> the layer they are in, counted from the images on; the classifier's number is the largest.

        Raises:
            OptionError: the network does not say which layers follow one another.
        """
        raise OptionError("layer_decay", f"{type(self).__name__} does not count its layers: leave the flag out")

    def stem_and_stages(self) -> tuple[tuple[str, ...], ...]:
        """What the names of the parameters of the stem, and of each stage, begin with.

        Raises:
            OptionError: the network does not say which parameters are of a stage.
        """
        raise OptionError("lr_mult", f"{type(self).__name__} has no stages that learn at rates of their own")

    # ------------------------------------------------------------------------------------------ what its files hold

    def paddleclas_path(self, path: str) -> str:
        """PaddleClas's path of the layer at `path`."""
        return path

    def caffe_layer(self, path: str) -> str:
        """Caffe's layer at `path`: a convolution, a batch-norm or a linear layer.

        Raises:
            ValueError: the network was never published for Caffe.
        """
        raise ValueError(f"{type(self).__name__} has no names in Caffe: {path}")

    def adapt_tensor(self, key: str, tensor: Tensor) -> Tensor:
        """A tensor of a file as this network's image size would have it, where that can be; else as it is.

        Args:
            key: the network's own tensor, which differs in shape.
            tensor: the file's.
        """
        return tensor


def main_output(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The main classifier's logits, of a network that may have side classifiers."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]
