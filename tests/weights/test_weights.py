"""Weights from every kind of file into a network, and back."""

import argparse
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from paddle_files import (
    FILES,
    FORMS,
    NAME,
    PUBLISHED,
    assert_same,
    combined,
    fresh,
    program,
    write_folder,
)
from safetensors.torch import save_file

from models.layers import DOWNGRADE_IN_INFER, UPSCALE_IN_TRAIN, Dropout
from models.names import paddleclas_names, published_names
from utils.errors import UserError
from utils.flags.inputs import INPUT_FLAGS
from utils.torchvision_compat import import_torchvision
from utils.weights import TO_TRAIN, load_pretrained, read_input_notes, read_weights
from utils.weights.matching import linear_weights, paddle_vision_names
from utils.weights.write import save_weights, write_weights

# ---------------------------------------------------------------------------------------------- the original's files


def test_logits_of_the_original():
    model = fresh()
    report = load_pretrained(model, PUBLISHED)
    assert str(report) == f"loaded 137 tensors from {PUBLISHED} (compressed fluid .tar)"
    with torch.no_grad(), np.load(FILES / "MobileNetV1_x0_25_logits.npz") as expected:
        assert zoo.relative_error(model(zoo.images(224)), expected["logits"]) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_fluid_weights(form, variables, trained, tmp_path):
    # The kind is in the content: the name says nothing, or something wrong.
    path = tmp_path / "weights.pth"
    FORMS[form](variables, path)
    model = fresh()
    assert load_pretrained(model, path).loaded == 137
    assert_same(model, trained)


@pytest.mark.parametrize("names", [("params", "model"), ("__params__", "__model__"), ("x.pdiparams", "x.pdmodel")])
def test_combined_file_with_its_program_beside(names, variables, trained, tmp_path):
    # Velocities among the variables: only the program says which is which.
    (tmp_path / names[0]).write_bytes(combined(variables))
    (tmp_path / names[1]).write_bytes(program())
    model = fresh()
    kind = "exported model of PaddlePaddle" if names[1] == "x.pdmodel" else "combined fluid file"
    assert load_pretrained(model, tmp_path / names[0]).kind == kind
    assert_same(model, trained)


def test_what_training_left_beside_the_parameters_is_ignored(variables, trained, tmp_path):
    extra = {
        f"{name}{suffix}": variables["conv1_weights"]
        for name in ("conv1_weights", "fc7_offset")
        for suffix in ("_velocity_0", "_ema_0", "_moment1_0", "_beta2_pow_acc_0", "_mean_square_0", "_momentum_0")
    }
    counters = dict.fromkeys(
        ("@LR_DECAY_COUNTER@", "learning_rate_0", "scheduled_ema_decay_rate"), variables["fc7_offset"]
    )
    write_folder({**variables, **extra, **counters, "notes.txt": b"a note", "empty": b""}, tmp_path)
    model = fresh()
    report = load_pretrained(model, tmp_path)
    assert (report.loaded, report.ignored) == (137, 17)
    assert str(report).endswith("(fluid folder), ignored 17")
    assert_same(model, trained)


def arrays_of(model, names):
    transposed = linear_weights(model)
    return {
        name: (model.state_dict()[key].t() if key in transposed else model.state_dict()[key]).numpy()
        for key, name in names.items()
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("names", [published_names, paddleclas_names, paddle_vision_names])
def test_pdparams(names, protocol, trained, tmp_path):
    content = {**arrays_of(trained, names(trained)), "StructuredToParameterName@@": {"fc.weight": "linear_0.w_0"}}
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content, protocol))
    model = fresh()
    # The ending may be left out, as in the original.
    report = load_pretrained(model, tmp_path / "x")
    assert (report.loaded, report.ignored) == (137, 1)
    assert_same(model, trained)


# --------------------------------------------------------------------------------------------------- PyTorch's files


def save_prefixed(model, path):
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)


