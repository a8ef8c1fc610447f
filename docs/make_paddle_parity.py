"""Writes docs/paddle_parity.md: how far the outputs of exported programs are from PaddlePaddle's.

    python docs/make_paddle_parity.py FOLDER [fluid] [pdmodel] [json] [examples]

FOLDER has the programs and PaddlePaddle's outputs for known images and weights (see the README there). Names of tables
limit the measurement to them. Takes about an hour.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor

from utils.flags.line_parser import LineParser
from utils.formats.inference_model import read_parameters, read_program
from utils.formats.paddle_program import Program
from utils.programs.paddle_translate import translate

FILE = Path(__file__).with_name("paddle_parity.md")
BAR = 1e-5
# A softmax of which the largest probability is above this says little.
SATURATED = 0.999

TITLE = """# Parity with PaddlePaddle: exported programs

How closely this project reproduces the outputs of programs that PaddlePaddle exported: the programs are translated and
run here, and compared with PaddlePaddle's own outputs for two images and known weights, in float32 on a CPU.
[parity.md](parity.md) has the same for the networks.

- probabilities: the largest absolute difference. The limit is 1e-5.
- logits: the largest difference of the softmax's inputs, relative to the largest one. The limit is 1e-5. This is given
  where probabilities say little: the softmax saturates (one probability above 0.999), or the logits are in the
  thousands, where their last digit moves the probabilities by more than the limit.
- float64: given if the difference exceeds the limit. It is the difference of float32 results from float64 results
  computed here: first this project's, then the original's. These networks amplify rounding errors; the errors here are
  no larger than the original's.
- seconds: processor time to translate the program.

docs/make_paddle_parity.py measures the programs and writes this page.
"""

HEADINGS = {
    "examples": "Complete examples",
    "fluid": "PaddlePaddle's fluid 1.8.5 zoo (`model`)",
    "pdmodel": "PaddleClas 2.6.0, exported by PaddlePaddle 2.6.2 (`inference.pdmodel`)",
    "json": "PaddleClas 2.6.0, exported by PaddlePaddle 3.3.1 (`inference.json`)",
}


class Case(NamedTuple):
    """A program, and what the original answered.

    Attributes:
        name: of the network.
        program: of it.
        parameters: its weights.
        images: what it is shown.
        outputs: what the original answered.
        logits: what its softmax was applied to; None if that is not recorded.
    """

    name: str
    program: Program
    parameters: dict[str, np.ndarray]
    images: np.ndarray
    outputs: list[np.ndarray]
    logits: np.ndarray | None


def weight(key: str, shape: list[int], role: str, gain: float) -> np.ndarray:
    """The weight that the original was given: made from its name, see the README of the references."""
    random = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    count = math.prod(shape)
    if role in ("conv", "fc"):
        inputs = math.prod(shape[1:]) if role == "conv" else shape[0]
        values = random.uniform(-1, 1, count) * math.sqrt(gain / inputs)
    elif role in ("scale", "variance"):
        values = random.uniform(0.5, 1.5, count)
    else:
        values = random.uniform(-0.1, 0.1, count)
    return values.astype(np.float32).reshape(shape)


def images(size: int) -> np.ndarray:
    """The two images that the originals were shown."""
    return np.random.RandomState(7).uniform(-2, 2, (2, 3, size, size)).astype(np.float32)


def stored_programs(path: Path, file: str, parameters: dict[str, int]) -> Iterator[tuple[str, Program]]:
    """Networks' names and programs from an archive of NAME/`file`, small networks first.

    Args:
        path: of the archive.
        file: name of the program in a network's folder.
        parameters: numbers of parameters by network.
    """
    programs = {}
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if Path(member.name).name == file else None
            if content is not None:
                programs[Path(member.name).parent.name] = content.read()
    for name in sorted(programs, key=parameters.__getitem__):
        yield name, read_program(programs[name])


def elements(tensors: list[list[Any]], shape: int) -> int:
    """Number of parameters of a network; `shape` is where its tensors' descriptions have theirs."""
    return sum(math.prod(tensor[shape]) for tensor in tensors)


