"""What a message advises is what the script that prints it takes.

Every text of the sources that names a flag is found, and every script from which the text can be reached: from the
script's own code by the names that functions refer to. (A name that several functions have stands for all of them, so
that rather too much is reached than too little.)
"""

from __future__ import annotations

import ast
import re
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from utils.flags.idle import CONDITIONS, OTHER_USES
from utils.flags.table import SCRIPTS, flags_of

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "convert_weights": "utils/convert_weights.py",
    "convert_model": "utils/convert_model.py",
    "weights_aggregator": "utils/acnet/weights_aggregator.py",
} | {name: f"{name}.py" for name in ("train", "eval", "infer", "predict", "ema_clean", "reader")}

# Flags of other programs.
FOREIGN = {
    "config",
    "override",
    "help",
    "nproc_per_node",
    "standalone",
    "master_port",
    "name",
    "porcelain",
    "show",
    "untracked",
    # tar's
    "dereference",
    "hard",
    "ignore",
    "sparse",
}

# Scripts, modules and flags of texts that can be reached by their names, and are printed by none of these scripts.
NEVER_PRINTED = (
    # Arguments of what is shared, which stand for what was typed.
    (
        "convert_model eval infer",
        "utils/deploy/exported.py",
        "engine use_compile use_tensorrt features_path score_decimals output_name",
    ),
    ("convert_model eval infer", "utils/deploy/onnx_engines.py utils/deploy/engine_choice.py", "use_tensorrt engine"),
    ("convert_model eval infer", "utils/deploy/executorch_engine.py", "use_compile use_tensorrt use_bf16 use_fp16"),
    ("convert_model", "utils/deploy/export.py utils/deploy/quantize.py", "save_inference"),
    ("predict", "utils/devices.py", "use_gpu"),
    # Of the names of classes it takes ImageNet's, and those in notes.
    (
        "convert_weights weights_aggregator",
        "utils/evaluation/names.py utils/reading/class_names.py utils/reading/numbering.py",
        "class_map_path",
    ),
    ("convert_weights", "utils/training/paddle_states.py", "checkpoint"),
    # They read no images.
    ("convert_weights weights_aggregator ema_clean", "utils/reading/limits.py", "max_image_pixels"),
    # They use no GPU.
    ("convert_weights convert_model weights_aggregator ema_clean reader", "utils/errors.py", "device"),
    # Said of flags that only train.py has.
    (
        "convert_weights convert_model weights_aggregator eval infer predict ema_clean reader",
        "utils/flags/networks.py",
        "list_models recommend",
    ),
    ("eval", "utils/reading/build.py utils/reading/tar_shards.py", "unlabeled_list"),
    ("convert_weights", "utils/training/distillation.py utils/training/step.py", "distill_loss lr_strategy optimizer"),
    # It runs in one process, whose memory is the machine's.
    ("convert_weights", "utils/errors.py", "batch_size"),
    # infer.py loads no exports but those that it has just written.
    (
        "infer",
        "utils/deploy/exported.py utils/deploy/network.py utils/deploy/program_graph.py utils/deploy/engine_choice.py",
        "model_file output_name",
    ),
    ("infer", "utils/deploy/paddle_model.py", "output_name model_file params_file"),
    # There are no ACNets that are built for one image size.
    ("weights_aggregator", "utils/weights/misfit.py", "image_shape"),
    # They take no configurations.
    (
        "convert_weights convert_model weights_aggregator ema_clean",
        "utils/flags/parsing.py utils/flags/paddleclas/arch.py utils/flags/paddleclas/use.py",
        "teacher_pretrained_model pretrained_model class_map_path",
    ),
    # Only train.py has teachers, and only infer.py and predict.py print names of classes.
    ("eval infer predict reader", "utils/flags/paddleclas/arch.py", "teacher_pretrained_model"),
    ("train eval reader", "utils/flags/paddleclas/use.py", "class_map_path"),
    # A batch norm counts the images in training only, and only train.py can do without validation images.
    ("eval infer", "utils/weights/network.py", "accumulate_steps"),
    ("eval reader", "utils/reading/build.py", "validate"),
    # For scripts that have the flag.
    ("convert_weights convert_model weights_aggregator predict ema_clean", "utils/flags/line_parser.py", "data_dir"),
    (
        "convert_weights convert_model weights_aggregator train eval ema_clean reader",
        "utils/flags/line_parser.py",
        "image_path",
    ),
)

FLAG = re.compile(r"--([a-z]\w*)")
# A text that begins so is of a flag that was typed, and printed by no script that does not take it.
SUBJECT = re.compile(r"--(\w+)(: | needs |=\S+| \{\}|$)")
OTHER_SCRIPT = re.compile(r"(\w+)\.py(?: takes| continues with| with)?((?:,? (?:and )?--\w+(?:=\S+)?)+)")


