"""Exported networks: the same logits as the network, the files' form, and refusal of what is not ours."""

from __future__ import annotations

import inspect
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
from utils.errors import UserError
from utils.export import export_program, fold_batch_norms, relative_difference, save_inference
from utils.exported import Description, load_exported
from utils.onednn import can_fuse, fuse_convolutions
from utils.program import ProgramError, build_graph, read_program

REPOSITORY = Path(__file__).parents[1]
BAR = 1e-4

# Of each family the first network is exported, or the one named here where that is quicker, at a size that is quick.
MEMBERS = {
    "darts": "DARTS_4M",
    "mobilenet_v1": "MobileNetV1_x0_25",
    "mobilenet_v2": "MobileNetV2_x0_25",
    "mobilenet_v3": "MobileNetV3_small_x0_35",
    "shufflenet_v2": "ShuffleNetV2_x0_25",
    "squeezenet": "SqueezeNet1_1",
}
SIZES = {
    "AlexNet": 224,
    "CSWinTransformer_tiny_224": 112,
    "GoogLeNet": 224,
    "InceptionResNetV2": 139,
    "InceptionV3": 139,
    "InceptionV4": 139,
    "VGG11": 32,
    "alt_gvt_small": 224,
}
# Their smallest members are too large for every run of the suite.
HUGE_FAMILIES = {"resnext_wsl", "senet_vd"}


def describe(network: str, size: int, classes: int = 10) -> Description:
    names = [f"class {number}" for number in range(classes)]
    return Description(network, names, [3, size, size], size, 1, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def build(network: str, size: int = 64, classes: int = 10) -> nn.Module:
    """A network whose batch-norms do something, with statistics that fit its activations, as after training."""
    torch.manual_seed(0)
    model = models.build(network, class_dim=classes).train().requires_grad_(False)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.5, 0.5)
        norm.momentum = 0.5  # half of the initial variance of 1 stays, so none is tiny
    if norms:
        model(images(4, size))
    return model.eval()


def images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """MobileNetV1_x0_25 exported: its folder and the network."""
    folder = tmp_path_factory.mktemp("tiny")
    model = build("MobileNetV1_x0_25")
    save_inference(model, describe("MobileNetV1_x0_25", 64), folder)
    return folder, model


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# ------------------------------------------------------------------------------------------------- same logits

# Runs where there is no models/: exported networks are read and run in one process, which takes a while to start.
RELOAD = """
import sys, torch
from utils.exported import load_exported
assert "models" not in sys.modules
cases = torch.load(sys.argv[1], weights_only=True)
for network, (model_file, images, expected) in cases.items():
    logits = load_exported(model_file)(images)
    difference = ((logits - expected).abs().max() / expected.abs().max()).item()
    print(network, difference)
assert "models" not in sys.modules
"""


def check_in_a_fresh_process(networks: dict[str, int], tmp_path: Path, inference_format: str = "torch") -> None:
    cases = {}
    for network, size in networks.items():
        model = build(network, size)
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


def size_of(network: str) -> int:
    """A size that is quick, or the network's own if it takes no other."""
    if "image_size" in inspect.signature(getattr(models, network)).parameters:
        return models.input_config(network).image_size
    return SIZES.get(network, 64)


def in_groups(networks: list[str], size: int = 8) -> pytest.MarkDecorator:
    """Runs a test on so many networks at a time: each alone would pay for an import of PyTorch in a new process."""
    groups = [networks[n : n + size] for n in range(0, len(networks), size)]
    return pytest.mark.parametrize("networks", groups, ids=[f"{group[0]}-{group[-1]}" for group in groups])


