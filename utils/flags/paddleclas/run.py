"""The section Global as flags."""

from __future__ import annotations

from utils.flags.paddleclas.section import Section, boolean, choice, integer, list_of, positive, text

# Keys without effect here: device names, or values that follow from other keys.
_IDLE = (
    "image_channel",
    "to_static",
    "use_visualdl",
    "image_shape",
    "distributed",
    "is_distributed",
    "save_inference_dir",
    "profiler_options",
    "print_batch_step",
    "eval_mode",
    "output_dir",
    "save_interval",
    "eval_interval",
    "eval_during_train",
    "epochs",
    "start_eval_epoch",
    "update_freq",
    "use_multilabel",
    "train_mode",
    "use_dali",
    "checkpoints",
    "pretrained_model",
)


def _weights(section: Section, key: str, flag: str) -> None:
    """A weight file, or its path without .pdparams, as in PaddleClas."""
    if path := section.take(key, text, ""):
        if path.startswith(("http://", "https://")):
            section.reading.needed[flag] = (
                f"{section.reading.document.place((*section.path, key))}: URLs are not supported: download the file "
                f"and give --{flag}=FILE"
            )
            return
        section.reading.set(flag, path)


def read_common(section: Section, script: str) -> None:
    """The keys of Global for all scripts: class_num, device, seed."""
    reading = section.reading
    if section.take("device", choice("gpu", "cpu", "xpu", "npu", "mlu", "gcu"), "gpu") == "cpu":
        reading.set("use_gpu", False)
    if "use_gpu" in section:
        section.refuse("use_gpu", "is from PaddleClas before 2.0: give Global.device=cpu or gpu")
    section.only("eval_mode", "classification", why=", only classification")
    if "class_num" in section:
        reading.set("class_dim", section.take("class_num", positive, 1000))
    if script in ("train", "reader"):
        section.only("train_mode", "progressive")
        reading.progressive = section.values.get("train_mode") == "progressive"
    seed = section.take("seed", integer, None) if section.values.get("seed") is not False else None
    if seed is not None and script in ("train", "reader"):
        reading.set("random_seed", seed)


def read_training_run(section: Section) -> None:
    """The flags of Global for train.py."""
    reading = section.reading
    set_flag = reading.set
    read_common(section, "train")
    if path := section.take("checkpoints", text, ""):
        set_flag("checkpoint", path)
    _weights(section, "pretrained_model", "pretrained_model")
    if "pretrained_model" in reading.flags:
        set_flag("skip_misfits", True)
    set_flag("model_save_dir", section.take("output_dir", text, "./output/"))
    set_flag("num_epochs", section.take("epochs", positive, 1))
    set_flag("print_step", section.take("print_batch_step", positive, 10))
    set_flag("save_step", section.take("save_interval", positive, 1))
    if section.take("eval_during_train", boolean, True):
        if (interval := section.take("eval_interval", positive, 1)) != 1:
            set_flag("eval_interval", interval)
        # PaddleClas counts the first validated epoch, we count the epochs without validation.
        if (start := section.take("start_eval_epoch", integer, 0)) > 1:
            set_flag("start_eval_epoch", start - 1)
    else:
        set_flag("validate", False)
    if (batches := section.take("update_freq", positive, 1)) != 1:
        # Its batches are parts of ours; see `data`.
        set_flag("accumulate_steps", batches)
    if section.take("use_multilabel", boolean, False):
        set_flag("multi_label", True)
    if section.take("use_dali", boolean, False):
        set_flag("use_dali", True)
    if section.take("use_visualdl", boolean, False):
        reading.note("curves are written for TensorBoard, if installed, instead of VisualDL")
    finish(section)


def read_use(section: Section, script: str) -> None:
    """The flags of Global for eval.py and infer.py."""
    read_common(section, script)
    _weights(section, "pretrained_model", "pretrained_model")
    if section.take("use_multilabel", boolean, False):
        section.reading.set("multi_label", True)
    if script == "eval":
        section.reading.set("print_step", section.take("print_batch_step", positive, 10))
    if script == "infer" and "save_inference_dir" in section:
        section.reading.set("save_inference_dir", section.take("save_inference_dir", text, "./inference"))
    finish(section)


def finish(section: Section) -> None:
    """Accepts the keys of Global that do not concern this script, and refuses unknown ones."""
    section.take("image_shape", list_of(positive, 3), None)
    for name in _IDLE:
        if name not in section.asked:
            section.asked.add(name)
    section.finish()
