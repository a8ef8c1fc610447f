"""State dicts in other trainers' forms: under keys, with prefixes, together with an average or another network."""

from __future__ import annotations

import os
import pickle
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
import torch

import models
from models.names import paddleclas_names
from utils.errors import UserError
from utils.weights import OF_TEACHER, TO_TRAIN, TO_USE, Weights, load_pretrained, load_weights
from utils.weights.matching import linear_weights
from utils.weights.torch_files import MAX_ENTRIES

NAME = "MobileNetV1_x0_25"
TENSORS = 137


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    return models.build(NAME, class_dim=3)


@pytest.fixture(scope="module")
def other():
    torch.manual_seed(2)
    return models.build(NAME, class_dim=3)


def behind(prefix, model, but=()):
    """A state dict with a prefix before its names, except for some parts of the network."""
    state = model.state_dict()
    return OrderedDict((prefix + k, v) for k, v in state.items() if k.split(".")[0] not in but)


def load(content, path, key=None, remedies=TO_USE):
    torch.save(content, path)
    model = models.build(NAME, class_dim=3)
    return model, load_pretrained(model, path, key=key, remedies=remedies)


def assert_same(model, wanted):
    for key, value in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(4), "step": 3}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
FORMS = {
    "an unknown key": lambda m: ({"model_state": m.state_dict(), "epoch": 3}, "under model_state"),
    "deep within": lambda m: ({"checkpoint": {"nets": {"classifier": m.state_dict()}}}, "under checkpoint.nets.clas"),
    "in a list": lambda m: ([m.state_dict(), OPTIMIZER, 3], "under 0"),
    "with an optimizer": lambda m: ({**m.state_dict(), "optimizer": OPTIMIZER}, "(PyTorch file)"),
    "an unknown prefix": lambda m: (behind("backbone.", m), "under backbone)"),
    "several prefixes": lambda m: (behind("module.model._orig_mod.net.", m), "(PyTorch file)"),
    "an unknown one behind usual ones": lambda m: ({"state_dict": behind("module.encoder_q.", m)}, "dict.encoder_q"),
    "a list in a mapping": lambda m: ({"nets": [m.state_dict()]}, "under nets.0"),
    "mmpretrain": lambda m: (
        {"meta": {}, "state_dict": {**behind("backbone.", m, ["fc"]), **behind("head.fc.", m.fc)}},
        "under state_dict.backbone), fc.bias from state_dict.head.fc.bias and 1 others",
    ),
    "parts under keys": lambda m: (
        {"encoder": behind("", m, ["fc"]), "head": behind("fc.", m.fc)},
        "under encoder), fc.bias from head.fc.bias and 1 others",
    ),
    "parallel parts": lambda m: ({k.replace("blocks.", "blocks.module."): v for k, v in m.state_dict().items()}, ""),
    "compiled parts": lambda m: ({k.replace("conv.", "conv._orig_mod."): v for k, v in m.state_dict().items()}, ""),
    "Lightning": lambda m: (
        {"state_dict": {**behind("model.", m), "criterion.weight": torch.ones(3)}, "optimizer_states": [OPTIMIZER],
         "hyper_parameters": Namespace(lr=0.1), "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.5)}}},
        "not used: callbacks.ModelCheckpoint.best",
    ),
    "averaged in place": lambda m: ({"n_averaged": torch.tensor(5), **behind("module.", m)}, "ignored 1"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_network_is_found_wherever_it_is(form, trained, tmp_path):
    content, said = FORMS[form](trained)
    model, report = load(content, tmp_path / "x.pth")
    assert_same(model, trained)
    assert said in str(report) and report.loaded == TENSORS


def test_names_as_paddle_writes_them(trained, tmp_path):
    """PaddleClas's distillation saves both networks, Student.* and Teacher.*; paddle.save takes dicts in dicts."""

    def arrays(prefix, model):
        state, turned = model.state_dict(), linear_weights(model)
        return {
            prefix + name: np.ascontiguousarray((state[key].t() if key in turned else state[key]).numpy())
            for key, name in paddleclas_names(model).items()
            if not key.endswith("num_batches_tracked")
        }

    path, teacher = tmp_path / "x.pdparams", models.build(NAME, class_dim=3)
    for content, under in (
        ({**arrays("Student.", trained), **arrays("Teacher.", teacher)}, "Student"),
        ({"net": arrays("", trained), "epoch": 3}, ""),
    ):
        path.write_bytes(pickle.dumps(content, 4))
        model = models.build(NAME, class_dim=3)
        report = load_pretrained(model, path, remedies=TO_USE)
        assert_same(model, trained)
        assert report.under == under
        assert report.also == (("Teacher",) if under else ())


# ------------------------------------------------------------------------------------------------- several that fit


PAIRS = {
    "model and model_ema": lambda a, b: {"model_ema": b.state_dict(), "model": a.state_dict(), "opt": OPTIMIZER},
    "timm": lambda a, b: {"state_dict": behind("module.", a), "state_dict_ema": b.state_dict(), "arch": "x"},
    "student and teacher": lambda a, b: {"teacher": behind("module.", b), "student": behind("module.", a)},
    "one state dict": lambda a, b: {**behind("target_net.", b), **behind("online_net.", a)},
    "beside the names": lambda a, b: {**a.state_dict(), **behind("ema.", b)},
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_of_a_network_and_its_average_the_network_is_taken_and_said(pair, trained, other, tmp_path):
    content = PAIRS[pair](trained, other)
    model, report = load(content, tmp_path / "x.pth")
    assert_same(model, trained)
    (average,) = report.also
    assert str(report).endswith(
        f"the file also has the network under {average} (--pretrained_key={average} takes that one)"
    )
    model, report = load(content, tmp_path / "x.pth", key=average)
    assert_same(model, other)
    assert report.also == () and report.outside == ()


def test_two_networks_that_nothing_tells_apart(trained, other, tmp_path):
    content = {"net1": trained.state_dict(), "net2": other.state_dict()}
    with pytest.raises(UserError, match="holds several networks that fit: net1, net2: choose with --pretrained_key"):
        load(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match="save the state dict of one of them"):
        load(content, tmp_path / "x.pth", remedies=OF_TEACHER)
    assert_same(load(content, tmp_path / "x.pth", key="net2")[0], other)
    same = {"net1": trained.state_dict(), "net2": trained.state_dict()}  # the same tensors, twice
    assert_same(load(same, tmp_path / "x.pth")[0], trained)
    flat = {**behind("model.", trained), **behind("net.", other)}
    with pytest.raises(UserError, match="holds several networks that fit: model, net"):
        load(flat, tmp_path / "x.pth")


def test_a_key_that_is_not_there(trained, tmp_path):
    with pytest.raises(UserError, match="has nothing under 'ema'; its keys: model, epoch_figures"):
        load({"model": trained.state_dict(), "epoch_figures": {"a": torch.ones(1)}}, tmp_path / "x.pth", key="ema")
    with pytest.raises(UserError, match="137 missing in the file"):
        load({"model": trained.state_dict(), "x": {"y": torch.ones(1)}}, tmp_path / "x.pth", key="x")


# --------------------------------------------------------------------------------------------------- what is missing


def test_nothing_is_partial(trained, tmp_path):
    """A tensor missing under the network's key is missing, even if the file has it elsewhere."""
    content = {"state_dict": behind("backbone.", trained, ["fc"])}
    with pytest.raises(UserError, match=r"2 missing in the file: fc.weight \[3, 256\]; fc.bias \[3\]"):
        load(content, tmp_path / "x.pth", remedies=TO_TRAIN)
    ambiguous = {**content, "head1": {"fc.weight": trained.fc.weight}, "head2": {"fc.weight": trained.fc.weight * 2}}
    with pytest.raises(UserError, match="2 missing in the file"):
        load(ambiguous, tmp_path / "x.pth")
    with pytest.raises(UserError, match="1 not in the network: extra"):
        load({"net": {**trained.state_dict(), "extra": torch.ones(1)}}, tmp_path / "x.pth")


def test_remedies_are_those_of_the_caller(trained, tmp_path):
    torch.save({"student": trained.state_dict()}, tmp_path / "x.pth")
    wide = models.build(NAME, class_dim=5)
    for remedies, said in (
        (TO_USE, "has 3 classes, but the network has 5: give --class_dim=3"),
        (
            TO_TRAIN,
            "--class_dim=3 or, to train a new classifier, --finetune_exclude_pretrained_params=fc.weight,fc.bias",
        ),
        (OF_TEACHER, "has 3 classes, but the network has 5: both must have the same number"),
    ):
        with pytest.raises(UserError) as caught:
            load_pretrained(wide, tmp_path / "x.pth", remedies=remedies)
        assert str(caught.value).endswith(said)
    with pytest.raises(UserError) as caught:
        load_pretrained(models.build("MobileNetV1_x0_5"), tmp_path / "x.pth", remedies=OF_TEACHER)
    assert "--teacher_model=MobileNetV1_x0_25" in str(caught.value) and "--finetune" not in str(caught.value)


def test_a_whole_name_leaves_out_that_tensor_alone():
    """GoogLeNet has fc.weight, and aux1.fc.weight and aux2.fc.weight, which contain it."""
    with torch.device("meta"):
        model, file = models.build("GoogLeNet", class_dim=5), models.build("GoogLeNet", class_dim=1000)
    weights = Weights("x", dict(file.state_dict()), paddle=False)
    with pytest.raises(UserError) as caught:
        load_weights(model, weights, "x", remedies=TO_TRAIN)
    advised = str(caught.value).partition("--finetune_exclude_pretrained_params=")[2].split(",")
    assert len(advised) == 6
    report = load_weights(model, weights, "x", advised)
    assert (report.left_out, report.loaded) == (6, len(model.state_dict()) - 6)
    assert load_weights(model, weights, "x", [*advised[:-2], "aux2."]).left_out == 9, "a part of names"


# ------------------------------------------------------------------------------------------------------ hostile files


@pytest.mark.parametrize("form", ["nested", "shared", "long names", "itself"])
def test_files_that_would_be_walked_for_ever(form, tmp_path):
    content: object = {"conv.conv.weight": torch.ones(1)}
    if form == "nested":
        for _ in range(300):
            content = {"x": content}
    elif form == "shared":
        for _ in range(60):
            content = {"a": content, "b": content}
    elif form == "long names":
        content = {"x" * 3000: content}
    else:
        content = {"a": content}
        content["b"] = content
    with pytest.raises(UserError):
        load(content, tmp_path / "x.pth")


def test_a_count_that_is_no_networks(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.weights.torch_files.MAX_ENTRIES", 100)
    assert MAX_ENTRIES > 100_000
    with pytest.raises(UserError, match="holds more than 100 entries"):
        load({str(number): number for number in range(200)}, os.fspath(tmp_path / "x.pth"))
