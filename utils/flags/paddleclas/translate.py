"""A configuration of PaddleClas as the flags of a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from utils.flags.paddleclas import arch, data, loss, run, solver, use
from utils.flags.paddleclas.document import Document, read_document
from utils.flags.paddleclas.section import Reading, Section
from utils.flags.table import flags_of

# The sections of a configuration for training; each script reads those that it needs.
SECTIONS = ("Global", "Arch", "Loss", "Optimizer", "DataLoader", "Infer", "Metric", "AMP", "EMA")
# Sections that are somebody else's: of compression.
_ASIDE = {"Slim": "pruning and quantization while training are not here"}
# What configurations before PaddleClas 2 have.
_FLUID = ("ARCHITECTURE", "LEARNING_RATE", "OPTIMIZER", "TRAIN", "VALID", "classes_num")


@dataclass
class Translation:
    """What a configuration says.

    Attributes:
        flags: name -> value or values as they are typed.
        refusals: what cannot be honoured, a line each.
        notes: what is different here, a line each.
        idle: keys without meaning here.
        needed: flag -> why it has to be given besides.
    """

    flags: dict[str, str | list[str]]
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    needed: dict[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """The flags as words of a command line."""
        found = []
        for name, value in self.flags.items():
            found += [f"--{name}={value}"] if isinstance(value, str) else [f"--{name}", *value]
        return found


def translate(script: str, file: str, overrides: Sequence[str]) -> Translation:
    """The flags of `script` that a configuration stands for.

    Args:
        script: train, eval, infer, predict or reader.
        file: the configuration.
        overrides: `KEY=VALUE` each, as after -o.

    Raises:
        FlagError: the file cannot be read, or an override is none.
    """
    return translate_document(script, read_document(file, overrides))


def translate_document(script: str, document: Document) -> Translation:
    """The same of a configuration that is read already."""
    reading = Reading(document)
    top = Section(reading, (), document.content)
    if script == "predict":
        _read_deploy(top)
    elif any(name in top for name in _FLUID):
        name = next(name for name in _FLUID if name in top)
        top.refuse(name, "this is a configuration of PaddleClas before 2.0, which is not supported")
    else:
        _read_sections(top, script)
    known = {flag.name for flags in flags_of(script).values() for flag in flags}
    if script == "reader":
        # It shows what training reads, and knows nothing of what else there is.
        reading.flags = {name: value for name, value in reading.flags.items() if name in known}
    assert known >= reading.flags.keys(), f"{script}.py has no {reading.flags.keys() - known}"
    return Translation(reading.flags, reading.refusals, reading.notes, reading.idle, reading.needed)


def _read_deploy(top: Section) -> None:
    if "Arch" in top:
        top.refuse("Arch", "predict.py takes deploy configurations (PreProcess, PostProcess); infer.py takes this one")
        return
    use.read_deploy(top)


def _read_sections(top: Section, script: str) -> None:
    """Reads what the script needs of a configuration for training."""
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