def fluid_cases(folder: Path) -> Iterator[Case]:
    networks = json.loads(gzip.decompress((folder / "legacy_networks.json.gz").read_bytes()))
    sizes = {name: elements(facts["params"], 1) for name, facts in networks.items()}
    with np.load(folder / "fluid_inference_outputs.npz") as outputs, np.load(folder / "legacy_logits.npz") as logits:
        for name, program in stored_programs(folder / "fluid_inference_programs.tar.xz", "model", sizes):
            facts = networks[name]
            kinds = {name: (shape, role) for name, shape, role, *_ in facts["params"]}
            parameters = {key: weight(key, *kinds[key], facts["gain"]) for key in program.parameters}
            # GoogLeNet's logits are recorded after its softmax only.
            recorded = None if name == "GoogLeNet" else logits[f"{name}/out0"]
            yield Case(name, program, parameters, images(facts["image_size"]), [outputs[name]], recorded)


def paddleclas_cases(folder: Path, kind: str) -> Iterator[Case]:
    networks = json.loads(gzip.decompress((folder / "paddleclas_inference_names.json.gz").read_bytes()))["networks"]
    for facts in networks.values():
        described = facts["formats"].get(kind, {}).get("variables")
        facts["variables"] = described or facts.get("variables") or []
    sizes = {name: elements(facts["variables"], 2) for name, facts in networks.items()}
    with (
        np.load(folder / "paddleclas_inference_outputs.npz") as outputs,
        np.load(folder / "paddleclas_inference_tables.npz") as tables,
        np.load(folder / "paddleclas_logits.npz") as first,
        np.load(folder / "paddleclas_extended_logits.npz") as second,
    ):
        archive = folder / "paddleclas_inference_programs.tar.xz"
        for name, program in stored_programs(archive, f"inference.{kind}", sizes):
            facts = networks[name]
            parameters = {entry[0]: _described(entry, facts["gain"], tables) for entry in facts["variables"]}
            places = [(outputs, f"{name}/logits"), (first, f"{name}/out0"), (second, f"{name}/out0")]
            recorded = next((file[key] for file, key in places if key in file), None)
            if name == "GoogLeNet":
                recorded = None
            yield Case(name, program, parameters, images(facts["image_size"]), [outputs[name]], recorded)


def _described(variable: list[Any], gain: float, tables: Any) -> np.ndarray:
    """A tensor of a .pdiparams, as paddleclas_inference_names.json.gz describes it."""
    _, key, shape, role, *more = variable
    if role == "table":
        return tables[more[1]].reshape(shape)
    if role == "gathered_rows":
        source, index, source_shape = more
        return weight(source, source_shape, "other", gain)[tables[index]].transpose(2, 0, 1).reshape(shape)
    if role == "gathered_columns":
        source, index, source_shape = more
        return weight(source, source_shape, "other", gain)[:, tables[index]].reshape(shape)
    return weight(key, shape, role, gain)


def example_cases(folder: Path) -> Iterator[Case]:
    for expected in sorted((folder / "fluid_inference_examples").glob("*_expected.npz")):
        model = expected.with_name(expected.name.removesuffix("_expected.npz"))
        program = read_program(
            next(path for path in (model / "model", model / "__model__") if path.exists()).read_bytes()
        )
        combined = next((path for path in (model / "params", model / "__params__") if path.exists()), None)
        files = combined.read_bytes() if combined else {key: (model / key).read_bytes() for key in program.parameters}
        with np.load(expected) as answers:
            outputs = [answers[f"out{index}"] for index in range(len(program.fetches))]
            yield Case(model.name, program, read_parameters(program, files), answers["images"], outputs, None)
    for expected in sorted((folder / "paddleclas_inference_examples").glob("*/*/expected.npz")):
        path = next(expected.parent.glob("inference.[jp][sd][om][no]*"))
        program = read_program(path.read_bytes())
        parameters = read_parameters(program, (expected.parent / "inference.pdiparams").read_bytes())
        size = json.loads((expected.parent / "info.json").read_text())["image_size"]
        with np.load(io.BytesIO(expected.read_bytes())) as answers:
            name = f"{expected.parent.parent.name}, {expected.parent.name}"
            yield Case(name, program, parameters, images(size), [answers["output"]], answers["logits"])


