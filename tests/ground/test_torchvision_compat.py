"""torchvision imports, whatever build of torch stands beside it."""

import torch

from utils.torchvision_compat import import_torchvision


def test_networks_work_without_the_compiled_operators():
    torchvision = import_torchvision()
    assert import_torchvision() is torchvision
    network = torchvision.models.resnet18(weights=None).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
