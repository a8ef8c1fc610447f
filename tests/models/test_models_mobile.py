"""What is special in the mobile networks: padding, drop connect, MobileNet V3's two forms, shuffles, searched cells."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import models
from models.darts import FactorizedReduce
from models.errors import OptionError
from models.layers import DropPath, SameConv2d, conv2d, hard_sigmoid, make_divisible
from models.mobilenet_v2 import InvertedResidual
from models.mobilevit import MobileViTBlock
from models.names import paddleclas_names, published_names
from models.shufflenet_v2 import interleave
from utils.errors import UserError
from utils.weights import load_pretrained

# ------------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize(
    ("size", "kernel_size", "before", "after"),
    [(8, 3, 0, 1), (9, 3, 1, 1), (8, 5, 1, 2), (9, 5, 2, 2), (1, 3, 1, 1)],
)
def test_same_padding_puts_the_odd_row_of_zeros_at_the_end(size, kernel_size, before, after):
    conv = conv2d(2, 4, kernel_size, 2, padding="same")
    image = torch.randn(1, 2, size, size)
    expected = F.conv2d(F.pad(image, (before, after, before, after)), conv.weight, stride=2)
    assert torch.equal(conv(image), expected)
    assert expected.shape[2] == (size + 1) // 2


def test_same_padding_follows_each_side_of_the_image():
    conv = conv2d(1, 1, 3, 2, padding="same")
    image = torch.randn(1, 1, 8, 9)
    assert torch.equal(conv(image), F.conv2d(F.pad(image, (1, 1, 0, 1)), conv.weight, stride=2))


def efficientnet(**options):
    """B0 whose activations keep their size: with the published initializer they vanish until batch norm has learned."""
    torch.manual_seed(0)
    network = models.EfficientNetB0(class_dim=7, **options).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    return network


def difference(a, b):
    """The largest difference, as a share of the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def test_padding_types_differ_at_even_sizes_only():
    same, dynamic = efficientnet(padding_type="SAME"), efficientnet(padding_type="DYNAMIC")
    assert all(map(torch.equal, same.state_dict().values(), dynamic.state_dict().values()))
    # From 33 on, every convolution of stride 2 sees an odd size: 33, 17, 9, 5, 3.
    odd, even = torch.randn(1, 3, 33, 33), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert difference(same(odd), dynamic(odd)) < 1e-5
        assert difference(same(even), dynamic(even)) > 0.1


def test_padding_type_valid_is_refused():
    with pytest.raises(OptionError, match=r"padding_type.*VALID.*SAME or DYNAMIC"):
        models.EfficientNetB0(padding_type="VALID")


def test_same_padding_is_exported_for_any_batch_and_size():
    network = efficientnet().features[:3]
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(network, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    images = torch.randn(3, 3, 75, 96)
    with torch.no_grad():
        assert difference(exported.module()(images), network(images)) < 1e-5


# -------------------------------------------------------------------------------------------------- drop connect


def test_drop_path_drops_whole_images_and_keeps_the_expectation():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    branch = torch.rand(4000, 2, 3, 3) + 0.5
    dropped = drop(branch)
    kept = dropped.flatten(1).ne(0).any(1)
    assert torch.equal(dropped[~kept], torch.zeros_like(branch[~kept]))
    assert torch.allclose(dropped[kept], branch[kept] / 0.75)
    # 0.75 +- four standard deviations
    assert abs(kept.float().mean().item() - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5
    assert drop.eval()(branch) is branch


def test_drop_connect_grows_with_depth_from_zero():
    rates = [
        layer.p for layer in models.EfficientNetB0(drop_connect_rate=0.32).modules() if isinstance(layer, DropPath)
    ]
    assert rates == pytest.approx([0.02 * block for block in range(16)])


def test_efficientnet_b0_small_is_b0_without_gates():
    small = models.EfficientNetB0_small()
    names = set(published_names(small).values())
    assert names == {name for name in published_names(models.EfficientNetB0()).values() if "_se_" not in name}
    assert not any(isinstance(layer, SameConv2d) for layer in small.modules())


# ------------------------------------------------------------------------------------------------- MobileNet V3


def test_hard_sigmoid_has_the_slope_of_fluid():
    values = hard_sigmoid(torch.tensor([-3.0, -2.5, -1.0, 0.0, 1.0, 2.5, 3.0]))
    assert torch.allclose(values, torch.tensor([0.0, 0.0, 0.3, 0.5, 0.7, 1.0, 1.0]))


def test_make_divisible_loses_at_most_a_tenth():
    assert [make_divisible(width) for width in (1, 5.6, 12, 25.2, 90, 138, 201.6)] == [8, 8, 16, 24, 88, 136, 200]
    assert make_divisible(11) == 16


@pytest.mark.parametrize(
    ("name", "expansion", "shortcut", "widths"),
    [
        ("MobileNetV3_large_x1_0", False, True, [16, 24]),
        ("MobileNetV3_large_x0_75", False, False, [12, 18]),
        ("MobileNetV3_large_x0_75_paddleclas", True, True, [16, 24]),
    ],
)
def test_first_block_of_mobilenet_v3(name, expansion, shortcut, widths):
    network = models.build(name)
    first, second = network.blocks[:2]
    assert ("conv2_expand_weights" in published_names(network).values()) is expansion
    assert first.shortcut is shortcut
    assert [block.linear_conv.conv.out_channels for block in (first, second)] == widths


def test_inverted_residual_adds_its_input():
    block = InvertedResidual(8, 16, 8, 3, 1, torch.nn.ReLU6, ("e", "d", "l")).eval()
    torch.nn.init.zeros_(block.linear_conv.bn.weight)
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(block(x), x)
    block.shortcut = False
    assert torch.equal(block(x), torch.zeros_like(x))


# ------------------------------------------------------------------------------------------------- ShuffleNet V2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_interleave_is_the_channel_shuffle_and_keeps_the_layout(layout):
    left, right = (torch.randn(2, 3, 4, 5).contiguous(memory_format=layout) for _ in range(2))
    shuffled = interleave(left, right)
    assert torch.equal(shuffled, F.channel_shuffle(torch.cat((left, right), 1), 2))
    assert shuffled.is_contiguous(memory_format=layout)


# --------------------------------------------------------------------------------------------------------- DARTS


def test_depthwise_convolutions_are_numbered_apart():
    names = list(published_names(models.DARTS_4M()).values())
    numbered = [int(name.split("_")[-2].split(".")[0]) for name in names if name.startswith("depthwise_conv2d_")]
    assert numbered == list(range(140))
    # conv_1 and conv_2 of the first cell's preprocess0 have names of their own and still take two numbers
    assert "conv2d_2.w_0" in names and "conv2d_3.w_0" not in names and "conv2d_5.w_0" in names


@pytest.mark.parametrize("size", [6, 7])
def test_factorized_reduce_sees_even_and_odd_positions(size):
    reduce = FactorizedReduce(1, 2).eval()
    for conv in (reduce.conv_1, reduce.conv_2):
        torch.nn.init.ones_(conv.weight)
    image = torch.rand(1, 1, size, size)
    even, odd = reduce(image).div(reduce.bn(torch.ones(1, 2, 1, 1)))[0]
    assert torch.allclose(even, image[0, 0, ::2, ::2])
    seen = image[0, 0, 1::2, 1::2]
    assert torch.allclose(odd[: len(seen), : len(seen)], seen)
    assert even.shape == odd.shape


# ------------------------------------------------------------------------------------------------------- aliases


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("EfficientNet", "EfficientNetB0"),
        ("MobileNetV2", "MobileNetV2_x1_0"),
        ("MobileNetV2_ssld", "MobileNetV2_x1_0"),
        ("MobileNetV3_large_x1_0_ssld", "MobileNetV3_large_x1_0"),
        ("MobileNetV3_small_x1_0_ssld", "MobileNetV3_small_x1_0"),
        ("ShuffleNetV2", "ShuffleNetV2_x1_0"),
        ("ShuffleNetV2_swish", "ShuffleNetV2_x1_0_swish"),
    ],
)
def test_aliases(alias, name):
    assert getattr(models, alias) is getattr(models, name)


