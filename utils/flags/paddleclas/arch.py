"""The section Arch: the network with its options and weights, and the teacher in distillation."""

from __future__ import annotations

import fnmatch
import os
from typing import Any, NamedTuple

import models
from utils.flags.paddleclas.section import (
    Section,
    boolean,
    fraction,
    layer_name,
    list_of,
    number,
    positive,
    processes,
    shown,
    text,
)

# PaddleClas's download cache.
_CACHE = os.path.join("~", ".paddleclas", "weights")

# Networks whose configurations may set the strides and learning rates of the stem and stages: pattern -> their number.
_STAGED = {
    "PPLCNet_*": (5, 6),
    "ResNet18*": (5, 5),
    "ResNet34*": (5, 5),
    "ResNet50*": (5, 5),
    "ResNet101*": (5, 5),
    "ResNet152*": (5, 5),
    "ResNet200*": (5, 5),
}
# Networks for which PaddleClas accepts a dropout rate and ignores it.
_IDLE_DROPOUT = ("MobileNetV4_*", "StarNet_*")
# Options that only training has.
_OF_TRAINING = ("drop_path", "dropout", "block_dropout", "drop_connect_rate", "lr_mult")
# Networks that differ from another only in the options of its recipe.
_RECIPES = {"TinyNet_*": {"batch_norm_momentum": 0.9, "batch_norm_epsilon": 1e-5, "depth_trunc": "round"}}


class Network(NamedTuple):
    """A network of a configuration.

    Attributes:
        name: our name for it.
        options: flag -> value.
        weights: why weights are needed and where they may be; None: random initialisation.
    """

    name: str
    options: dict[str, Any]
    weights: str | None


def _stride(value: Any) -> str:
    """A stride, or HEIGHTxWIDTH."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return f"{positive(value[0])}x{positive(value[1])}"
    return str(positive(value))


def _matches(name: str, *patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def read_network(arch: Section) -> Network | None:
    """The network of a section with name, class_num and options; None if we do not have it."""
    name = arch.take("name", text, "")
    if not name:
        arch.refuse("name", "is missing: give the network's name")
        return None
    try:
        models.check_name(name)
    except ValueError as error:
        arch.refuse("name", str(error))
        return None
    options: dict[str, Any] = {}
    _read_options(arch, name, options)
    if "override_params" in arch and _matches(name, *_RECIPES):
        name = f"{name}_recipe"
    weights = _read_weights(arch, name)
    if name == "ResNet18":
        name = _read_branches(arch, options)
    if f"{name}_paddleclas" in models.list_models(f"{name}_paddleclas"):
        # In fluid this name means a different network.
        name = f"{name}_paddleclas"
    arch.idle("data_format", "use_fused_attn", "use_fused_linear", "return_patterns", "return_stages")
    arch.idle("infer_add_softmax", "infer_model_name")
    # Four-channel images have zeros in the last channel.
    arch.only("input_image_channel", 3, 4)
    arch.finish(("class_num", "models", "freeze_params_list"))
    return Network(name, options, weights)


def _read_branches(arch: Section, options: dict[str, Any]) -> str:
    """Distinguishes the plain ResNet18 from the one of diverse branch blocks, whose first block has no projection."""
    diverse = arch.take("layer_type", text, "ConvBNLayer") == "DiverseBranchBlock"
    if not diverse:
        arch.only("layer_type", "ConvBNLayer", "DiverseBranchBlock")
    projects = arch.take("use_first_short_conv", boolean, True)
    if projects == diverse:
        arch.refuse("use_first_short_conv", f"{projects} is not supported for {'these' if diverse else 'plain'} layers")
    for flag in options if diverse else ():
        arch.refuse(None, f"diverse branch blocks with another {flag} are not supported")
    return "ResNet18_dbb" if diverse else "ResNet18"


def _read_options(arch: Section, name: str, options: dict[str, Any]) -> None:
    """The options of a network's constructor, as flags."""
    if (rate := arch.take("drop_path_rate", fraction, None)) is not None:
        options["drop_path"] = rate
    for strides, factors in (counts for pattern, counts in _STAGED.items() if _matches(name, pattern)):
        if found := arch.take("stride_list", list_of(_stride, strides), None):
            options["strides"] = found
        if found := arch.take("lr_mult_list", list_of(number, factors), None):
            options["lr_mult"] = found
    if _matches(name, "PPLCNet_*"):
        if not arch.take("use_last_conv", boolean, True):
            options["use_last_conv"] = False
        if width := arch.take("class_expand", positive, None):
            options["class_expand"] = width
    if _matches(name, *_IDLE_DROPOUT):
        arch.idle("drop_rate")
    elif _matches(name, "PPLCNet_*", "MobileNetV3_*", "PPHGNet*"):
        if "dropout_prob" in arch.values:
            options["dropout"] = arch.take("dropout_prob", fraction, 0.0)
    elif _matches(name, "MobileViTV3_x*"):
        # Like MobileViT V2, they have none.
        arch.only("classifier_dropout", 0, 0.0)
    elif _matches(name, "MobileViTV3_*"):
        for key, flag in (("classifier_dropout", "dropout"), ("dropout", "block_dropout")):
            if (rate := arch.take(key, fraction, None)) is not None:
                options[flag] = rate
    else:
        arch.only("drop_rate", 0, 0.0)
    if _matches(name, "ConvNeXt_*"):
        arch.only("head_init_scale", 1.0)
        arch.only("layer_scale_init_value", 1e-6)
    for pattern, fixed in _RECIPES.items():
        if _matches(name, pattern) and "override_params" in arch:
            recipe = arch.section("override_params")
            options["drop_connect_rate"] = recipe.take("drop_connect_rate", fraction, 0.2)
            for key, value in fixed.items():
                recipe.only(key, value)
                if recipe.values.get(key) is None:
                    recipe.refuse(key, f"is missing: with the other options of this recipe, give {value}")
            recipe.finish()