PYTORCH_FORMS = {
    "state dict": lambda model, path: torch.save(model.state_dict(), path),
    "old format": lambda model, path: torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False),
    "state_dict of a parallel model": save_prefixed,
    "model": lambda model, path: torch.save({"model": model.state_dict(), "optimizer": {"state": {}}}, path),
    "ema": lambda model, path: torch.save({"ema": {"model": model.state_dict()}, "step": 3}, path),
    "float64": lambda model, path: torch.save(model.double().state_dict(), path),
    "safetensors": lambda model, path: save_file(model.state_dict(), path),
    "compiled": lambda model, path: torch.save({f"_orig_mod.{k}": v for k, v in model.state_dict().items()}, path),
    "model of a trainer": lambda model, path: torch.save(
        {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "global_step": 3}, path
    ),
    "net": lambda model, path: torch.save({"net": model.state_dict(), "epoch": 3}, path),
    "params": lambda model, path: torch.save({"params": model.state_dict()}, path),
    "no counters": lambda model, path: torch.save(
        {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}, path
    ),
}


@pytest.mark.parametrize("form", PYTORCH_FORMS)
def test_forms_of_pytorch_weights(form, trained, tmp_path):
    path = tmp_path / "weights.tar"
    PYTORCH_FORMS[form](fresh_copy(trained), path)
    model = fresh()
    assert load_pretrained(model, path).loaded == 137
    assert_same(model, trained)


def fresh_copy(model):
    copy = fresh()
    copy.load_state_dict(model.state_dict())
    return copy


def test_checkpoint_of_ours(trained, tmp_path):
    save_weights(trained, tmp_path / "weights.safetensors", {"model": NAME})
    save_weights(fresh(), tmp_path / "ema_weights.safetensors", {"model": NAME})
    (tmp_path / "state.pt").write_bytes(b"no weights")
    model = fresh(class_dim=1000)
    load_pretrained(model, tmp_path)
    assert_same(model, trained)
    load_pretrained(model, tmp_path / "ema_weights.safetensors")
    assert_same(model, fresh())


@pytest.mark.parametrize("start", [b"\x80", b"PK"], ids=["pickle", "zip"])
def test_a_safetensors_file_that_starts_as_another(trained, tmp_path, start):
    """Its header's length, a multiple of 8, makes one file in 32 start like a pickle."""
    path = tmp_path / "x.safetensors"
    save_file(trained.state_dict(), path, {"padding": ""})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    padding = (int.from_bytes(start, "little") - length) % 256 ** len(start)
    save_file(trained.state_dict(), path, {"padding": "x" * padding})
    assert path.read_bytes().startswith(start)
    model = fresh()
    load_pretrained(model, path)
    assert_same(model, trained)


def test_half_precision_is_widened(trained, tmp_path):
    torch.save({key: value.half() for key, value in trained.state_dict().items() if value.dim()}, tmp_path / "x.pt")
    model = fresh()
    load_pretrained(model, tmp_path / "x.pt")
    for key, value in model.state_dict().items():
        if value.dim():
            assert torch.equal(value, trained.state_dict()[key].half().float())


def test_bfloat16_of_paddlepaddle_is_widened(trained, tmp_path):
    arrays = arrays_of(trained, paddleclas_names(trained))
    bits = {name: torch.tensor(array).bfloat16().view(torch.int16).numpy().view(np.uint16)
            for name, array in arrays.items()}  # fmt: skip
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(bits, 2))
    model = fresh()
    load_pretrained(model, tmp_path / "x.pdparams")
    for key, value in model.state_dict().items():
        if value.dim():
            assert torch.equal(value, trained.state_dict()[key].bfloat16().float())


def test_counters_in_half_precision_are_left_out(trained, tmp_path):
    state = trained.state_dict()
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.pth")
    model = fresh()
    load_pretrained(model, tmp_path / "half.pth")
    torch.testing.assert_close(model.fc.weight.detach(), state["fc.weight"].half().float(), rtol=0, atol=0)


def test_weights_that_are_not_finite_are_reported(tmp_path, capsys):
    state = fresh().state_dict()
    state["fc.bias"][2] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    load_pretrained(fresh(), tmp_path / "nan.pth")
    assert "1 tensors have values that are not finite, such as fc.bias" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- dropout


def modes(model):
    return {layer.mode for layer in model.modules() if isinstance(layer, Dropout)}