@in_groups([MEMBERS.get(family, names[0]) for family, names in models.FAMILIES.items() if family not in HUGE_FAMILIES])
def test_exported_networks_give_the_same_logits_without_models(networks, tmp_path):
    check_in_a_fresh_process({network: size_of(network) for network in networks}, tmp_path)


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
    check_in_a_fresh_process(dict.fromkeys(networks, 64), tmp_path, "onnx")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_images(tiny, count):
    folder, model = tiny
    exported = load_exported(str(folder / "model"), batch_size=count)
    with torch.inference_mode():
        expected = model(images(count, 64))
    assert relative_difference(exported(images(count, 64)), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_close(tiny, dtype):
    folder, model = tiny
    exported = load_exported(str(folder / "model"), dtype=dtype)
    logits = exported(images(4, 64).to(exported.dtype))
    assert logits.dtype == torch.float32
    with torch.inference_mode():
        difference = relative_difference(logits, model(images(4, 64)))
    assert 1e-6 < difference < 0.05


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


def test_the_description_comes_back(tiny):
    folder, _ = tiny
    description = load_exported(str(folder / "model")).description
    wanted = describe("MobileNetV1_x0_25", 64)
    for field in ("network", "class_names", "image_shape", "resize_short_size", "interpolation", "image_mean"):
        assert getattr(description, field) == getattr(wanted, field)


@pytest.mark.parametrize("inference_format", ["torch", "onnx"])
def test_what_is_not_exact_is_not_exported_and_replaces_nothing(tmp_path, inference_format):
    if inference_format == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    model, description = build("MobileNetV1_x0_25"), describe("MobileNetV1_x0_25", 64)
    weight = model.fc.weight[0, 0].clone()
    for good in (False, True):  # into a new folder, and over an export
        if good:
            save_inference(model, description, tmp_path / "net", inference_format)
        before = {path.name: path.read_bytes() for path in tmp_path.glob("net/*")}
        model.fc.weight[0, 0] = torch.nan
        with pytest.raises(UserError, match=r"MobileNetV1_x0_25 is not written.*differs.*finite"):
            save_inference(model, description, tmp_path / "net", inference_format)
        model.fc.weight[0, 0] = weight
        assert {path.name: path.read_bytes() for path in tmp_path.glob("net/*")} == before
        assert [path.name for path in tmp_path.iterdir()] == ["net"] * good


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        save_inference(build("MobileNetV1_x0_25"), describe("MobileNetV1_x0_25", 64), tmp_path / "file")


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
    """Batch-norms that must not be folded: of a result that is used elsewhere, and of a convolution used twice."""

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


# ------------------------------------------------------------------------------------------------ oneDNN fusion


class Residuals(nn.Module):
    """Sums that may, and sums that must not, be put into the memory of what is added."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(8))
        self.stem = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        conv = self.convs
        x = F.relu(self.stem(x))
        a = F.relu(conv[0](x) + x)  # x is not used again
        b = conv[1](a) + a  # a is
        c = F.relu_(conv[2](b)) + a.flatten(1).view_as(b)  # this convolution has an activation of its own
        view = c.permute(0, 1, 3, 2)
        d = conv[3](c) + c  # c lives on in a view
        e = F.silu(conv[4](d) + d) + view
        f = conv[5](e)
        f += e.mean((2, 3), keepdim=True)  # another shape
        g = conv[6](f) + conv[7](f)  # two convolutions
        g += f
        return torch.cat([g.mean((2, 3)), d.amax((2, 3))], 1)


def operators_once_fused(model: nn.Module) -> list[str]:
    """What a network's graph calls after fusion, which is checked not to change the logits."""
    from utils.export import _take_weights

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
    """Padding, given as F.pad's arguments, before a convolution without."""

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


# --------------------------------------------------------------------------------------------------- bad files


def refusal(model_file, params_file=None, **options) -> str:
    with pytest.raises(UserError) as error:
        load_exported(str(model_file), params_file and str(params_file), **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def rewritten(folder: Path, tmp_path: Path, change) -> Path:
    """A copy of an exported network whose program was changed by `change`."""
    copy = copied(folder, tmp_path)
    with zipfile.ZipFile(folder / "model") as archive, zipfile.ZipFile(copy / "model", "w") as target:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(data)
                change(program)
                data = json.dumps(program).encode()
            target.writestr(name, data)
    return copy / "model"


def test_missing_files(tiny, tmp_path):
    folder, _ = tiny
    assert "no such file" in refusal(tmp_path / "model")
    copy = copied(folder, tmp_path)
    (copy / "params").unlink()
    assert "no such file" in refusal(copy / "model")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files(tiny, tmp_path, share):
    folder, _ = tiny
    copy = copied(folder, tmp_path)
    for name in ("params", "model"):
        data = (folder / name).read_bytes()
        (copy / name).write_bytes(data[: int(len(data) * share)])
        message = refusal(copy / "model")
        assert f"copy/{name}" in message
        assert "damaged" in message or "cut short" in message


def test_a_changed_byte_of_the_weights(tiny, tmp_path):
    folder, _ = tiny
    copy = copied(folder, tmp_path)
    data = bytearray((folder / "params").read_bytes())
    data[-100] ^= 1
    (copy / "params").write_bytes(data)
    assert "damaged" in refusal(copy / "model")


def test_files_that_do_not_belong_together(tiny, tmp_path):
    folder, _ = tiny
    save_inference(build("MobileNetV1_x0_25", classes=12), describe("MobileNetV1_x0_25", 64, 12), tmp_path)
    assert "does not belong" in refusal(folder / "model", tmp_path / "params") or "cut short" in refusal(
        folder / "model", tmp_path / "params"
    )
    assert "another model" in refusal(tmp_path / "model", folder / "params")


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 and nothing else", b"\x08\x07\xff\xff", b"not a model at all", bytes(64)]
)
def test_other_files(tmp_path, data):
    (tmp_path / "model").write_bytes(data)
    assert "model_file" in refusal(tmp_path / "model")


def test_another_archive(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "model")
    assert "not a program" in refusal(tmp_path / "model")


def test_another_version(tiny, tmp_path):
    folder, _ = tiny

    def change(program):
        program["schema_version"]["major"] = 99

    assert "version 99" in refusal(rewritten(folder, tmp_path, change))


def test_another_version_of_the_description(tiny, tmp_path):
    folder, _ = tiny
    copy = copied(folder, tmp_path)
    with zipfile.ZipFile(folder / "model") as archive, zipfile.ZipFile(copy / "model", "w") as target:
        for name in archive.namelist():
            target.writestr(name, archive.read(name).replace(b'"format": 1', b'"format": 7'))
    assert "format 7" in refusal(copy / "model")


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.__init__",
        "torch.ops.aten.relu.__call__",
        "_operator.attrgetter",
        "math.factorial",
        "builtins.exec",
        "#extension:anything",
    ],
)
def test_programs_cannot_call_anything_but_operators(tiny, tmp_path, target):
    folder, _ = tiny

    def change(program):
        program["graph_module"]["graph"]["nodes"][1]["target"] = target

    assert "cannot be run here" in refusal(rewritten(folder, tmp_path, change))