def _read_weights(arch: Section, name: str) -> str | None:
    """The meaning of `pretrained`: a path, or a line about the weights that PaddleClas would download."""
    pretrained = arch.values.get("pretrained")
    ssld = arch.take("use_ssld", boolean, False)
    arch.idle("use_ssld_stage1_pretrained")
    for key in ("use_imagenet22k_pretrained", "use_imagenet22kto1k_pretrained"):
        if arch.take(key, boolean, False):
            arch.refuse(key, "give the weight file: -o Arch.pretrained=FILE")
    arch.asked.add("pretrained")
    if isinstance(pretrained, str) and pretrained.lower() not in ("true", "false"):
        return pretrained
    if not arch.take("pretrained", boolean, False):
        return None
    file = f"{name.removesuffix('_recipe')}{'_ssld' if ssld and 'ssld' not in name else ''}_pretrained.pdparams"
    cached = os.path.join(_CACHE, file)
    return cached


def is_download(weights: str) -> bool:
    """Whether PaddleClas would download these weights."""
    return weights.startswith(_CACHE)


def use_weights(arch: Section, flag: str, weights: str) -> None:
    """Sets `flag` to the weights of a network; finds downloads in PaddleClas's cache."""
    reading = arch.reading
    if not is_download(weights):
        reading.set(flag, weights)
    elif os.path.isfile(file := os.path.expanduser(weights)):
        reading.set(flag, file)
    else:
        place = reading.document.place((*arch.path, "pretrained"))
        reading.needed[flag] = (
            f"{place}: PaddleClas would download {os.path.basename(weights)}; download it yourself and give "
            f"--{flag}=FILE or put it into {_CACHE}, or train without it: -o "
            f"{'.'.join(map(str, arch.path))}.pretrained=False"
        )


def read_arch(arch: Section, script: str) -> None:
    """The flags of Arch, a network or a student and its teacher.

    Args:
        arch: the section.
        script: train, eval, infer or reader.
    """
    reading = arch.reading
    if not arch.values:
        arch.refuse(None, "is missing: name the network here")
        return
    if "class_num" in arch:
        reading.set("class_dim", arch.take("class_num", positive, 1000))
    if arch.take("use_sync_bn", boolean, False) and script == "train" and processes() > 1:
        reading.set("sync_bn", True)
    kind = arch.values.get("name")
    if kind == "DistillationModel":
        _read_distillation(arch, script)
        return
    if kind == "RecModel" or "Backbone" in arch:
        arch.refuse("name", "retrieval networks are not supported, only classification")
        return
    if network := read_network(arch):
        _use_network(arch, network, script)


def _use_network(arch: Section, network: Network, script: str) -> None:
    """The flags of the network to train or use."""
    reading = arch.reading
    reading.set("model", network.name)
    for flag, value in network.options.items():
        if script == "train" or flag not in _OF_TRAINING:
            reading.set(flag, value)
    given = "pretrained_model" in reading.flags or "checkpoint" in reading.flags
    if network.weights and not given and script in ("train", "eval", "infer"):
        use_weights(arch, "pretrained_model", network.weights)
        if script == "train":
            reading.set("skip_misfits", True)


