"""The house: which room may import which, no circle, no script imported, and how long files and functions may be."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from utils.flags.table import GROUPS

ROOT = Path(__file__).resolve().parents[2]

# Room -> the rooms that it may import; scripts may import all. (Facts of the networks are at the bottom: models/.)
PLAN = {
    "models": set(),
    "ground": set(),
    "flags": {"formats", "ground", "models"},
    "formats": {"ground"},
    "reading": {"formats", "flags", "ground"},
    "programs": {"formats", "ground"},
    "weights": {"programs", "formats", "flags", "ground", "models"},
    "evaluation": {"weights", "reading", "formats", "flags", "ground", "models"},
    "training": {"evaluation", "weights", "reading", "formats", "flags", "ground", "models"},
    "serving": {"deploy", "evaluation", "weights", "programs", "reading", "formats", "flags", "ground", "models"},
    "deploy": {"evaluation", "weights", "programs", "reading", "formats", "flags", "ground", "models"},
}
GROUND = {"errors", "files", "console", "processes", "devices", "system", "torchvision_compat"}

MAX_FILE, MAX_FUNCTION = 400, 60
MAX_TRACKED = 4 << 20  # bytes
# Files that are a table in the main, however long.
TABLES = {"utils/flags/table.py", "models/families.py"}


@cache
def sources() -> dict[str, ast.Module]:
    """Every file of the project, apart from its tests: path -> what Python reads in it."""
    folders = ("models", "utils", "docs", "benchmarks", "data")
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(paths)}


def is_script(tree: ast.Module) -> bool:
    """Whether a file is started by users."""
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body)


def module_of(path: str) -> str:
    """The name that a file is imported by."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "_t.TYPE_CHECKING")


def imports(tree: ast.Module, modules: set[str], *, at_start: bool = False) -> set[str]:
    """The modules of ours that a file imports; with `at_start` without those imported within functions."""
    found = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if at_start and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_for_types(node)):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else str(node.module) for name in names]
        else:
            continue
        found |= {name for name in names if name in modules}
    return found


def room_of(module: str) -> str | None:
    """The room that a module is in; None for a script, and what only scripts use."""
    first, _, rest = module.partition(".")
    if first == "models":
        return "models"
    room = rest.partition(".")[0]
    return None if first != "utils" else "ground" if room in GROUND else room if room in PLAN else None


def test_arrows_go_downwards():
    modules = {module_of(path): tree for path, tree in sources().items()}
    against = []
    for module, tree in modules.items():
        room = room_of(module)
        if room is None:
            continue
        for imported in imports(tree, set(modules)):
            target = room_of(imported)
            if imported != "utils" and target != room and target not in PLAN[room]:
                against.append(f"{module} -> {imported}")
    assert not sorted(against)


def test_every_file_of_utils_is_in_a_room():
    loose = [path for path, tree in sources().items() if path.startswith("utils/") and room_of(module_of(path)) is None]
    assert [path for path in loose if path != "utils/__init__.py" and not is_script(sources()[path])] == []


def test_no_circles():
    modules = {module_of(path): tree for path, tree in sources().items()}
    graph = {module: imports(tree, set(modules), at_start=True) - {module} for module, tree in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_script_is_imported():
    scripts = {module_of(path) for path, tree in sources().items() if is_script(tree)}
    modules = {module_of(path) for path in sources()}
    importers = {
        f"{path} imports {script}" for path, tree in sources().items() for script in imports(tree, modules) & scripts
    }
    assert not sorted(importers)


def functions(path: str) -> dict[str, int]:
    """The functions of a file and their lengths, without decorators and docstrings."""
    lengths = {}
    for node in ast.walk(sources()[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[1].lineno if ast.get_docstring(node) is not None and len(node.body) > 1 else node.lineno
            lengths[f"{path}: {node.name}"] = (node.end_lineno or start) - start + 1
    return lengths


def test_no_file_is_long():
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in sources()}
    long = {path: length for path, length in lengths.items() if length > MAX_FILE and path not in TABLES}
    assert long == {}


def test_no_tracked_file_is_large():
    """What a trial wrote into the folder is easily committed with the rest."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout of git's")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 500
    assert [path.name for path in files if path.is_file() and path.stat().st_size > MAX_TRACKED] == []


def test_no_document_has_marks_of_a_merge():
    """Python's files would not compile with them; a document shows them to its readers."""
    marks = re.compile(r"^(<{7}|>{7}|\|{7})( |$)|^={7}$", re.MULTILINE)
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.txt"), *ROOT.glob("scripts/**/*.*")]
    assert len(documents) > 30
    assert [path.name for path in documents if marks.search(path.read_text(encoding="utf-8"))] == []


def test_no_function_is_long():
    lengths = {name: length for path in sources() for name, length in functions(path).items()}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION} == {}


def test_flags_that_are_read_are_declared():
    """A misspelt one would be found only when the line runs."""
    declared = {flag.name for flags in GROUPS.values() for flag in flags} | {"given", "script", "typed", "values"}
    unknown = []
    for path, tree in sources().items():
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.startswith(("benchmarks/", "docs/", "data/")) or not re.search(r"Namespace|Flags\b|parse\(", text):
            continue  # flags of their own, or none
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("args", "self.args"):
                bad = node.attr not in declared
            else:
                bad = bool(re.match(r"(hasattr\(args, |getattr\(args, .*, )", ast.unparse(node)))
                bad = bad and isinstance(node, ast.Call)
            if bad:
                unknown.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert unknown == []
