"""Networks by flags: what a network says of options and images becomes a line on the flag."""

import pytest
import torch
from torch import nn

import models
from models.errors import OptionError
from utils.errors import FlagError
from utils.weights.network import check_model, explained_options, explained_sizes


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (nn.Conv2d(3, 3, 5), (2, 3, 4, 4), "--image_shape: the images are too small for a network"),
        (nn.MaxPool2d(4), (2, 3, 3, 3), "--image_shape: the images are too small for a network"),
        (nn.BatchNorm2d(3), (1, 3, 1, 1), "--batch_size: a batch-norm of a network has a single value per channel"),
    ],
)
def test_sizes_are_explained(network, shape, message):
    """In the words of the PyTorch that is installed."""
    with pytest.raises(FlagError, match=message), explained_sizes("a network"):
        network(torch.zeros(shape))
    with pytest.raises(RuntimeError, match="expected input"), explained_sizes("a network"):
        nn.Conv2d(3, 3, 1)(torch.zeros(1, 4, 5, 5))


def test_options_are_called_as_their_flags():
    message = r"^--image_shape: Swin takes .* a multiple of 32, not 100; try 96$"
    with pytest.raises(FlagError, match=message), explained_options():
        models.build("SwinTransformer_tiny_patch4_window7_224", image_size=100)
    with pytest.raises(FlagError, match=r"^--padding_type: .*'VALID'"), explained_options():
        models.build("EfficientNetB0", padding_type="VALID")


def test_images_are_called_as_their_flag():
    message, name = r"^--image_shape: the network was built for images of 224 x 224", "DeiT_tiny_patch16_224"
    with torch.device("meta"), pytest.raises(FlagError, match=message), explained_sizes(name):
        models.build(name)(torch.empty(1, 3, 64, 64))


def test_unknown_network():
    with pytest.raises(FlagError, match=r"^--teacher_model: unknown network 'ResNet5O': did you mean ResNet50"):
        check_model("ResNet5O", "--teacher_model")
    with pytest.raises(ValueError, match="unknown network 'ResNet5O'"):
        models.build("ResNet5O")


def test_a_library_speaks_of_options():
    with pytest.raises(OptionError, match=r"^image_size: Swin takes"):
        models.build("SwinTransformer_tiny_patch4_window7_224", image_size=100)