def relative(values: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest absolute value."""
    return ((values.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def absolute(values: Tensor, expected: Tensor) -> float:
    """Largest difference."""
    return (values.double() - expected.double()).abs().max().item()


@torch.inference_mode()
def row(case: Case) -> tuple[str, float]:
    """A line of the table, and the figure that has to be below the bar."""
    start = time.process_time()
    translation = translate(case.program, case.parameters)
    seconds = time.process_time() - start
    shown = torch.from_numpy(case.images)
    if len(translation.outputs) == 1 and translation.outputs[0].activation == "softmax":
        logits = translation.single(before_activation=True)(shown)
        answers = (logits.softmax(-1),)
    else:
        logits, answers = None, translation.module(shown)
    del translation
    expected = [torch.from_numpy(output) for output in case.outputs]
    error = max(absolute(*pair) for pair in zip(answers, expected, strict=True))
    counts, texts = error, ["", ""]
    by_logits = case.logits is not None and (error > BAR or case.outputs[0].max() > SATURATED)
    ours, theirs, difference = answers[0], expected[0], absolute
    if by_logits and logits is not None:
        ours, theirs, difference = logits, torch.from_numpy(case.logits), relative
        counts = relative(ours, theirs)
        texts[0] = f"{counts:.1e}"
    if counts > BAR:
        translation = translate(case.program, case.parameters, dtype=torch.float64)
        exact = translation.single(before_activation=by_logits)(shown.double())
        own, original = difference(ours, exact), difference(theirs, exact)
        texts[1] = f"{own:.1e}, {original:.1e}"
        counts = 0.0 if own <= 2 * original else own
    return f"| {case.name} | {error:.1e} | {texts[0]} | {texts[1]} | {seconds:.2f} |", counts


CASES: dict[str, Callable[[Path], Iterator[Case]]] = {
    "examples": example_cases,
    "fluid": fluid_cases,
    "pdmodel": lambda folder: paddleclas_cases(folder, "pdmodel"),
    "json": lambda folder: paddleclas_cases(folder, "json"),
}


class Table:
    """The table of one kind of programs, as it grows."""

    def __init__(self, kind: str) -> None:
        self.heading = f"## {HEADINGS[kind]}"
        self.lines: list[str] = []
        self.above: list[str] = []

    def add(self, name: str, line: str, counts: float) -> None:
        """Adds the line of a program; `counts` is the figure that has to be below the bar."""
        self.lines.append(line)
        if not counts <= BAR:
            self.above.append(name)

    def text(self, complete: bool) -> str:
        """The section of the document."""
        measured = f"{len(self.lines)} programs{'' if complete else ', of the smallest networks'}"
        summary = f"{measured}. Above the limit: {', '.join(self.above) or 'none'}."
        head = ["| program | probabilities | logits | float64 | seconds |", "|---|---|---|---|---|"]
        return "\n".join([self.heading, "", summary, "", *head, *sorted(self.lines)]) + "\n"


def write(table: Table, complete: bool) -> None:
    """Puts a table into the document, in the place of what it had under that heading."""
    old = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    # Every section begins with its heading.
    known = {text.splitlines()[0]: text for text in re.findall(r"^## .*?(?=^## |\Z)", old, re.M | re.S)}
    known[table.heading] = table.text(complete)
    sections = [known.get(f"## {heading}", "").strip() for heading in HEADINGS.values()]
    FILE.write_text("\n\n".join([TITLE.strip(), *filter(None, sections)]) + "\n", encoding="utf-8")


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the programs and PaddlePaddle's answers")
    parser.add_argument("kinds", nargs="*", metavar="TABLE", help=f"all by default: {', '.join(CASES)}")
    args = parser.parse_args()
    kinds = args.kinds or list(CASES)
    if unknown := set(kinds) - set(CASES):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CASES)}")
    for kind in kinds:
        table = Table(kind)
        for case in CASES[kind](args.folder):
            line, counts = row(case)
            print(kind, line, "" if counts <= BAR else "ABOVE THE BAR", flush=True)
            table.add(case.name, line, counts)
            write(table, complete=False)
        write(table, complete=True)


if __name__ == "__main__":
    main()
