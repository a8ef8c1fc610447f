"""The sections Loss and Metric as flags."""

from __future__ import annotations

from collections.abc import Callable

from utils.flags.paddleclas.section import (
    Section,
    boolean,
    choice,
    fraction,
    layer_name,
    list_of,
    number,
    positive,
    shown,
    text,
    typed,
)

_METRICS = ("TopkAcc", "TprAtFpr", "ATTRMetric", "HammingDistance", "AccuracyScore", "MultiLabelMAP")


def read_training_loss(section: Section) -> None:
    """The flags of Loss.Train."""
    losses = list(section.entries("Train"))
    section.asked.add("Eval")
    section.finish(("Train", "Eval"))
    if not losses:
        section.refuse("Train", "is missing")
        return
    if "use_distill" in section.reading.flags:
        words = [word for name, options in losses for word in _distillation_words(name, options)]
        section.reading.set("distill_loss", words)
        return
    if len(losses) > 1:
        section.refuse("Train", "several losses are supported only with a teacher")
        return
    ((name, options),) = losses
    if name in ("CELoss", "MixCELoss", "GoogLeNetLoss"):
        _read_cross_entropy(options)
    elif name == "MultiLabelLoss":
        _read_multi_label(options)
    else:
        options.refuse(None, "the loss is not supported; choose from CELoss, MixCELoss, GoogLeNetLoss, MultiLabelLoss")
        return
    options.only("weight", 1, 1.0)
    options.finish()


def _read_cross_entropy(options: Section) -> None:
    if epsilon := options.take("epsilon", fraction, 0.0):
        options.reading.set("use_label_smoothing", True)
        options.reading.set("label_smoothing_epsilon", epsilon)


def _read_multi_label(options: Section) -> None:
    set_flag = options.reading.set
    set_flag("multi_label", True)
    if epsilon := options.take("epsilon", fraction, 0.0):
        set_flag("use_label_smoothing", True)
        set_flag("label_smoothing_epsilon", epsilon)
    if options.take("weight_ratio", boolean, False):
        set_flag("label_weights_by_ratio", True)
    if options.take("size_sum", boolean, False):
        set_flag("sum_over_labels", True)


# ------------------------------------------------------------------------------------------------------- distillation

# PaddleClas's loss -> our word, and its options -> kind, default and our name.
_DISTILLATION: dict[str, tuple[str, dict[str, tuple[Callable, object, str]]]] = {
    "DistillationCELoss": ("soft_ce", {}),
    "DistillationGTCELoss": ("ce", {"epsilon": (number, None, "epsilon")}),
    "DistillationDMLLoss": (
        "dml",
        {
            "act": (choice("softmax", "sigmoid"), "softmax", "act"),
            "sum_across_class_dim": (boolean, False, "sum"),
            "weight_ratio": (boolean, False, "weight_ratio"),
        },
    ),
    "DistillationKLDivLoss": ("kl", {"temperature": (number, 4.0, "temperature")}),
    "DistillationDISTLoss": ("dist", {"beta": (number, 1.0, "beta"), "gamma": (number, 1.0, "gamma")}),
    "DistillationDKDLoss": (
        "dkd",
        {
            "temperature": (number, 1.0, "temperature"),
            "alpha": (number, 1.0, "alpha"),
            "beta": (number, 1.0, "beta"),
        },
    ),
    "DistillationSKDLoss": (
        "skd",
        {
            "temperature": (number, 1.0, "temperature"),
            "multiplier": (number, 2.0, "multiplier"),
            "alpha": (number, 0.9, "alpha"),
        },
    ),
    "DistillationWSLLoss": ("wsl", {"temperature": (number, 2.0, "temperature")}),
    "DistillationDistanceLoss": (
        "distance",
        {
            "mode": (choice("l1", "l2", "smooth_l1"), "l2", "mode"),
            "act": (choice("softmax", "sigmoid"), None, "act"),
        },
    ),
    "DistillationMultiLabelLoss": (
        "multi_label",
        {"weight_ratio": (boolean, False, "weight_ratio"), "size_sum": (boolean, False, "sum")},
    ),
}


# The losses of PaddleClas's DistillationPairLoss.
_PAIRS: dict[str, tuple[str, dict[str, tuple[Callable, object, str]]]] = {
    "MGDLoss": ("mgd", {"alpha_mgd": (number, 1.756, "alpha"), "lambda_mgd": (fraction, 0.15, "mask")}),
    "PEFDLoss": ("pefd", {"num_projectors": (positive, 3, "projectors")}),
}
_BOTH = ["Student", "Teacher"]
_WITH_LABELS = ("DistillationGTCELoss", "DistillationMultiLabelLoss")
_ALL = (*_DISTILLATION, "DistillationPairLoss", "AFDLoss")


