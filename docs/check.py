"""Checks that the documentation is true: runs its shell and Python blocks.

They run in a copy of the project under a temporary folder, with small data sets in it.

    python docs/check.py [README.md docs/weights.md ...]     all documents by default; several minutes
    python docs/check.py --parse                             runs nothing: seconds, and part of the test suite

A block that cannot run everywhere has a comment before it that says why, <!-- check-docs: needs four GPUs -->. Its
commands, as those in running text, are only parsed: their flags, networks, recipes and scripts have to exist. Training
is cut short: `QUICK` is added to its commands. Exit code 1 says that something failed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from utils.errors import FlagError
from utils.flags import parse as parse_flags
from utils.flags.habits import HABITS
from utils.flags.line_parser import LineParser
from utils.flags.table import GROUPS

ROOT = Path(__file__).resolve().parent.parent
QUICK = "--num_epochs=1 --batch_size=2 --test_batch_size=8 --lr=0.001 --print_step=1 --reader_thread=1"
LIMIT = 900  # seconds for a block

SHELL = ("bash", "sh", "shell")
# Flags of other programs, and of utils/verify.py, that the documents name.
FOREIGN = {
    "MNNModel", "additional-suffix", "all", "bizCode", "help", "max_restarts", "mirror", "modelFile", "name", "nnodes",
    "no-validate", "nodes", "nproc_per_node", "parse", "rdzv_backend", "rdzv_endpoint", "retry", "retry-connrefused",
    "saveStaticModel", "source", "standalone", "table", "trainer",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    Attributes:
        document: its file.
        line: number of the first line of its text.
        language: the word after the fence.
        text: what is between the fences.
        reason: why it cannot run here; "" if it can.
    """

    document: Path
    line: int
    language: str
    text: str
    reason: str

    @property
    def place(self) -> str:
        """FILE:LINE, for reports."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def documents() -> list[Path]:
    """Every document whose commands are checked."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document."""
    text = document.read_text(encoding="utf-8")
    pattern = r"^(?:<!-- check-docs: (?P<reason>.+?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    return [
        Block(
            document,
            text[: match.start("text")].count("\n") + 1,
            match["language"],
            match["text"],
            match["reason"] or "",
        )
        for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL)
    ]


def commands(text: str) -> list[str]:
    """The commands of a shell block, each on one line, without comments."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [command for line in lines if (command := re.sub(r"(^|\s+)#.*", "", line).strip())]


def inline_commands(document: Path) -> Iterator[str]:
    """The commands that a document has in its running text, in backticks."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", text):
        if re.match(r"(python \S+\.py|python -m|bash run\.sh) \S", code):
            yield code


def unknown_flags(document: Path) -> list[str]:
    """The flags that a document names and no script has."""
    known = {name for group in GROUPS.values() for flag in group for name in (flag.name, *flag.aliases)}
    for script in (path for folder in ("benchmarks", "data") for path in (ROOT / folder).rglob("*.py")):
        known.update(re.findall(r'add_argument\(\s*"--([\w-]+)"', script.read_text(encoding="utf-8")))
    if document.name == "other_programs.md":  # which names those of others
        known.update(word.replace("_", mark) for words, _ in HABITS for word in words.split() for mark in "-_")
        known |= {"config", "override"} | {name.replace("_", "-") for name in known}
    named = re.findall(r"(?<![\w-])--([a-z][\w-]*)", document.read_text(encoding="utf-8"))
    return sorted(set(named) - known - FOREIGN)


def parse(command: str) -> str | None:
    """Checks a command without running it.

    Returns:
        What is wrong with it, or None.
    """
    syntax = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
    if syntax.returncode:
        return syntax.stderr.strip()
    words = shlex.split(command)
    while words and re.match(r"\w+=", words[0]):  # variables of the environment
        words = words[1:]
    if words[:2] == ["bash", "run.sh"]:
        return _parse_run_sh(words[2:])
    if words and words[0] == "bash":
        return None if (ROOT / words[1]).is_file() else f"there is no {words[1]}"
    if words and words[0] == "python":
        return _parse_python(words[1:])
    return None


def _parse_run_sh(words: list[str]) -> str | None:
    """Checks the arguments of run.sh."""
    command, *arguments = words or [""]
    if command == "train":
        recipe, *arguments = arguments
        if not (ROOT / "scripts" / "train" / f"{recipe}.sh").is_file():
            return f"there is no recipe {recipe}"
    if command in ("train", "eval", "infer", "predict"):
        return _parse_flags(command, arguments)
    known = re.search(r"usage: bash run.sh.*?^TEXT$", (ROOT / "run.sh").read_text(), re.MULTILINE | re.DOTALL)
    assert known is not None, "run.sh says how it is used"
    return None if not command or re.search(rf"^  {command} ", known[0], re.MULTILINE) else f"run.sh has no {command}"


def _parse_python(words: list[str]) -> str | None:
    """Checks the arguments of Python: a script, perhaps started by torch.distributed.run."""
    number = next((number for number, word in enumerate(words) if word.endswith(".py")), None)
    if number is None:
        return None
    script = ROOT / words[number]
    if not script.is_file():
        return f"there is no {words[number]}"
    takes_flags = f'parse("{script.stem}")' in script.read_text(encoding="utf-8")  # others have arguments of their own
    return _parse_flags(script.stem, words[number + 1 :]) if takes_flags else None


def _parse_flags(script: str, words: list[str]) -> str | None:
    """Checks the flags of one of the scripts, and that the networks they name exist.

    A configuration is the user's: where it is named, there is nothing to check.
    """
    if "-c" in words:
        return None
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            args = parse_flags(script, words)
            for name in ("model", "teacher_model"):
                if name in args.given:
                    models.check_name(getattr(args, name))
        except SystemExit as end:
            return said.getvalue().strip() if end.code else None
        except (FlagError, ValueError) as error:
            return str(error)
    return None


