"""Convolutions fused with the operations after them, only where allowed, with the same logits."""

from __future__ import annotations

import io

import pytest
import torch
from exports import images
from torch import fx, nn
from torch.nn import functional as F

from utils.deploy.comparing import export_program, relative_difference
from utils.deploy.fast import make_fast
from utils.deploy.onednn import can_fuse, fuse_convolutions
from utils.deploy.program_graph import build_graph
from utils.formats.torch_program import read_program


class Residuals(nn.Module):
    """Sums that may, and sums that must not, overwrite an operand."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(8))
        self.stem = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        conv = self.convs
        x = F.relu(self.stem(x))
        a = F.relu(conv[0](x) + x)  # x is not used again
        b = conv[1](a) + a  # a is
        c = F.relu_(conv[2](b)) + a.flatten(1).view_as(b)  # this convolution has its own activation
        view = c.permute(0, 1, 3, 2)
        d = conv[3](c) + c  # c lives on in a view
        e = F.silu(conv[4](d) + d) + view
        f = conv[5](e)
        f += e.mean((2, 3), keepdim=True)  # another shape
        g = conv[6](f) + conv[7](f)  # two convolutions
        g += f
        return torch.cat([g.mean((2, 3)), d.amax((2, 3))], 1)


def operators_once_fused(model: nn.Module) -> list[str]:
    """The operators in a network's graph after fusion, which must not change the logits."""
    from utils.deploy.export import _take_weights

    model.eval().requires_grad_(False)
    program = export_program(model, images(2, 16))
    file = io.BytesIO()
    weights = _take_weights(program)
    torch.export.save(program, file)
    described, _ = read_program(file)
    module = build_graph(described, weights, torch.device("cpu"))
    plain = build_graph(described, weights, torch.device("cpu"))
    fuse_convolutions(module, 2)
    with torch.inference_mode():
        expected = model(images(3, 16))
        channels_last = images(3, 16).to(memory_format=torch.channels_last)
        assert relative_difference(plain(images(3, 16)), expected) < 1e-6
        assert relative_difference(module(images(3, 16)), expected) < 1e-5
        assert relative_difference(module(channels_last), expected) < 1e-5
    return [str(node.target) for node in module.graph.nodes if node.op == "call_function"]


needs_fusion = pytest.mark.skipif(not can_fuse(torch.float32), reason="this PyTorch has no oneDNN operators")


@needs_fusion
def test_fused_sums_do_not_overwrite_what_is_still_needed():
    torch.manual_seed(1)
    operators = operators_once_fused(Residuals())
    assert "aten.conv2d.default" not in operators
    assert "mkldnn._convolution_pointwise_.binary" in operators
    assert "mkldnn._convolution_pointwise.binary" in operators


class Padded(nn.Module):
    """Padding, given as F.pad's arguments, before a convolution without padding."""

    def __init__(self, groups: int, *padding):
        super().__init__()
        self.padding = padding
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 5, stride=2, groups=groups)

    def forward(self, x):
        return self.conv(F.pad(F.silu(self.stem(x)), *self.padding)).flatten(1)


@needs_fusion
@pytest.mark.parametrize(
    ("groups", "padding", "is_absorbed"),
    [
        (8, ((1, 2, 1, 2),), True),
        (8, ((0, 3, 1, 1),), True),
        (8, ((2, 1, 1, 2),), False),  # more before than after
        (8, ((1, 2, -1, 2),), False),
        (8, ((1, 2, 1, 2), "constant", 1.0), False),
        (8, ((1, 2, 1, 2), "reflect"), False),
        (1, ((1, 2, 1, 2),), False),  # more zeros in the kernel would take longer than the copy
    ],
)
def test_padding_goes_into_depthwise_convolutions(groups, padding, is_absorbed):
    torch.manual_seed(1)
    operators = operators_once_fused(Padded(groups, *padding))
    assert ("aten.pad.default" not in operators) == is_absorbed


def test_weights_are_aligned():
    """oneDNN's kernels for processors without AVX crash on an unaligned bias, which a mapped file may have."""
    root, graph = nn.Module(), fx.Graph()
    bias = torch.arange(9.0)[1:]
    assert bias.data_ptr() % 16
    root.register_buffer("bias", bias)
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.add, (x, graph.get_attr("bias"))))
    module = fx.GraphModule(root, graph)
    run = make_fast(module, torch.device("cpu"), torch.float32, 1, False, "Small")
    assert module.bias.data_ptr() % 16 == 0
    torch.testing.assert_close(run(torch.ones(8)), bias + 1)
