"""The section Infer, and PaddleClas's deploy configurations, as flags."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from utils.flags.paddleclas.document import Document
from utils.flags.paddleclas.inputs import read_evaluation
from utils.flags.paddleclas.section import Reading, Section, boolean, fraction, integer, positive, shown, text
from utils.formats.inference_yml import PostProcess

# The list of ImageNet's classes, which we have too.
_IMAGENET_LIST = "imagenet1k_label_list.txt"

# Attributes -> its name in --attributes, and the thresholds of its outputs: key, default, and the outputs.
_ATTRIBUTES: dict[str, tuple[str, int, tuple[tuple[str, float, range], ...]]] = {
    "PersonAttribute": (
        "person",
        26,
        (
            ("threshold", 0.5, range(26)),
            ("glasses_threshold", 0.3, range(1, 2)),
            ("hold_threshold", 0.6, range(18, 19)),
        ),
    ),
    "VehicleAttribute": (
        "vehicle",
        19,
        (("color_threshold", 0.5, range(10)), ("type_threshold", 0.5, range(10, 19))),
    ),
    "TableAttribute": (
        "table",
        6,
        tuple(
            (f"{name}_threshold", 0.5, range(output, output + 1))
            for output, name in enumerate(("source", "number", "color", "clarity", "obstruction", "angle"))
        ),
    ),
}


def read_infer(section: Section, loaders: Section) -> None:
    """The flags of Infer; without that section, preprocessing is as in evaluation.

    Args:
        section: Infer.
        loaders: DataLoader.
    """
    reading = section.reading
    if not section.values:
        for flag, value in read_evaluation(loaders.section("Eval").section("dataset"), "transform_ops").items():
            reading.set(flag, value)
        return
    if path := section.take("infer_imgs", text, ""):
        reading.set("image_path", path)
    reading.set("batch_size", section.take("batch_size", positive, 1))
    for flag, value in read_evaluation(section, "transforms").items():
        reading.set(flag, value)
    post = section.section("PostProcess")
    name = post.take("name", text, "Topk")
    if name == "DistillationPostProcess":
        post.only("model_name", "Student")
        post.idle("key")
        name = post.take("func", text, "Topk")
    if name == "ScoreOutput":
        post.refuse("name", "ScoreOutput belongs in deploy configurations, for predict.py")
    else:
        read_post(post, name)
    section.finish()


def read_post(post: Section, name: str) -> None:
    """The postprocessing flags.

    Args:
        post: its options.
        name: of the operation.
    """
    if name in _ATTRIBUTES:
        _read_attributes(post, name)
    elif name in _POST:
        _POST[name](post)
    else:
        post.refuse("name", f"{name} is not supported; choose from {', '.join((*_POST, *_ATTRIBUTES))}")
        return
    post.finish()


def post_flags(post: PostProcess) -> tuple[dict[str, Any], str]:
    """The flags equivalent to an inference.yml's PostProcess, and its refused settings.

    Class names inside the file are not included.
    """
    arguments = {name: value for name, value in post.arguments.items() if name != "class_id_map_file"}
    reading = Reading(Document("inference.yml", {}))
    read_post(Section(reading, (post.kind,), arguments), post.kind)
    found: dict[str, Any] = dict(reading.flags)
    if "score_decimals" in found:
        return {}, "ScoreOutput gives no classes: write its numbers with predict.py --score_decimals"
    if "topk" in found:
        found["topk"] = int(found["topk"])
    if "multi_label" in found:
        found["multi_label"] = True
    if "threshold" in found:
        texts = [found["threshold"]] if isinstance(found["threshold"], str) else found["threshold"]
        found["threshold"] = [float(value) for value in texts]
    return found, "; ".join(line.removeprefix("inference.yml: ") for line in reading.refusals)


def _read_topk(post: Section) -> None:
    reading = post.reading
    topk = post.take("topk", positive, 1)
    reading.set("topk", min(topk, reading.classes) if "class_dim" in reading.flags else topk)
    _read_class_names(post)


def _read_class_names(post: Section) -> None:
    """The file of class names, if it exists; PaddleClas continues without it."""
    post.asked.add("delimiter")
    if post.values.get("delimiter") not in (None, " ", "\t"):
        post.refuse("delimiter", f"{shown(post.values['delimiter'])} is not supported: use a blank or a tab")
    file = post.take("class_id_map_file", text, "")
    if not file:
        return
    reading = post.reading
    if os.path.isfile(file):
        reading.set("class_map_path", file)
    elif os.path.basename(file) != _IMAGENET_LIST:
        reading.note(
            f"{reading.document.place((*post.path, 'class_id_map_file'))}: {file} does not exist: give the file of "
            "class names with --class_map_path"
        )


def _read_threshold(post: Section) -> None:
    reading = post.reading
    reading.set("threshold", post.take("threshold", fraction, 0.0))
    post.only("default_label_index", 0)
    names = [post.take(f"label_{number}", text, str(number)) for number in (0, 1)]
    if any(not name or set(name) & set(" ,\t") for name in names):
        post.refuse("label_0", "class names with blanks or commas are not supported: use --class_map_path")
    if "label_0" in post or "label_1" in post:
        reading.set("class_names", names)
    _read_class_names(post)


def _read_multi_label(post: Section) -> None:
    post.reading.set("multi_label", True)
    post.reading.set("threshold", post.take("threshold", fraction, 0.5))
    _read_class_names(post)


def _read_scores(post: Section) -> None:
    post.reading.set("score_decimals", post.take("decimal_places", integer, None))
    if "decimal_places" not in post:
        post.refuse("decimal_places", "is missing")


_POST: dict[str, Callable[[Section], None]] = {
    "Topk": _read_topk,
    "ThreshOutput": _read_threshold,
    "MultiLabelThreshOutput": _read_multi_label,
    "ScoreOutput": _read_scores,
}


def _read_attributes(post: Section, name: str) -> None:
    """The flags of a PULC network's attributes."""
    word, outputs, parts = _ATTRIBUTES[name]
    thresholds = [0.5] * outputs
    for key, default, places in parts:
        value = post.take(key, fraction, default)
        for place in places:
            thresholds[place] = value
    post.reading.set("multi_label", True)
    post.reading.set("attributes", word)
    post.reading.set("threshold", thresholds)