def _read_distillation(arch: Section, script: str) -> None:
    """The flags of a DistillationModel: a teacher, and a student that is trained, saved and used."""
    reading = arch.reading
    found = _models(arch)
    student_name = arch.take("infer_model_name", text, "Student")
    arch.idle("use_ssld")
    frozen = _frozen(arch, found)
    arch.finish()
    if len(found) != 2 or student_name not in found:
        arch.refuse("models", f"{', '.join(found) or 'nothing'} was given, but a Teacher and a Student are needed")
        return
    teacher_name = next(name for name in found if name != student_name)
    for name, section in found.items():
        if section.values.get("name") == "AttentionModel":
            found[name], frozen[name] = _read_attention(section, "student" if name == student_name else "teacher")
    if "class_dim" not in reading.flags and "class_num" in found[student_name]:
        reading.set("class_dim", found[student_name].take("class_num", positive, 1000))
    for section in found.values():
        if section.take("class_num", positive, None) not in (None, reading.classes):
            section.refuse(
                "class_num", "differs from Arch.class_num: teacher and student must have the same number of classes"
            )
    student, teacher = read_network(found[student_name]), read_network(found[teacher_name])
    if student:
        _use_network(found[student_name], student, script)
    if teacher and script == "train":
        _use_teacher(found[teacher_name], teacher, learns=not frozen[teacher_name])
        if frozen[student_name]:
            arch.refuse("freeze_params_list", f"{student_name} is the network to train, but it is frozen")


def _read_attention(section: Section, which: str) -> tuple[Section, bool]:
    """An AttentionModel: a network followed by AFD's transform of some of its layers.

    Args:
        section: the model.
        which: student or teacher.

    Returns:
        The network's section, and whether it is frozen.
    """
    found = _models(section)
    frozen = _frozen(section, found)
    section.finish()
    if len(found) != 2:
        section.refuse("models", "should be a network and AFD's transform of its layers")
        return Section(section.reading, section.path, {}), True
    network, transform = found.values()
    transform.only("name", f"LinearTransform{which.capitalize()}")
    layers = transform.take("keys", list_of(layer_name), [])
    section.reading.attention[which] = "+".join(layers)
    section.reading.attention["dim"] = str(transform.take("qk_dim", positive, 128))
    # We measure the layers' output shapes instead.
    transform.idle("t_shapes", *(("s_shapes",) if which == "student" else ()))
    transform.finish(("keys",))
    if frozen[list(found)[1]]:
        section.refuse("freeze_params_list", "AFD's transform must be trained, but it is frozen")
    return network, frozen[next(iter(found))]


def _use_teacher(section: Section, teacher: Network, learns: bool) -> None:
    """The flags of the teacher."""
    reading = section.reading
    reading.set("use_distill", True)
    reading.set("teacher_model", teacher.name)
    if learns:
        reading.set("teacher_learns", True)
    for flag, value in teacher.options.items():
        if flag == "strides":
            reading.set("teacher_strides", value)
        elif learns or flag not in _OF_TRAINING:
            section.refuse(None, f"a teacher with another {flag} is not supported")
    if teacher.weights:
        use_weights(section, "teacher_pretrained_model", teacher.weights)
        if learns:
            reading.set("skip_misfits", True)
    elif not learns:
        # Its weights come from elsewhere: PaddleClas's recipes give them on the command line.
        path = ".".join(map(str, section.path))
        reading.needed["teacher_pretrained_model"] = (
            f"{reading.document.place((*section.path, 'pretrained'))}: the teacher has no weights: give "
            f"--teacher_pretrained_model=FILE or -o {path}.pretrained=FILE"
        )


def _frozen(arch: Section, found: dict[str, Section]) -> dict[str, bool]:
    """Which of several models are frozen."""
    arch.only("pretrained_list")
    flags = arch.take("freeze_params_list", list_of(boolean, len(found)), [False] * len(found))
    return dict(zip(found, flags, strict=True))


def _models(arch: Section) -> dict[str, Section]:
    """The models of a section, by name."""
    arch.asked.update(("name", "models"))
    value = arch.values.get("models")
    if not isinstance(value, list) or not all(isinstance(one, dict) and len(one) == 1 for one in value):
        arch.refuse("models", f"{shown(value)} should be a list of two models")
        return {}
    return {
        str(name): Section(arch.reading, (*arch.path, "models", index, name), content)
        for index, entry in enumerate(value)
        for name, content in entry.items()
    }