def test_paddleclas_paths_are_one_to_one():
    for name in ("MobileNetV2", "MobileNetV3_small_x1_0_paddleclas", "ShuffleNetV2_x1_0", "EfficientNetB0"):
        names = paddleclas_names(models.build(name))
        assert len(set(names.values())) == len(names)


# Millions of parameters in the authors' tables.
@pytest.mark.parametrize(("letter", "millions"), [("A", 6.19), ("B", 3.73), ("C", 2.46), ("D", 2.34), ("E", 2.04)])
def test_tinynets_recipe_has_the_authors_depth(letter, millions):
    with torch.device("meta"):
        model, deeper = models.build(f"TinyNet_{letter}_recipe"), models.build(f"TinyNet_{letter}")
    count, more = (sum(parameter.numel() for parameter in network.parameters()) for network in (model, deeper))
    assert count / 1e6 == pytest.approx(millions, abs=0.005)
    assert more > count
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert {(layer.eps, round(layer.momentum, 6)) for layer in norms} == {(1e-5, 0.1)}


def test_weights_of_tinynets_recipe_name_it(tmp_path):
    source = models.build("TinyNet_E_recipe")
    names = paddleclas_names(source)
    save_file({names[key]: value for key, value in source.state_dict().items() if key in names}, tmp_path / "x")
    with pytest.raises(UserError, match=r"they fit TinyNet_E_recipe$"):
        load_pretrained(models.build("TinyNet_E"), tmp_path / "x")


def test_only_the_first_mobilevit_takes_bgr():
    """Only the input determines the order: no network swaps channels."""
    for name, order in (("MobileViT_XXS", "bgr"), ("MobileViTV3_XXS", "rgb"), ("MobileViTV2_x0_5", "rgb")):
        assert models.input_config(name).channel_order == order
    images = torch.rand(1, 3, 64, 64)
    seen = []
    model = models.build("MobileViT_XXS").eval()
    model.conv_1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.forward_features(images)
    assert torch.equal(seen[0], images)


@pytest.mark.parametrize(("third", "expected"), [(True, "bilinear"), (False, "nearest")])
def test_mobilevit_resizes_maps_of_half_patches(third, expected, monkeypatch):
    """As in PaddleClas, which trains MobileViT V3 at 160, 224 and 288; its logits there equal ours to 1e-5."""
    resized = []
    whole = F.interpolate

    def noted(x, size, mode):
        resized.append((size, mode))
        return whole(x, size, mode=mode)

    monkeypatch.setattr(F, "interpolate", noted)
    block = MobileViTBlock(8, 4, 1, third=third, dropout=0.0).eval()
    with torch.no_grad():
        assert block(torch.rand(1, 8, 5, 6)).shape == (1, 8, 5, 6)
        block(torch.rand(1, 8, 4, 6))
    assert resized == [((6, 6), "bilinear"), ((5, 6), expected)]
