"""The section Arch: which network, with which options and weights; and the teacher of a distillation."""

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

# Where PaddleClas keeps what it has downloaded.
_CACHE = os.path.join("~", ".paddleclas", "weights")

# Networks with a stem and stages whose strides and learning rates PaddleClas's files may name: pattern -> their number.
_STAGED = {
    "PPLCNet_*": (5, 6),
    "ResNet18*": (5, 5),
    "ResNet34*": (5, 5),
    "ResNet50*": (5, 5),
    "ResNet101*": (5, 5),
    "ResNet152*": (5, 5),
    "ResNet200*": (5, 5),
}
# Networks whose PaddleClas takes a rate of dropout and does nothing with it.
_IDLE_DROPOUT = ("MobileNetV4_*", "StarNet_*")
# Options that nothing but training has.
_OF_TRAINING = ("drop_path", "dropout", "block_dropout", "drop_connect_rate", "lr_mult")
# What another name stands for, where the networks differ by options that a recipe gives.
_RECIPES = {"TinyNet_*": {"batch_norm_momentum": 0.9, "batch_norm_epsilon": 1e-5, "depth_trunc": "round"}}


class Network(NamedTuple):
    """A network of a configuration.

    Attributes:
        name: as it is called here.
        options: flag -> value.
        weights: why weights are needed and where they may be; None: the network starts afresh.
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
    """The network of a section with name, class_num and options; None if there is none that could be built here."""
    name = arch.take("name", text, "")
    if not name:
        arch.refuse("name", "no network is named")
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
        # Fluid's network of this name is another one.
        name = f"{name}_paddleclas"
    arch.idle("data_format", "use_fused_attn", "use_fused_linear", "return_patterns", "return_stages")
    arch.idle("infer_add_softmax", "infer_model_name")
    # Images of four channels have zeros in the last one.
    arch.only("input_image_channel", 3, 4)
    arch.finish(("class_num", "models", "freeze_params_list"))
    return Network(name, options, weights)


def _read_branches(arch: Section, options: dict[str, Any]) -> str:
    """Which ResNet18 it is: the plain one, or that of diverse branch blocks, whose first block has no projection."""
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
                    recipe.refuse(key, f"is missing, and only {value} is supported beside the others")
            recipe.finish()


def _read_weights(arch: Section, name: str) -> str | None:
    """What `pretrained` asks for: a path, or a line on the weights that PaddleClas would download."""
    pretrained = arch.values.get("pretrained")
    ssld = arch.take("use_ssld", boolean, False)
    arch.idle("use_ssld_stage1_pretrained")
    for key in ("use_imagenet22k_pretrained", "use_imagenet22kto1k_pretrained"):
        if arch.take(key, boolean, False):
            arch.refuse(key, "give the weights' file: -o Arch.pretrained=FILE")
    arch.asked.add("pretrained")
    if isinstance(pretrained, str) and pretrained.lower() not in ("true", "false"):
        return pretrained
    if not arch.take("pretrained", boolean, False):
        return None
    file = f"{name.removesuffix('_recipe')}{'_ssld' if ssld and 'ssld' not in name else ''}_pretrained.pdparams"
    cached = os.path.join(_CACHE, file)
    return cached


def is_download(weights: str) -> bool:
    """Whether weights are what PaddleClas downloads by itself."""
    return weights.startswith(_CACHE)


def use_weights(arch: Section, flag: str, weights: str) -> None:
    """Gives `flag` the weights of a network; those that PaddleClas would download, if it has done so."""
    reading = arch.reading
    if not is_download(weights):
        reading.set(flag, weights)
    elif os.path.isfile(file := os.path.expanduser(weights)):
        reading.set(flag, file)
    else:
        place = reading.document.place((*arch.path, "pretrained"))
        reading.needed[flag] = (
            f"{place}: PaddleClas would download {os.path.basename(weights)}, and nothing is downloaded here: give its "
            f"place by --{flag}=FILE, put it into {_CACHE}, or train without: -o {'.'.join(map(str, arch.path))}."
            "pretrained=False"
        )


def read_arch(arch: Section, script: str) -> None:
    """The flags of Arch, a network or a student and its teacher.

    Args:
        arch: the section.
        script: train, eval, infer or reader.
    """
    reading = arch.reading
    if not arch.values:
        arch.refuse(None, "is missing: a configuration of a network has it")
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
        arch.refuse("name", "networks that retrieve are not here: this is a toolbox of classification")
        return
    if network := read_network(arch):
        _use_network(arch, network, script)


def _use_network(arch: Section, network: Network, script: str) -> None:
    """The flags of the network that is trained or used."""
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
        arch.refuse("models", f"{', '.join(found) or 'nothing'} is not a Teacher and a Student")
        return
    teacher_name = next(name for name in found if name != student_name)
    for name, section in found.items():
        if section.values.get("name") == "AttentionModel":
            found[name], frozen[name] = _read_attention(section, "student" if name == student_name else "teacher")
    if "class_dim" not in reading.flags and "class_num" in found[student_name]:
        reading.set("class_dim", found[student_name].take("class_num", positive, 1000))
    for section in found.values():
        if section.take("class_num", positive, None) not in (None, reading.classes):
            section.refuse("class_num", "teacher and student have other classes than Arch.class_num")
    student, teacher = read_network(found[student_name]), read_network(found[teacher_name])
    if student:
        _use_network(found[student_name], student, script)
    if teacher and script == "train":
        _use_teacher(found[teacher_name], teacher, learns=not frozen[teacher_name])
        if frozen[student_name]:
            arch.refuse("freeze_params_list", f"{student_name} is to be trained and does not learn")


def _read_attention(section: Section, which: str) -> tuple[Section, bool]:
    """An AttentionModel, which is a network and, after it, what AFD makes of some of its layers.

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
        section.refuse("models", "should be a network and what AFD makes of its layers")
        return Section(section.reading, section.path, {}), True
    network, transform = found.values()
    transform.only("name", f"LinearTransform{which.capitalize()}")
    layers = transform.take("keys", list_of(layer_name), [])
    section.reading.attention[which] = "+".join(layers)
    section.reading.attention["dim"] = str(transform.take("qk_dim", positive, 128))
    # What the layers give is measured here.
    transform.idle("t_shapes", *(("s_shapes",) if which == "student" else ()))
    transform.finish(("keys",))
    if frozen[list(found)[1]]:
        section.refuse("freeze_params_list", "what AFD makes of the layers is to be trained and does not learn")
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
        # Its weights come from elsewhere: PaddleClas's recipes name them on the command line.
        path = ".".join(map(str, section.path))
        reading.needed["teacher_pretrained_model"] = (
            f"{reading.document.place((*section.path, 'pretrained'))}: the teacher has no weights: give them by "
            f"--teacher_pretrained_model=FILE or -o {path}.pretrained=FILE"
        )


def _frozen(arch: Section, found: dict[str, Section]) -> dict[str, bool]:
    """Which of several models do not learn."""
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
