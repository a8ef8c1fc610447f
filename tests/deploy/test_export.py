"""Exported networks: their logits equal the network's; the form of the files; folding."""

from __future__ import annotations

import inspect
import io
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exports import build, describe, export_tiny, images, smallest_network, with_fitting_statistics
from shortening import shortened
from torch import nn

import models
from utils.deploy import exported
from utils.deploy.comparing import export_program, relative_difference
from utils.deploy.export import fold_batch_norms, save_inference
from utils.errors import UserError

REPOSITORY = Path(__file__).parents[2]
BAR = 1e-4

# Each family's first network is exported, or the faster one named here, at a small size.
MEMBERS = {
    "mobilenet_v1": "MobileNetV1_x0_25",
    "mobilenet_v3": "MobileNetV3_small_x0_35",
    "shufflenet_v2": "ShuffleNetV2_x0_25",
    "squeezenet": "SqueezeNet1_1",
    "foundation_vit": "MOCOV3_vit_small",
}
# Modules without classes of their own: their networks use other modules' classes.
WITHOUT_CODE = {
    "fast_imagenet",
    "res2net_vd",
    "resnet_vc",
    "resnet_vd",
    "resnext_vd",
    "se_hrnet",
    "se_resnext",
    "se_resnext_vd",
    "tinynet",
    "wide_resnet",
}
SIZES = {
    "CSWinTransformer_tiny_224": 112,
    "GoogLeNet": 224,
    "InceptionV3": 139,
    "alt_gvt_small": 224,
}
# Families whose smallest networks are too large for every run of the suite.
HUGE_FAMILIES = {"resnext_wsl", "senet_vd"}
# Families of plain convolutional networks whose operators others cover: exported only with --all.
LIKE_OTHERS = {
    "alexnet",
    "darknet",
    "darts",
    "dla",
    "dpn",
    "hardnet",
    "inception_resnet_v2",
    "inception_v4",
    "mobilenet_v2",
    "mobilenext",
    "peleenet",
    "res2net",
    "resnet_acnet",
    "resnet_v2",
    "resnext",
    "rexnet",
    "se_resnet_vd",
    "vgg",
    "xception_deeplab",
}
# Constructor arguments for fewer layers than the smallest published network, whose layers are densely connected.
FEWER_LAYERS = {"DenseNet121": (32, (2, 2, 2, 2), 64)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small network exported: its folder and the network."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, export_tiny(folder)


# ------------------------------------------------------------------------------------------------- same logits

# Runs without models/: exported networks are read and run in one process, which is slow to start.
RELOAD = """
import sys, torch
from utils.deploy.exported import load_exported
assert "models" not in sys.modules
cases = torch.load(sys.argv[1], weights_only=True)
for network, (model_file, images, expected) in cases.items():
    logits = load_exported(model_file)(images)
    difference = ((logits - expected).abs().max() / expected.abs().max()).item()
    print(network, difference)
assert "models" not in sys.modules
"""


def check_in_a_fresh_process(
    networks: dict[str, int], tmp_path: Path, inference_format: str = "torch", whole: bool = True
) -> None:
    cases = {}
    for network, size in networks.items():
        model = build(network, size) if whole else build_short(network, size)
        model_file = save_inference(model, describe(network, size), tmp_path / network, inference_format)
        with torch.inference_mode():
            # Another number of images than the two of the export.
            cases[network] = str(model_file), images(3, size), model(images(3, size)).clone()
    torch.save(cases, tmp_path / "cases.pt")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(REPOSITORY / "utils", elsewhere / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", RELOAD, str(tmp_path / "cases.pt")]
    run = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    differences = dict(line.split() for line in run.stdout.splitlines())
    assert differences.keys() == networks.keys()
    assert {network: d for network, d in differences.items() if not float(d) < BAR} == {}


def build_short(network: str, size: int) -> nn.Module:
    """A network with the fewest layers that contain everything it does."""
    if network in FEWER_LAYERS:
        constructor = getattr(models, network).func
        return with_fitting_statistics(constructor(*FEWER_LAYERS[network], class_dim=10), size)
    return shortened(build(network, size), images(2, size))


def size_of(network: str) -> int:
    """A small image size, or the network's own if it takes no other."""
    if "image_size" in inspect.signature(getattr(models, network)).parameters:
        return models.input_config(network).image_size
    return SIZES.get(network, 64)


def in_groups(networks: list[str], size: int = 12) -> pytest.MarkDecorator:
    """Runs a test on several networks at a time, as each alone would need an import of PyTorch in a new process."""
    groups = [networks[n : n + size] for n in range(0, len(networks), size)]
    return pytest.mark.parametrize("networks", groups, ids=[f"{group[0]}-{group[-1]}" for group in groups])


def members(families: set[str]) -> list[str]:
    return [MEMBERS.get(family, names[0]) for family, names in models.FAMILIES.items() if family in families]


@in_groups(members(models.FAMILIES.keys() - HUGE_FAMILIES - WITHOUT_CODE - LIKE_OTHERS))
def test_exported_networks_give_the_same_logits_without_models(networks, tmp_path):
    check_in_a_fresh_process({network: size_of(network) for network in networks}, tmp_path, whole=False)


@pytest.mark.full
@pytest.mark.parametrize("inference_format", ["torch", "onnx"])
@in_groups(models.list_models())
def test_every_network_gives_the_same_logits_when_exported(networks, inference_format, tmp_path):
    if inference_format == "onnx":
        pytest.importorskip("onnxruntime")
    sizes = {network: models.input_config(network).image_size for network in networks}
    check_in_a_fresh_process(sizes, tmp_path, inference_format)


def test_onnx_models_give_the_same_logits(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    networks = ("MobileNetV3_small_x0_35", "ResNet18_vd", "EfficientNetB0")
    check_in_a_fresh_process(dict.fromkeys(networks, 64), tmp_path, "onnx", whole=False)


# ------------------------------------------------------------------------------------------------------- files


def test_the_model_file_holds_no_weights_and_no_paths(tiny):
    folder, model = tiny
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (folder / "model").stat().st_size < parameters
    with zipfile.ZipFile(folder / "model") as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    assert all(len(data) <= 8 for name, data in members.items() if name.startswith("data/weights/weight_"))
    text = b"".join(members.values())
    for secret in (str(REPOSITORY), "site-packages", "models/", os.path.expanduser("~")):
        assert secret.encode() not in text
    assert (folder / "params").stat().st_size > 4 * parameters * 0.9


def test_torch_reads_the_program(tiny):
    from safetensors.torch import load_file

    folder, model = tiny
    program = torch.export.load(io.BytesIO((folder / "model").read_bytes()))
    weights = load_file(folder / "params")
    program.state_dict.update({name: nn.Parameter(weights[name]) for name in program.state_dict})
    with torch.inference_mode():
        assert relative_difference(program.module()(images(3, 64)), model(images(3, 64))) < 1e-5


@pytest.mark.parametrize("inference_format", ["torch", "onnx"])
def test_what_is_not_exact_is_not_exported_and_replaces_nothing(tmp_path, inference_format):
    if inference_format == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    model, description = smallest_network(), describe("Smallest", 64)
    weight = model.fc.weight[0, 0].clone()
    for good in (False, True):  # into a new folder, and over an export
        if good:
            save_inference(model, description, tmp_path / "net", inference_format)
        before = {path.name: path.read_bytes() for path in tmp_path.glob("net/*")}
        model.fc.weight[0, 0] = torch.nan
        with pytest.raises(UserError, match=r"Smallest was not written.*differ.*finite"):
            save_inference(model, description, tmp_path / "net", inference_format)
        model.fc.weight[0, 0] = weight
        assert {path.name: path.read_bytes() for path in tmp_path.glob("net/*")} == before
        assert [path.name for path in tmp_path.iterdir()] == ["net"] * good


def test_what_its_engine_cannot_run_is_not_exported(tmp_path, monkeypatch):
    def fail(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel for an operator")

    monkeypatch.setattr(
        "utils.deploy.export.load_exported", lambda file: replace(exported.load_exported(file), run=fail)
    )
    with pytest.raises(UserError, match=r"no kernel for an operator; nothing was written to .*: take another --inf"):
        save_inference(smallest_network(), describe("Smallest", 64), tmp_path / "net")
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        save_inference(smallest_network(), describe("Smallest", 64), tmp_path / "file")


# ----------------------------------------------------------------------------------------------------- folding


def batch_norm_nodes(model: nn.Module, size: int) -> int:
    program = export_program(model, images(2, size))
    return len(program.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default))


def test_every_batch_norm_of_a_resnet_is_folded():
    model = build("ResNet18")
    folded = fold_batch_norms(model, images(2, 64))
    assert batch_norm_nodes(model, 64) == 21
    assert batch_norm_nodes(folded, 64) == 0
    with torch.inference_mode():
        assert relative_difference(folded(images(3, 64)), model(images(3, 64))) < 1e-5
    # The network itself is left as it was.
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_acnet_is_exported_in_its_deploy_form():
    model = build("ResNet18_ACNet")
    folded = fold_batch_norms(model, images(2, 64))
    convolutions = [module for module in folded.modules() if isinstance(module, nn.Conv2d)]
    deployed = models.build("ResNet18_ACNet", deploy=True)
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d) for module in deployed.modules())
    assert batch_norm_nodes(folded, 64) == 0


class Unfoldable(nn.Module):
    """Batch norms that must not be folded: the convolution's result is used elsewhere, or the convolution twice."""

    def __init__(self):
        super().__init__()
        self.branch, self.shared, self.plain = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.bn1, self.bn2, self.bn3, self.bn4 = (nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x):
        y = self.branch(x)
        y = y + self.bn1(y)
        z = self.bn2(self.shared(y)) + self.bn3(self.shared(x))
        return self.bn4(self.plain(z)).mean((2, 3))


def test_only_what_can_be_folded_is():
    torch.manual_seed(0)
    model = Unfoldable().eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    folded = fold_batch_norms(model, images(2, 16))
    kept = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert kept == ["bn1", "bn2", "bn3"]
    with torch.inference_mode():
        assert relative_difference(folded(images(3, 16)), model(images(3, 16))) < 1e-5
