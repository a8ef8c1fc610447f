"""Translates a PaddleClas configuration into a script's flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from utils.flags.paddleclas import arch, data, loss, run, solver, use
from utils.flags.paddleclas.document import Document, read_document
from utils.flags.paddleclas.section import Reading, Section
from utils.flags.table import flags_of

# The sections of a training configuration; each script reads those it needs.
SECTIONS = ("Global", "Arch", "Loss", "Optimizer", "DataLoader", "Infer", "Metric", "AMP", "EMA")
# Unsupported sections, for compression.
_ASIDE = {"Slim": "pruning and quantization during training are not supported"}
# Keys of configurations older than PaddleClas 2.
_FLUID = ("ARCHITECTURE", "LEARNING_RATE", "OPTIMIZER", "TRAIN", "VALID", "classes_num")


@dataclass
class Translation:
    """The content of a configuration, as flags.

    Attributes:
        flags: name -> value or values as typed.
        refusals: unsupported settings, one line each.
        notes: differences from PaddleClas, one line each.
        idle: keys without effect here.
        needed: flag -> why it must be given in addition.
    """

    flags: dict[str, str | list[str]]
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    needed: dict[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """The flags as command-line words."""
        found = []
        for name, value in self.flags.items():
            found += [f"--{name}={value}"] if isinstance(value, str) else [f"--{name}", *value]
        return found


def translate(script: str, file: str, overrides: Sequence[str]) -> Translation:
    """Translates a configuration into flags of `script`.

    Args:
        script: train, eval, infer, predict or reader.
        file: the configuration.
        overrides: `KEY=VALUE` each, as after -o.

    Raises:
        FlagError: the file cannot be read, or an override is invalid.
    """
    return translate_document(script, read_document(file, overrides))


def translate_document(script: str, document: Document) -> Translation:
    """The same for a configuration already read."""
    reading = Reading(document)
    top = Section(reading, (), document.content)
    if script == "predict":
        _read_deploy(top)
    elif any(name in top for name in _FLUID):
        name = next(name for name in _FLUID if name in top)
        top.refuse(
            name,
            "this configuration is for PaddleClas before 2.0, which is not supported: convert it to the format of 2.x",
        )
    else:
        _read_sections(top, script)
    known = {flag.name for flags in flags_of(script).values() for flag in flags}
    if script == "reader":
        # reader.py takes only training's flags for reading; it ignores the rest.
        reading.flags = {name: value for name, value in reading.flags.items() if name in known}
    assert known >= reading.flags.keys(), f"{script}.py has no {reading.flags.keys() - known}"
    return Translation(reading.flags, reading.refusals, reading.notes, reading.idle, reading.needed)


def _read_deploy(top: Section) -> None:
    if "Arch" in top:
        top.refuse("Arch", "predict.py takes deploy configurations (PreProcess, PostProcess); infer.py takes this one")
        return
    use.read_deploy(top)


def _read_sections(top: Section, script: str) -> None:
    """Reads the sections of a training configuration that the script needs."""
    if "PreProcess" in top:
        top.refuse("PreProcess", f"a deploy configuration is for predict.py, not {script}.py")
        return
    for name, why in _ASIDE.items():
        if name in top:
            top.refuse(name, why)
    common, loaders = top.section("Global"), top.section("DataLoader")
    if script == "train":
        run.read_training_run(common)
        arch.read_arch(top.section("Arch"), script)
        solver.read_optimizer(top.section("Optimizer"))
        data.read_training_data(loaders)
        loss.read_training_loss(top.section("Loss"))
        solver.read_amp(top.section("AMP"))
        solver.read_ema(top.section("EMA"))
        loss.read_metric(top.section("Metric"), script)
    elif script == "reader":
        run.read_common(common, script)
        arch.read_arch(top.section("Arch"), script)
        data.read_training_data(loaders)
    else:
        run.read_use(common, script)
        arch.read_arch(top.section("Arch"), script)
        if script == "eval":
            data.read_validation_data(loaders, "batch_size")
            loss.read_metric(top.section("Metric"), script)
        else:
            use.read_infer(top.section("Infer"), loaders)
    top.asked.update(SECTIONS)
    top.finish(SECTIONS)
