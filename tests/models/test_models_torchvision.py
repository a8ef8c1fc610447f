"""Networks that torchvision has too: its state dicts load strictly and give the same logits."""

import pytest
from torch import nn
from torchvision_networks import error_of_logits, torchvision_network

import models
from models.layers import UPSCALE_IN_TRAIN, Dropout

# our name, torchvision's, options of ours
PAIRS = (
    ("DenseNet121", "densenet121", {}),
    ("DenseNet161", "densenet161", {}),
    ("DenseNet169", "densenet169", {}),
    ("DenseNet201", "densenet201", {}),
    ("EfficientNetB0", "efficientnet_b0", {"padding_type": "DYNAMIC"}),
    ("EfficientNetB5", "efficientnet_b5", {"padding_type": "DYNAMIC"}),
    ("RegNetX_800MF", "regnet_x_800mf", {}),
    ("RegNetX_1600MF", "regnet_x_1_6gf", {}),
    ("RegNetX_8GF", "regnet_x_8gf", {}),
    ("ResNet50", "resnet50", {}),
    ("ResNet101", "resnet101", {}),
    ("ResNet152", "resnet152", {}),
    ("ResNeXt50_32x4d", "resnext50_32x4d", {}),
    ("ResNeXt101_64x4d", "resnext101_64x4d", {}),
    ("ResNeXt101_32x8d_wsl", "resnext101_32x8d", {}),
    ("ShuffleNetV2_x0_5", "shufflenet_v2_x0_5", {}),
    ("ShuffleNetV2_x1_0", "shufflenet_v2_x1_0", {}),
    ("ShuffleNetV2_x1_5", "shufflenet_v2_x1_5", {}),
    ("ShuffleNetV2_x2_0_paddleclas", "shufflenet_v2_x2_0", {}),
)

# torchvision's epsilon where it is not the published one
EPSILONS = {"EfficientNetB0": 1e-5}


@pytest.mark.parametrize(("name", "theirs_name", "options"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_state_dict_and_logits_are_torchvisions(name, theirs_name, options):
    theirs = torchvision_network(theirs_name)
    ours = models.build(name, **options).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if name in EPSILONS:
        for layer in ours.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = EPSILONS[name]
    assert error_of_logits(ours, theirs) < 1e-5


@pytest.mark.parametrize("version", ["1_0", "1_1"])
def test_squeezenet_differs_from_torchvisions_in_rounding_only(version):
    theirs = torchvision_network(f"squeezenet{version}")
    ours = models.build(f"SqueezeNet{version}").eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert error_of_logits(ours, theirs) > 1e-3
    ours.features[0].padding = (0, 0)
    for layer in ours.modules():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
        if isinstance(layer, Dropout):
            layer.mode = UPSCALE_IN_TRAIN
    assert error_of_logits(ours, theirs) < 1e-5


def test_inception_v3_differs_from_torchvisions_in_epsilon_and_dropout_only():
    theirs = torchvision_network("inception_v3", aux_logits=False, init_weights=False)
    ours = models.InceptionV3().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert error_of_logits(ours, theirs, 96) > 1e-3
    ours.dropout.mode = UPSCALE_IN_TRAIN
    for layer in ours.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
    assert error_of_logits(ours, theirs, 96) < 1e-5


def test_efficientnet_v2_differs_from_torchvisions_in_padding_only():
    theirs = torchvision_network("efficientnet_v2_s")
    ours = models.EfficientNetV2_S().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert error_of_logits(ours, theirs, 64) > 1e-3
    # With 65, 33, 17, 9 and 5 positions both pad alike.
    assert error_of_logits(ours, theirs, 65) < 1e-5