# ---------------------------------------------------------------------------------------------- deploy configurations


def read_deploy(section: Section) -> None:
    """The flags of a deploy configuration, for predict.py."""
    reading = section.reading
    _read_deploy_global(section.section("Global"))
    preparation = section.section("PreProcess")
    for flag, value in read_evaluation(preparation, "transform_ops").items():
        if flag not in ("decode_backend", "channel_order"):
            reading.set(flag, value)
    preparation.finish()
    post = section.section("PostProcess")
    save = post.section("SavePreLabel")
    if folder := save.take("save_dir", text, ""):
        reading.note(
            f"{reading.document.place(save.path)}: images are not copied into {folder}, unlike in PaddleClas's "
            "predict_cls.py"
        )
    save.finish()
    kinds = [name for name in post.values if name not in ("main_indicator", "SavePreLabel")]
    name = post.take("main_indicator", text, kinds[0] if len(kinds) == 1 else "")
    if name not in kinds:
        post.refuse("main_indicator", f"{shown(name)} is not in this section: {', '.join(kinds) or 'it is empty'}")
    else:
        read_post(post.section(name), name)
    post.asked.update(kinds)
    section.finish()


def _read_deploy_global(section: Section) -> None:
    """The flags of Global of a deploy configuration."""
    reading = section.reading
    for key in ("det_inference_model_dir", "rec_inference_model_dir"):
        if key in section:
            section.refuse(key, "detection and retrieval are not supported, only classification")
    if path := section.take("infer_imgs", text, ""):
        reading.set("image_path", path)
    if path := section.take("inference_model_dir", text, ""):
        # infer.py takes a file name, not a folder.
        own = os.path.join(path, "model")
        reading.set("model_file", own if os.path.isfile(own) else path)
    reading.set("batch_size", section.take("batch_size", positive, 1))
    if not section.take("use_gpu", boolean, True):
        reading.set("gpu_id", -1)
    if section.take("use_fp16", boolean, False):
        reading.set("use_fp16", True)
    if section.take("use_tensorrt", boolean, False):
        reading.set("use_tensorrt", True)
    if (memory := section.take("gpu_mem", integer, 0)) and memory != 8000:
        reading.set("gpu_mem", memory)
    if section.take("use_int8", boolean, False):
        section.refuse(
            "use_int8", "int8 programs are not supported: make an int8 model with infer.py --calibration_dir"
        )
    for key in ("use_npu", "use_xpu", "use_mlu", "use_ipu"):
        if section.take(key, boolean, False):
            section.refuse(key, "the processor is not supported: use a GPU or a CPU")
    section.idle("enable_mkldnn", "cpu_num_threads", "enable_benchmark", "benchmark", "ir_optim", "enable_profile")
    section.idle("use_onnx", "use_openvino", "use_gcu", "model_name", "save_log_path", "min_subgraph_size")
    section.finish()
