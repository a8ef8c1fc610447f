"""Verifies published accuracies: fetches the published weights, evaluates them on your ImageNet, and compares.

bash run.sh verify ResNet50_vd MobileNetV3_large_x1_0
bash run.sh verify all --data_dir=/data/ILSVRC2012 --device=cuda

The exit code is 1 if an accuracy is further from the published one than 0.05 points, or could not be verified. Results
go into a table, verify.csv, with one line per weight file; `all` skips the files already in it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

if not __package__:
    # Run as a script, Python looks for modules next to it, not in the project's root.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import models
from models import published
from models.published import FLUID_FILES, Published
from utils.console import log
from utils.errors import FlagError, UserError, run_script
from utils.files import check_can_write, write_text
from utils.flags.line_parser import LineParser
from utils.weights.download import fetch

ROOT = Path(__file__).resolve().parent.parent
# Allowed difference in accuracy, in points.
TOLERANCE = 0.05
HOLDS, DIFFERS = "holds", "differs"


class Result(NamedTuple):
    """A line of the table, all as text: accuracies in percent; without accuracies, the verdict says why."""

    name: str
    source: str
    network: str
    published_top1: str
    published_top5: str
    verdict: str
    top1: str = ""
    top5: str = ""
    images: str = ""


HEADINGS = Result._fields


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = LineParser(__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a network or a published weight file; all: the whole zoo"
    )
    parser.add_argument("--all", action="store_true", help="the whole zoo, except what the table already has")
    parser.add_argument("--source", choices=("fluid", "PaddleClas"), help="verify only files from this source")
    parser.add_argument("--data_dir", default="./data/ILSVRC2012/", help="ImageNet, with val_list.txt or val/WNID/")
    parser.add_argument("--weights_dir", default="./published/", help="where the files go (80 GB for the whole zoo)")
    parser.add_argument("--table", default="verify.csv", help="results file")
    parser.add_argument("--mirror", default=FLUID_FILES, help=f"server to use instead of {FLUID_FILES}")
    parser.add_argument("--batch_size", type=int, default=64, help="images per batch")
    parser.add_argument("--device", help="device, as in eval.py")
    options = parser.parse_args()
    options.all |= "all" in options.names
    options.names = [name for name in options.names if name != "all"]
    if bool(options.names) == options.all:
        parser.error("give names of networks, such as ResNet50_vd, or all")
    if not options.mirror.startswith(("http://", "https://")):
        parser.error(f"--mirror {options.mirror}: give an address beginning with https:// or http://")
    if options.batch_size < 1:
        parser.error(f"--batch_size {options.batch_size}: give 1 at least")
    return options


def chosen(options: argparse.Namespace) -> list[Published]:
    """The requested weights with a published file and accuracy; raises `FlagError`."""
    there = [one for one in published.read() if one.url and one.top1 and options.source in (None, one.source)]
    if options.all:
        return there
    found: dict[Published, None] = {}
    for name in options.names:
        of = [one for one in there if name in (one.name, one.network)]
        if not of:
            if name not in models.list_models():
                try:
                    models.check_name(name)
                except ValueError as error:
                    raise FlagError(str(error)) from None
            of_source = f" by {options.source}" if options.source else ""
            raise FlagError(f"{name}: no file or accuracy was published{of_source}: see train.py --list_models")
        found |= dict.fromkeys(of)
    return list(found)


def read_table(path: Path) -> dict[tuple[str, str], Result]:
    """The results in a table, by name and source; empty if it does not exist. Raises `UserError` if it is another
    file.
    """
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            headings, *rows = csv.reader(file)
        if tuple(headings) != HEADINGS:
            raise ValueError
        results = [Result(*row) for row in rows]
    except (ValueError, TypeError, OSError, csv.Error):
        raise UserError(f"--table {path} is not a table of results: give another file") from None
    return {(result.name, result.source): result for result in results}


def write_table(path: Path, results: dict[tuple[str, str], Result]) -> None:
    """Writes all results; raises `UserError`."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADINGS)
    table.writerows(results.values())
    write_text(path, text.getvalue(), "--table")


def verify(options: argparse.Namespace, weights: Published) -> Result:
    """Fetches and evaluates one weight file; if that fails, the verdict says why."""
    said = ["" if value is None else f"{value:.2f}" for value in (weights.top1, weights.top5)]
    about = weights.name, weights.source, weights.network, said[0], said[1]
    try:
        assert weights.url is not None
        path = Path(options.weights_dir, weights.source, PurePosixPath(weights.url).name)
        fetch(options.mirror.rstrip("/") + "/" + weights.url.removeprefix(FLUID_FILES), path)
        top1, top5, images = evaluate(options, weights, path)
    except UserError as error:
        return Result(*about, verdict=str(error))
    off = [abs(ours - wanted) for ours, wanted in ((top1, weights.top1), (top5, weights.top5)) if wanted is not None]
    verdict = HOLDS if max(off) <= TOLERANCE + 1e-6 else DIFFERS
    return Result(*about, verdict, f"{top1:.3f}", f"{top5:.3f}", str(images))


def evaluate(options: argparse.Namespace, weights: Published, path: Path) -> tuple[float, float, int]:
    """Runs eval.py; returns top-1 and top-5 in percent and the number of images. Raises `UserError` if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.json")
        words = [
            f"--model={weights.network}",
            f"--pretrained_model={path}",
            f"--data_dir={options.data_dir}",
            f"--batch_size={options.batch_size}",
            f"--save_json_path={results}",
            "--print_step=100",
            *(["--deploy=True"] * weights.deploy),
            *([f"--device={options.device}"] if options.device else []),
        ]
        command = [sys.executable, str(ROOT / "eval.py"), *words]
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
        if ended.returncode:
            last = (ended.stderr.strip() or f"eval.py exited with code {ended.returncode}").splitlines()[-1]
            raise UserError(last.removeprefix("eval.py: error: "))
        found = json.loads(results.read_text(encoding="utf-8"))
    images = found["labelled"]
    if not images:
        raise UserError(f"--data_dir {options.data_dir}: no image has a label: add labels to val_list.txt")
    return 100 * found["top1"] / images, 100 * found["top5"] / images, images


def line(result: Result) -> str:
    """A result as a line to read."""
    name = f"{result.name:40}{result.source:11}"
    if not result.images:
        return f"{name}{result.verdict}"
    return (
        f"{name}top-1 {result.top1:>7} (published {result.published_top1:>5})  top-5 {result.top5:>7} "
        f"(published {result.published_top5 or 'none':>5})  {result.verdict}, on {result.images} images"
    )


def main() -> None:
    options = parse_arguments()
    wanted, path = chosen(options), Path(options.table)
    results = read_table(path)
    check_can_write(path, "--table")
    if not Path(options.data_dir).is_dir():
        raise UserError(f"--data_dir {options.data_dir}: no such folder")
    evaluated = {key for key, result in results.items() if result.images}
    done = [one for one in wanted if options.all and (one.name, one.source) in evaluated]
    if done:
        log(f"{len(done)} of {len(wanted)} are already in {path}")
    for weights in (one for one in wanted if one not in done):
        result = verify(options, weights)
        results[weights.name, weights.source] = result
        write_table(path, results)
        log(line(result))
    verdicts = [results[one.name, one.source].verdict for one in wanted]
    holding, differing = verdicts.count(HOLDS), verdicts.count(DIFFERS)
    failed = len(verdicts) - holding - differing
    log(f"{holding} of {len(verdicts)} match, {differing} differ, {failed} could not be verified: {path}")
    if holding < len(verdicts):
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