def _distillation_words(name: str, options: Section) -> list[str]:
    """The words of --distill_loss for a loss: none if it is refused, two if the teacher learns from it too."""
    if name not in _ALL:
        options.refuse(None, f"the loss is not supported; choose from {', '.join(_ALL)}")
        return []
    if name == "AFDLoss":
        words, parts = _read_attention(options)
    elif name == "DistillationPairLoss":
        words, parts = _read_pair(options)
    else:
        word, kinds = _DISTILLATION[name]
        words, parts = [word], _read_parts(options, kinds)
        options.only("model_name_pairs", [_BOTH])
        if name == "DistillationDistanceLoss":
            parts += _read_layer(options, "key", "layer")
            options.only("reduction", "mean")
        else:
            options.only("key", "logits")
        if name in _WITH_LABELS:
            words = _read_names(options, word)
    if (weight := options.take("weight", number, 1.0)) != 1.0:
        parts.append(f"weight={typed(weight)}")
    if name == "DistillationMultiLabelLoss":
        options.reading.set("multi_label", True)
    options.idle("name")
    options.finish(("weight", "model_names"))
    return [":".join([word, *parts]) for word in words]


def _read_parts(options: Section, kinds: dict[str, tuple[Callable, object, str]]) -> list[str]:
    """The options of a word that differ from their defaults."""
    parts = []
    for key, (kind, default, called) in kinds.items():
        value = options.take(key, kind, default)
        if value != default:
            parts.append(called if value is True else f"{called}={typed(value)}")
    return parts


def _read_layer(options: Section, key: str, called: str) -> list[str]:
    """A layer; None for the logits."""
    name = options.take(key, layer_name, "logits")
    return [] if name == "logits" else [f"{called}={name}"]


def _read_names(options: Section, word: str) -> list[str]:
    """The words of a hard-label loss: for the student, the teacher, or both."""
    names = options.take("model_names", list_of(text), ["Student"])
    learns = "teacher_learns" in options.reading.flags
    if set(names) - set(_BOTH) or ("Teacher" in names and not learns):
        allowed = "give Student and Teacher" if learns else "the teacher is frozen, so give [Student]"
        options.refuse("model_names", f"{shown(names)} is not supported: {allowed}")
        return []
    return [word if name == "Student" else f"teacher_{word}" for name in _BOTH if name in names]


def _read_pair(options: Section) -> tuple[list[str], list[str]]:
    """The word of a loss between two layers, and its options."""
    base = options.take("base_loss_name", text, "")
    if base not in _PAIRS:
        options.refuse("base_loss_name", f"{shown(base)} is not supported; choose from {', '.join(_PAIRS)}")
        return [], []
    word, kinds = _PAIRS[base]
    options.only("model_name_pairs", [_BOTH])
    mine, theirs = (options.take(key, layer_name, None) for key in ("s_key", "t_key"))
    if mine is None or theirs is None:
        options.refuse("s_key" if mine is None else "t_key", "is missing: name the layer that the loss compares")
    # We measure the shapes instead.
    plural = "s" if word == "mgd" else ""
    options.idle(f"student_channel{plural}", f"teacher_channel{plural}")
    places = [f"layer={mine}", *([] if mine == theirs else [f"teacher_layer={theirs}"])]
    return [word], [*places, *_read_parts(options, kinds)]


def _read_attention(options: Section) -> tuple[list[str], list[str]]:
    """The word of AFD, and its options; Arch names its layers."""
    found = options.reading.attention
    options.only("model_name_pair", _BOTH)
    options.only("student_keys", ["bilinear_key", "value"])
    options.only("teacher_keys", ["query", "value"])
    options.idle("s_shapes", "t_shapes")
    if found.keys() != {"student", "teacher", "dim"}:
        options.refuse(None, "student and teacher in Arch must be AttentionModels")
        return [], []
    options.only("qk_dim", int(found["dim"]))
    parts = [f"layers={found['student']}", f"teacher_layers={found['teacher']}"]
    return ["afd"], [*parts, *([] if found["dim"] == "128" else [f"dim={found['dim']}"])]


# ------------------------------------------------------------------------------------------------------------- metrics


def read_metric(section: Section, script: str) -> None:
    """The flags of Metric.Eval; its first metric selects train.py's best_model."""
    # Training metrics are top-k accuracies, which are printed anyway.
    section.asked.add("Train")
    reading = section.reading
    for number_of, (name, options) in enumerate(section.entries("Eval")):
        kind = {"DistillationTopkAcc": "TopkAcc", "GoogLeNetTopkAcc": "TopkAcc"}.get(name, name)
        if kind not in _METRICS:
            options.refuse(None, f"the metric is not supported; choose from {', '.join(_METRICS)}")
            continue
        if kind == "TopkAcc":
            counts = options.take("topk", list_of(positive), [1, 5])
            if 1 not in counts and not number_of and script == "train":
                options.refuse("topk", "1 is missing: the accuracy that selects the best model")
            if (largest := max(counts, default=5)) != 5:
                reading.set("eval_topk", largest)
            best = "acc1"
        elif kind == "TprAtFpr":
            reading.set("tpr_at_fpr", options.take("max_fpr", fraction, 1e-3))
            best = "tpr"
        else:
            best = {"ATTRMetric": "ma", "HammingDistance": "hamming", "AccuracyScore": "accuracy"}.get(kind, "map")
            options.idle("map_type", "base")
        options.idle("model_key")
        options.finish()
        if not number_of and best != "acc1" and script == "train":
            reading.set("best_metric", best)
    section.finish(("Eval",))