# ------------------------------------------------------------------------------------------------- running them


def prepare(house: Path, used: str) -> None:
    """Fills a folder with a copy of the project and what the documents, whose text is `used`, take for granted.

    data/digits/                  prepared
    data/ILSVRC2012/, my_data/    24 images each, of digits: list files and 1000 classes; folders of 2 classes
    photos/, cat.jpg              images
    NAME_pretrained.tar           random weights of each network of which `used` has that file
    """
    from utils.weights.write import write_weights

    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (house / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, house / name)
    subprocess.run([sys.executable, "data/digits/prepare.py"], cwd=house, check=True, stdout=subprocess.DEVNULL)
    for part, count in (("train", 16), ("val", 8)):
        digits = (house / "data" / "digits" / f"{part}_list.txt").read_text().split()[::2]
        lines = []
        for number, name in enumerate(digits[:: len(digits) // count][:count]):
            source = house / "data" / "digits" / name
            animal = ("cat", "dog")[number % 2]
            for target in (f"data/ILSVRC2012/{part}/{number}.png", f"my_data/{part}/{animal}/{number}.png"):
                (house / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, house / target)
            lines.append(f"{part}/{number}.png {number * 50}\n")
        (house / "data" / "ILSVRC2012" / f"{part}_list.txt").write_text("".join(lines))
    shutil.copytree(house / "data" / "digits" / "samples", house / "photos")
    shutil.copy(house / "photos" / "3.png", house / "cat.jpg")  # readers go by the content
    for name in set(re.findall(r"\b(\w+)_pretrained\.tar", used)) & set(models.list_models()):
        write_weights(models.build(name), house / f"{name}_pretrained.tar", name, 1000)


def run(block: Block, house: Path) -> str | None:
    """Runs a block.

    Returns:
        What it printed last, if it failed, or None.
    """
    if block.language == "python":
        words = [sys.executable, "-c", block.text]
    else:
        lines = [
            f"{command} {QUICK}" if re.search(r"\btrain\.py |run\.sh train ", command) else command
            for command in commands(block.text)
        ]
        words = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    try:
        result = subprocess.run(
            words, cwd=house, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not done within {LIMIT} seconds"
    return None if result.returncode == 0 else f"exit code {result.returncode}\n{result.stdout[-3000:]}"


def problems(document: Path) -> Iterator[str]:
    """What is wrong with a document as far as can be told without running anything."""
    for block in blocks(document):
        if block.language in SHELL:
            for command in commands(block.text):
                if problem := parse(command):
                    yield f"{block.place}: {command}: {problem}"
        elif block.language == "python":
            compile(block.text, block.place, "exec")
    for command in inline_commands(document):
        if problem := parse(command):
            yield f"{document.name}: `{command}`: {problem}"
    for name in unknown_flags(document):
        yield f"{document.name}: no script has the flag --{name}"
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r"(    |\t)(python|bash|pip|export) \S", line) and not _in_block(document, number):
            yield f"{document.name}:{number}: a command outside of a ```bash block is not checked"


def _in_block(document: Path, line: int) -> bool:
    return any(block.line <= line < block.line + block.text.count("\n") for block in blocks(document))


def check(block: Block, house: Path | None) -> Iterator[tuple[str, str, str]]:
    """Runs a block in `house`; with None, or if the block has a reason against it, nothing is run.

    Yields:
        For each command: what was done (ran, parsed, skipped, FAILED), the command, and a note on it.
    """
    listed = commands(block.text) if block.language in SHELL else ["(Python)"]
    if house is None or block.reason:
        for command in listed:
            # What is not ours cannot be parsed either.
            ours = command == "(Python)" or re.match(r"(\w+=\S+ )*(python|bash) ", command)
            yield "parsed" if ours else "skipped", command, block.reason
        return
    started = time.perf_counter()
    failure = run(block, house)
    for command in listed:
        yield "FAILED" if failure else "ran", command, failure or f"{time.perf_counter() - started:.0f} s"


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument(
        "documents", nargs="*", type=lambda name: Path(name).resolve(), metavar="FILE.md", help="default: all documents"
    )
    parser.add_argument(
        "--parse",
        action="store_true",
        help="run nothing: only look whether the flags, networks and scripts that commands name exist",
    )
    args = parser.parse_args()
    # What README_cn.md runs, README.md runs too.
    chosen = args.documents or [document for document in documents() if document.name != "README_cn.md"]
    wrong = [problem for document in chosen for problem in problems(document)]
    for problem in wrong:
        print(f"FAILED  {problem}")

    counts = Counter(FAILED=len(wrong))
    with tempfile.TemporaryDirectory() as folder:
        prepared, house = Path(folder, "prepared"), None
        if not args.parse:
            prepare(prepared, "".join(document.read_text(encoding="utf-8") for document in chosen))
        for document in chosen:
            if not args.parse:  # each document begins afresh
                house = Path(folder, "_".join(document.relative_to(ROOT).parts))
                shutil.copytree(prepared, house, copy_function=os.link)
            for block in blocks(document):
                if block.language in (*SHELL, "python"):
                    for how, command, note in check(block, house):
                        counts[how] += 1
                        print(f"{how:7} {block.place}  {command}" + (f"  ({note})" if note else ""), flush=True)
    print(", ".join(f"{count} {how}" for how, count in counts.items()))
    sys.exit(counts["FAILED"] > 0)


if __name__ == "__main__":
    main()