def test_names_in_a_program_do_not_become_code(tiny, tmp_path):
    folder, _ = tiny
    trap = tmp_path / "trap"
    code = f"open({str(trap)!r}, 'w')"

    def change(program):
        node = program["graph_module"]["graph"]["nodes"][0]
        node["inputs"].append({"name": f"groups={code}, bias", "arg": {"as_string": code}, "kind": 2})

    assert "no name of an argument" in refusal(rewritten(folder, tmp_path, change))
    assert not trap.exists()


@pytest.mark.parametrize("path", ["nodes", "inputs", "outputs", "tensor_values"])
def test_programs_with_parts_missing(tiny, tmp_path, path):
    folder, _ = tiny

    def change(program):
        del program["graph_module"]["graph"][path]

    assert "cannot be run here" in refusal(rewritten(folder, tmp_path, change))


def test_an_archive_of_pickles_is_not_unpickled(tiny, tmp_path):
    """torch.export.load would unpickle data/sample_inputs; ours does not look at it."""
    import pickle

    folder, model = tiny
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self):
            return open, (str(trap), "w")

    copy = copied(folder, tmp_path)
    with zipfile.ZipFile(folder / "model") as archive, zipfile.ZipFile(copy / "model", "w") as target:
        for name in archive.namelist():
            target.writestr(name, pickle.dumps(Trap()) if "sample_inputs" in name else archive.read(name))
    with torch.inference_mode():
        assert relative_difference(load_exported(str(copy / "model"))(images(1, 64)), model(images(1, 64))) < 1e-5
    assert not trap.exists()


def test_engines_that_cannot_run_it(tiny):
    folder, _ = tiny
    assert "--inference_format=onnx" in refusal(folder / "model", engine="onnxruntime")
    assert "--inference_format=onnx" in refusal(folder / "model", use_tensorrt=True)


def test_programs_are_refused_by_reason():
    with pytest.raises(ProgramError, match="not a program"):
        read_program(io.BytesIO(b"nothing"))