@dataclass
class Definition:
    """A function, method or value of a module: the names it refers to, and its texts."""

    module: str
    names: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)


def texts_of(node: ast.AST) -> Iterator[str]:
    """The texts of a piece of code, with {} for what is put into them; docstrings aside."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from texts_of(part.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        for child in ast.iter_child_nodes(node):
            yield from texts_of(child)


@cache
def definitions() -> dict[str, list[Definition]]:
    """By name, all that is defined in the sources; what a module does when it is imported has the module's name."""
    found: dict[str, list[Definition]] = {}
    files = [ROOT / file for file in FILES.values()]
    for path in dict.fromkeys([*files, *sorted((ROOT / "utils").rglob("*.py"))]):
        module = path.relative_to(ROOT).as_posix()
        if module in ("utils/flags/table.py", "utils/flags/habits.py"):  # the flags themselves, here and elsewhere
            continue
        for name, node in pieces(ast.parse(path.read_text()), module):
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            found.setdefault(name, []).append(Definition(module, names, list(texts_of(node))))
    return found


def pieces(tree: ast.Module, module: str) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                name = part.name if isinstance(part, ast.FunctionDef) else node.name
                yield (node.name if name.startswith("__") else name), part
            yield node.name, ast.Expr(ast.Tuple(node.bases))
        elif isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            yield (target.id if isinstance(target, ast.Name) else module), node
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            yield module, node


@cache
def imported(module: str) -> frozenset[str]:
    """The modules that one imports, and those that these import."""
    found, left = set(), [module]
    while left:
        module = left.pop()
        if module in found or not (ROOT / module).is_file():
            continue
        found.add(module)
        for node in ast.walk(ast.parse((ROOT / module).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                base = node.module.replace(".", "/")
                left += [f"{base}.py", f"{base}/__init__.py", *(f"{base}/{alias.name}.py" for alias in node.names)]
            elif isinstance(node, ast.Import):
                left += [f"{alias.name.replace('.', '/')}.py" for alias in node.names]
    return frozenset(found)


def reached(script: str) -> Iterator[Definition]:
    """What can run when a script does."""
    modules, seen = imported(FILES[script]), set()
    left = [name for name in definitions() if name in modules]  # what modules do when they are imported
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for definition in definitions().get(name, ()):
            if definition.module in modules:
                yield definition
                left += definition.names


def taken_by(script: str) -> set[str]:
    return {name for flags in flags_of(script).values() for flag in flags for name in (flag.name, *flag.aliases)}


def wrong(text: str, script: str) -> list[str]:
    """The flags in a text that neither the script takes, nor another one that the text says them of."""
    bad = []
    subject = SUBJECT.match(text)
    if subject and subject[1] not in taken_by(script) and subject[1] in ALL_FLAGS and subject[0] != text:
        return []
    for other, flags in OTHER_SCRIPT.findall(text):
        if other in SCRIPTS:
            bad += [f"{other}: {flag}" for flag in FLAG.findall(flags) if flag not in taken_by(other)]
            text = text.replace(flags, "", 1)
    known = taken_by(script) | FOREIGN
    for flag in FLAG.findall(text):
        if flag not in known and not (flag.endswith("_") and any(name.startswith(flag) for name in known)):
            bad.append(flag)
    return bad


ALL_FLAGS = frozenset().union(*map(taken_by, SCRIPTS))


@pytest.mark.parametrize("script", FILES)
def test_what_is_advised_is_taken(script):
    advice = {}
    for definition in reached(script):
        if definition.texts and definition.module != "utils/flags/idle.py":
            never = {
                flag
                for scripts, modules, flags in NEVER_PRINTED
                if script in scripts.split() and definition.module in modules.split()
                for flag in flags.split()
            }
            for text in definition.texts:
                if bad := set(wrong(text, script)) - never:
                    advice[f"{definition.module}: {text}"] = bad
    assert advice == {}


class Nothing(Namespace):
    """Flags of a script, of which none is given."""

    def __getattr__(self, name: str) -> None:
        return None


def test_what_is_said_of_idle_flags_is_taken():
    """A line on a flag is printed by the scripts that take it."""
    for names, has_effect, why in (*CONDITIONS, *OTHER_USES):
        for script in SCRIPTS:
            nothing = Nothing(script=script, given=frozenset(), distill_loss=(), gpu_id=0)
            if set(names) & taken_by(script) and not has_effect(nothing):
                assert wrong(why, script) == [], (names, script)
