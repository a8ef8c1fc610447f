"""What is special in the networks with branches: auxiliary classifiers, two kinds of upsampling, overridden decay."""

import pickle

import pytest
import torch
from torch import nn

import models
from models.hrnet import upsample
from models.layers import Dropout
from models.names import l2_overrides, paddleclas_names, published_names
from utils.errors import UserError
from utils.weights import load_pretrained

# ---------------------------------------------------------------------------------------- auxiliary classifiers


@pytest.mark.parametrize("size", [64, 224, 256])
def test_googlenet_has_three_logits_in_training_only(size):
    torch.manual_seed(0)
    network = models.GoogLeNet(class_dim=7)
    for layer in network.modules():
        if isinstance(layer, Dropout):
            layer.p = 0.0
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        main, *auxiliary = network.train()(images)
        assert [logits.shape for logits in auxiliary] == [(2, 7), (2, 7)]
        assert torch.equal(network.eval()(images), main)


def test_googlenets_auxiliary_classifiers_see_inner_maps():
    torch.manual_seed(0)
    network = models.GoogLeNet(class_dim=7).train()
    _, first, second = network(torch.randn(2, 3, 64, 64))
    first.sum().backward(retain_graph=True)
    assert network.ince4a.conv1.weight.grad is not None
    assert network.ince4b.conv1.weight.grad is None
    second.sum().backward()
    assert network.ince4d.conv1.weight.grad is not None
    assert network.ince4e.conv1.weight.grad is None


# --------------------------------------------------------------------------------------------------- upsampling


@pytest.mark.parametrize(("short", "long"), [(7, 56), (7, 28), (14, 56), (7, 14), (8, 64), (1, 4), (3, 3), (2, 3)])
def test_aligned_upsampling_rounds_to_the_nearest_position(short, long):
    rows = torch.arange(float(short))
    image = (100 * rows[:, None] + rows)[None, None]
    # Integer arithmetic: round half up of k (short - 1) / (long - 1).
    nearest = [(2 * k * (short - 1) + long - 1) // (2 * (long - 1)) for k in range(long)]
    expected = torch.tensor([[100.0 * row + column for column in nearest] for row in nearest])
    assert torch.equal(upsample(image, torch.Size((long, long)), align_corners=True)[0, 0], expected)


def test_aligned_upsampling_takes_each_side_on_its_own():
    image = torch.randn(2, 3, 2, 5)
    result = upsample(image, torch.Size((2, 20)), align_corners=True)
    assert torch.equal(result[:, :, :, 3], image[:, :, :, 1])
    assert torch.equal(result[:, :, :, 4:8:3], image[:, :, :, [1, 1]])


def test_upsampling_by_two_is_the_same_either_way():
    image = torch.randn(1, 1, 6, 6)
    size = torch.Size((12, 12))
    assert torch.equal(upsample(image, size, align_corners=True), upsample(image, size, align_corners=False))


def test_hrnets_two_forms_share_their_weights_but_not_their_logits():
    torch.manual_seed(0)
    fluid, paddleclas = models.HRNet_W18_C(class_dim=7).eval(), models.HRNet_W18_C_paddleclas(class_dim=7).eval()
    paddleclas.load_state_dict(fluid.state_dict(), strict=True)
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        expected = fluid(images)
        difference = (paddleclas(images) - expected).abs().max() / expected.abs().max()
    assert difference > 1e-3


# Every branch has an odd size at 97: 25, 13, 7 and 4.
@pytest.mark.parametrize("name", ["HRNet_W18_C", "HRNet_W18_C_paddleclas"])
def test_hrnet_takes_images_that_no_branch_divides(name):
    network = models.build(name, class_dim=7).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 97, 97)).shape == (1, 7)


@pytest.mark.parametrize(
    ("names", "loads_in", "not_in"),
    [
        (published_names, "HRNet_W18_C", "HRNet_W18_C_paddleclas"),
        (paddleclas_names, "HRNet_W18_C_paddleclas", "HRNet_W18_C"),
    ],
)
def test_hrnets_weights_load_in_their_publishers_form_only(tmp_path, names, loads_in, not_in):
    network = models.build(loads_in, class_dim=7)
    dictionary = names(network)
    arrays = {dictionary[key]: tensor.numpy() for key, tensor in network.state_dict().items() if key in dictionary}
    arrays[dictionary["fc.weight"]] = arrays[dictionary["fc.weight"]].T
    file = tmp_path / "weights.pdparams"
    file.write_bytes(pickle.dumps(arrays, protocol=2))
    load_pretrained(models.build(loads_in, class_dim=7), file)
    with pytest.raises(UserError, match=f"give model={loads_in}$"):
        load_pretrained(models.build(not_in, class_dim=7), file)


# ------------------------------------------------------------------------------------------------------- others


def test_deeplabs_batch_norms_have_no_l2_decay():
    network = models.Xception41_deeplab(class_dim=7)
    norms = [path for path, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    expected = {f"{path}.{tensor}": 0.0 for path in norms for tensor in ("weight", "bias")}
    assert len(expected) == 168
    assert l2_overrides(network) == expected


def test_names_that_follow_no_pattern():
    fluid = published_names(models.Xception41_deeplab(class_dim=7))
    assert fluid["fc.bias"] == "fc_bias"
    assert fluid["exit_flow.1.2.pointwise.bn.running_var"] == (
        "xception_41/exit_flow/block2/separable_conv3/pointwise/BatchNorm/moving_variance"
    )
    fluid = published_names(models.DarkNet53(class_dim=7))
    assert fluid["stages.0.0.conv.weight"] == "yolo_input.downsample.conv.weights"
    assert fluid["stages.4.0.bn.running_var"] == "stage.3.downsample.bn.var"
    paddleclas = paddleclas_names(models.HRNet_W18_C_paddleclas(class_dim=7))
    assert paddleclas["st4.2.fuse_paths.3.0.2.bn.running_mean"] == (
        "st4.stage_func_list.2.fuse_func.residual_func_list.12.bn._mean"
    )
