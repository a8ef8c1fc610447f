"""The networks of torchvision, to compare ours with."""

import torch
from torch import nn

from utils.torchvision_compat import import_torchvision


def torchvision_network(name, **options):
    """torchvision's network in evaluation, with random statistics and affine parameters of batch norms."""
    torch.manual_seed(0)
    network = getattr(import_torchvision().models, name)(weights=None, **options).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # Fresh statistics and weights would hide a batch norm taken for another.
            for tensor in (layer.weight, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (layer.bias, layer.running_mean):
                nn.init.uniform_(tensor, -0.1, 0.1)
    return network


def error_of_logits(ours, theirs, size=64):
    """The largest difference, as a share of the largest logit."""
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = theirs(images)
        return (ours(images) - expected).abs().max() / expected.abs().max()