def test_torchvisions_weights_bring_torchvisions_dropout(tmp_path):
    torch.manual_seed(0)
    theirs = import_torchvision().models.alexnet(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    model = fresh("AlexNet")
    assert modes(model) == {DOWNGRADE_IN_INFER}
    report = load_pretrained(model, tmp_path / "theirs.pth")
    assert "dropout set to upscale_in_train" in str(report)
    with torch.no_grad():
        assert zoo.relative_error(model(zoo.images(224)), theirs(zoo.images(224)).numpy()) < 1e-5


@pytest.mark.parametrize("mode", [DOWNGRADE_IN_INFER, UPSCALE_IN_TRAIN])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_our_files_carry_the_dropout_convention(mode, ending, tmp_path):
    ours = fresh("SqueezeNet1_1")
    for layer in ours.modules():
        if isinstance(layer, Dropout):
            layer.mode = mode
    path = tmp_path / f"x{ending}"
    torch.save(ours.state_dict(), path) if ending == ".pth" else save_weights(ours, path, {})
    model = fresh("SqueezeNet1_1")
    report = load_pretrained(model, path)
    assert modes(model) == {mode}
    assert report.dropout == (None if mode == DOWNGRADE_IN_INFER else mode)


# --------------------------------------------------------------------------------------- what does not fit, or is left


def test_finetuning_leaves_out_what_is_asked(trained, tmp_path):
    model, untouched = fresh(class_dim=10), fresh(class_dim=10)
    report = load_pretrained(model, PUBLISHED, exclude=("fc7_weights", "fc7_offset"))
    assert (report.loaded, report.left_out) == (135, 2)
    assert str(report).endswith("left out 2")
    for key, value in model.state_dict().items():
        source = untouched if key.startswith("fc.") else trained
        assert torch.equal(value, source.state_dict()[key])


@pytest.mark.parametrize("exclude", [("fc.weight", "fc.bias"), ("fc7",), ("fc.",), ("fc7_weights", "fc.bias")])
def test_names_of_any_vocabulary_leave_out(exclude):
    assert load_pretrained(fresh(class_dim=10), PUBLISHED, exclude).left_out == 2


def refused(model, path, exclude=()):
    """The message of the error, after checking that the network was left alone."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_pretrained(model, path, exclude, remedies=TO_TRAIN)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    return message


def test_misspelt_exclude():
    message = refused(fresh(), PUBLISHED, ("fc7_weigths",))
    assert "no tensor's name contains 'fc7_weigths': did you mean fc7_weights?" in message


def test_other_number_of_classes():
    message = refused(fresh(class_dim=10), PUBLISHED)
    assert (
        "classifier (fc7_weights,fc7_offset) has 1000 classes, but the network has 10: give --class_dim=1000" in message
    )
    assert message.endswith("--finetune_exclude_pretrained_params=fc7_weights,fc7_offset")


def test_other_shapes():
    message = refused(fresh("MobileNetV1_x0_5"), PUBLISHED)
    assert (
        "136 with another shape: conv1_weights (conv.conv.weight) is [8, 3, 3, 3] in the file, [16, 3, 3, 3]" in message
    )
    assert message.endswith(f"they fit --model={NAME}")


def test_missing_damaged_and_superfluous_tensors(variables, tmp_path):
    less = {name: content for name, content in variables.items() if name != "conv1_bn_scale"}
    less["conv1_bn_mean"] = variables["conv1_bn_mean"][:-1]
    write_folder({**less, "other": variables["conv1_weights"]}, tmp_path)
    message = refused(fresh(), tmp_path)
    assert "2 missing in the file: conv1_bn_scale (conv.bn.weight) [8]" in message
    assert "conv1_bn_mean (conv.bn.running_mean) [8] (shape [8] takes 32 bytes, but 31 follow (cut short?))" in message
    assert "1 not in the network: other [8, 3, 3, 3]" in message
    assert "or leave tensors out with --finetune_exclude_pretrained_params" in message
    names = ("conv1_bn_scale", "conv1_bn_mean", "other")
    assert load_pretrained(fresh(), tmp_path, names).loaded == 135


def test_everything_left_out():
    assert refused(fresh(), PUBLISHED, ("_", "conv", "fc")).endswith("leaves nothing to load")


def test_weights_of_another_network(tmp_path):
    message = refused(fresh("ResNet18"), PUBLISHED)
    assert "137 not in the network" not in message
    assert f"they fit --model={NAME}" in message
    shutil.copy(PUBLISHED, tmp_path / "weights")
    assert "choose another --model" in refused(fresh("ResNet18"), tmp_path / "weights")


def test_sibling_of_paddleclas_is_named(tmp_path):
    theirs = fresh("MobileNetV3_small_x0_5_paddleclas")
    content = arrays_of(theirs, paddleclas_names(theirs))
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content, 4))
    message = refused(fresh("MobileNetV3_small_x0_5"), tmp_path / "x.pdparams")
    assert message.endswith("they fit --model=MobileNetV3_small_x0_5_paddleclas")


def test_whole_numbers_do_not_fit(trained, tmp_path):
    torch.save({key: value.long() for key, value in trained.state_dict().items()}, tmp_path / "x.pt")
    assert "is torch.int64 in the file, torch.float32 in the network" in refused(fresh(), tmp_path / "x.pt")


def test_combined_file_of_another_network(variables, tmp_path):
    (tmp_path / "x").write_bytes(combined(variables))
    message = refused(fresh("ResNet18"), tmp_path / "x")
    assert "holds 137 variables without names, but the network has 107: put the program" in message
    (tmp_path / "model").write_bytes(program())
    (tmp_path / "x").write_bytes(combined({**variables, "conv1_weights_velocity_0": variables["conv1_weights"]}))
    assert "x holds 138 variables, but the program next to it names 137" in refused(fresh(), tmp_path / "x")


# ------------------------------------------------------------------------------------------------------- hostile files


class Touch:
    """Writes a file when it is unpickled normally."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["pdparams", "pdparams 2", "pth", "old pth"])
def test_files_that_run_code_are_refused(form, tmp_path):
    path, trap = tmp_path / "x", tmp_path / "trap"
    content = {"conv.conv.weight": Touch(trap)}
    if form.startswith("pdparams"):
        path.write_bytes(pickle.dumps(content, 2 if form.endswith("2") else 4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "pth")
    message = refused(fresh(), path)
    assert re.search(r"refused: .*posix.mkdir.* could run any code", message)
    assert not trap.exists()


class Config:
    """What a training script may save."""


def test_objects_beside_the_tensors_are_named(trained, tmp_path):
    torch.save({"state_dict": trained.state_dict(), "config": Config()}, tmp_path / "x.pth")
    assert "more than tensors (test_weights.Config)" in refused(fresh(), tmp_path / "x.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_flags_and_figures_beside_the_tensors_are_passed_over(trained, tmp_path, legacy):
    """Flags and figures as timm's and torchvision's scripts save them. Their constructors are never called."""
    trap = tmp_path / "trap"
    beside = {
        "args": argparse.Namespace(lr=0.1, output=tmp_path),
        "best_acc1": np.float64(76.1),
        "count": np.int64(3),
        "history": np.arange(3.0),
        "dtype": np.dtype("f4"),
    }
    for content in ({"model": trained.state_dict(), **beside}, {**trained.state_dict(), **beside}):
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
        model = fresh()
        load_pretrained(model, tmp_path / "x.pth")
        assert_same(model, trained)
    torch.save({"model": trained.state_dict(), "args": argparse.Namespace(x=Touch(trap))}, tmp_path / "x.pth")
    assert "refused" in refused(fresh(), tmp_path / "x.pth")
    assert not trap.exists()
    torch.save(argparse.Namespace(lr=0.1), tmp_path / "x.pth")
    assert "not a state dict" in refused(fresh(), tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<html>Not found</html>", "not a weight file: .* starts with b'<html>Not found"),
        (b"\x89HDF\r\n\x1a\n", "not a weight file: it is HDF5, as Keras writes"),
        (b"\x1c\0\0\0TFL3", "not a weight file: it is a model of TensorFlow Lite"),
        (b"PK\x03\x04", "archive is damaged"),
        (b"\x1f\x8b\x08\0", "compressed file is damaged"),
        (b"\xff" * 8 + b"{", "safetensors"),
        (b"\x02" + b"\0" * 7 + b"{}", "holds|missing"),
        (b"\x80\x02}", "the pickle is damaged"),
        (b"\0" * 40, "data type|cut short|should have"),
    ],
)
def test_what_is_no_weight_file(content, reason, tmp_path):
    (tmp_path / "x").write_bytes(content)
    assert re.search(reason, refused(fresh(), tmp_path / "x"))


def test_an_exported_network_is_no_weight_file(tmp_path):
    """The layout of torch.export's archives."""
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for name in ("archive_format", "models/model.json", "data/sample_inputs/model.pt"):
            archive.writestr(f"archive/{name}", "pt2")
    assert "not a weight file: it is an exported network, which predict.py runs" in refused(fresh(), tmp_path / "x")


def test_missing_and_unreadable_files(tmp_path):
    assert "does not exist" in refused(fresh(), tmp_path / "x")
    for word in ("True", "imagenet", "https://example.com/x.pdparams"):
        assert f"{word} does not exist; give a file or folder of weights: nothing is downloaded" in refused(
            fresh(), word
        )
    assert "holds no fluid variables (0 files)" in refused(fresh(), tmp_path)
    (tmp_path / "best.pdparams").write_bytes(b"x")
    assert "give the file itself, such as best.pdparams" in refused(fresh(), tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "does not exist" in refused(fresh(), tmp_path / "pipe")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path, recwarn):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    recwarn.clear()
    with pytest.raises(UserError, match="a TorchScript archive, which holds code"):
        load_pretrained(fresh(), tmp_path / "script.pt")
    assert not recwarn.list


# ------------------------------------------------------------------------------------------------------- large files


LOADER = """
import sys, time, torch, models
from utils.weights import load_pretrained

def memory(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))

model = models.build("ResNet50")
path = sys.argv[1]
before = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
times = []
for _ in range(5):
    start = time.perf_counter()
    torch.load(path, weights_only=True) if path.endswith(".pth") else load_pretrained(model, path)
    times.append(time.perf_counter() - start)
print(min(times), memory("VmHWM") - before)
"""


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is measured on Linux only")
def test_large_tar_is_quick_and_lean(tmp_path):
    """100 MB: at most twice torch.load's time; with the network itself, at most twice the file in memory."""
    model = fresh("ResNet50")
    torch.save(model.state_dict(), tmp_path / "x.pth")
    write_weights(model, tmp_path / "x.tar", "ResNet50", 1000)
    size = (tmp_path / "x.tar").stat().st_size / 2**20
    assert size > 90
    figures = {}
    for path in (tmp_path / "x.pth", tmp_path / "x.tar"):
        done = subprocess.run([sys.executable, "-c", LOADER, path], capture_output=True, text=True, check=True)
        figures[path.suffix] = [float(figure) for figure in done.stdout.split()]
    assert figures[".tar"][0] < 2 * figures[".pth"][0]
    assert figures[".tar"][1] < 1.1 * size


def test_notes_on_the_input(tmp_path, capsys):
    """train.py's notes next to weights; other files give nothing."""
    path = tmp_path / "weights.safetensors"
    values = (
        [3, 32, 48],
        50,
        None,
        [0.5, 0.25, 0.125],
        [0.1, 0.2, 0.3],
        "pad",
        "pil",
        "cv2",
        "bgr",
        [0, 0, 9],
        [0, 4095],
    )
    noted = dict(zip(INPUT_FLAGS, values, strict=True))
    save_weights(fresh(), path, {"model": NAME, **noted})
    assert read_input_notes(path) == read_input_notes(tmp_path) == noted
    for name, value in (("image_shape", [3, 0, 32]), ("image_std", [0, 1, 1]), ("interpolation", "x")):
        save_weights(fresh(), path, {**noted, name: value})
        assert read_input_notes(path) == {}
        assert "ignoring its invalid notes on the network's input" in capsys.readouterr().err
    save_weights(fresh(), path, {**noted, "image_mean": [123.675, 116.28, 103.53]})
    assert read_input_notes(path) == {}
    assert "its image_mean 123.675 116.28 103.53 is not for pixels scaled to 0..1" in capsys.readouterr().err
    save_weights(fresh(), path, {"model": NAME})
    (tmp_path / "text").write_text("x")
    for other in (path, tmp_path / "text", tmp_path / "none", PUBLISHED):
        assert read_input_notes(other) == {}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_file_cut_short_while_it_is_in_use(tmp_path, ending):
    """The file was read, not mapped: with a mapped one SIGBUS would end the process."""
    path, tensors = tmp_path / f"x{ending}", {"a": torch.ones(100_000)}
    (torch.save if ending == ".pth" else save_file)(tensors, path)
    weights = read_weights(path)
    os.truncate(path, 100)
    assert weights.tensors["a"].sum() == 100_000
