"""Networks built from flags: a network's errors about options and images become one line that names the flag."""

import pytest
import torch
from torch import nn

import models
from models.errors import OptionError
from utils.errors import FlagError, UserError
from utils.flags import parse
from utils.weights import read_weights
from utils.weights.network import check_model, explained_options, explained_sizes, note_unknown_input, settle_network
from utils.weights.write import save_weights


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (nn.Conv2d(3, 3, 5), (2, 3, 4, 4), "--image_shape: the images are too small for a network"),
        (nn.MaxPool2d(4), (2, 3, 3, 3), "--image_shape: the images are too small for a network"),
        (nn.BatchNorm2d(3), (1, 3, 1, 1), "--batch_size: a batch norm of a network gets a single value per channel"),
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


# ------------------------------------------------------------------------------------------------ what weights note


def test_what_weights_note_of_their_network_need_not_be_given(tmp_path, capsys):
    path = tmp_path / "weights.safetensors"
    save_weights(models.build("MobileNetV1_x0_25", class_dim=4), path, {"model": "MobileNetV1_x0_25", "class_dim": 4})
    args = parse("eval", [f"--pretrained_model={tmp_path}"])
    assert settle_network(args, args.pretrained_model) == {"model": "MobileNetV1_x0_25", "class_dim": 4}
    assert (args.model, args.class_dim) == ("MobileNetV1_x0_25", 4)
    assert capsys.readouterr().out == (f"using the notes in {tmp_path}: --model MobileNetV1_x0_25, --class_dim 4\n")
    args = parse("eval", [f"--pretrained_model={tmp_path}", "--model=ResNet18", "--class_dim=4"])
    settle_network(args, args.pretrained_model)
    assert args.model == "ResNet18" and capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "value"), [("model", "[1]"), ("class_dim", "many"), ("class_dim", "-1")])
def test_notes_of_a_network_that_make_no_sense(name, value, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(models.build("MobileNetV1_x0_25", class_dim=4), path, {name: value})
    args = parse("eval", [f"--pretrained_model={path}"])
    assert settle_network(args, str(path)) == {}
    assert (args.model, args.class_dim) == ("ResNet50", 1000)


@pytest.mark.parametrize(
    ("path", "words", "said"),
    [("x.tar", [], True), ("x.tar", ["--image_shape=3,32,32"], False), ("ResNet50_pretrained.tar", [], False)],
)
def test_an_input_that_nobody_has_told_is_said(path, words, said, capsys):
    args = parse("eval", [f"--pretrained_model={path}", *words])
    note_unknown_input(args, {})
    told = "x.tar does not say what input it was trained with: assuming the input of ResNet50's published weights, "
    assert capsys.readouterr().out.startswith(told) == said
    note_unknown_input(args, {"image_shape": [3, 32, 32]})
    assert capsys.readouterr().out == ""


def test_the_folder_of_a_run_is_no_file_of_weights(tmp_path):
    (tmp_path / "best_model").mkdir()
    save_weights(models.build("MobileNetV1_x0_25", class_dim=4), tmp_path / "best_model" / "weights.safetensors", {})
    with pytest.raises(
        UserError, match=f"{tmp_path} holds the checkpoints of a run: give one of them, {tmp_path}/best"
    ):
        read_weights(tmp_path)
