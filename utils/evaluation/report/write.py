"""--report: what is looked at during the evaluation, and what is made of it in the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.console import log, warn
from utils.errors import FlagError
from utils.evaluation.class_report import ClassMeter
from utils.evaluation.predictions import not_finite
from utils.evaluation.report import near, page
from utils.evaluation.report.answers import Answers, Collector
from utils.evaluation.report.comparison import Result, compare, packed_answers, read_result
from utils.evaluation.report.examples import Examples, attention
from utils.evaluation.report.suspects import find_suspects, list_path, write_suspects
from utils.files import check_can_write, write_text
from utils.processes import broadcast_object, refuse_several
from utils.reading.build import eval_transform
from utils.reading.class_names import Names
from utils.reading.loader import Batch, Loader
from utils.reading.opencv_loader import OpenCVLoader


def check_report_flags(args: argparse.Namespace) -> None:
    """Raises `FlagError` for flags that do not go with --report."""
    if not args.report:
        return
    if not args.report.lower().endswith((".html", ".htm")):
        raise FlagError(f"--report {args.report}: give a file name that ends in .html")
    if args.report_duplicates:
        refuse_several("--report_duplicates")
        if args.model_file:
            raise FlagError("--report_duplicates needs features, which --model_file lacks: leave out one of them")
    if args.crop_num > 1:
        raise FlagError(f"--report shows one crop per image: leave it out, or --crop_num={args.crop_num}")
    for flag in ("multi_label", "crop_sweep", "same_feed", "tpr_at_fpr"):
        if getattr(args, flag) not in (None, False, 0):
            raise FlagError(f"--report needs one label per image and a single evaluation: leave it out, or --{flag}")


def check_report_outputs(args: argparse.Namespace) -> None:
    """Raises `UserError` if a file of the report could not be written in the end."""
    if args.report:
        report = Path(args.report)
        for path in (report, list_path(report), *[near.list_path(report)] * args.report_duplicates):
            check_can_write(path, "--report")


class Report:
    """The page of an evaluation, from its beginning to its end. Every process has one.

    Args:
        args: eval.py's flags.
        loader: of this process's share of the images.
        prepare: uint8 (N, H, W, 3) on the device to the network's input.
        device: of the network.
        model: the network as a module that gradients pass; None: there is none.

    Raises:
        UserError: --report_against is no result.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        loader: Loader,
        prepare: Callable[[Tensor], Tensor],
        device: torch.device,
        model: nn.Module | None,
    ) -> None:
        self.args = args
        self.loader = loader
        self.prepare = prepare
        self.device = device
        self.model = model
        self.earlier: Result | None = read_result(args.report_against) if args.report_against else None
        self.sizes: np.ndarray | None = loader.note_sizes() if isinstance(loader, OpenCVLoader) else None
        self.collector = Collector(len(loader.images), args.class_dim, args.eval_topk)

    def watch(self, images: Tensor, logits: Tensor, labels: Tensor, batch: Batch) -> None:
        """Takes in a batch; see `utils.evaluation.validation.validate`."""
        self.collector(images, logits, labels, batch)

    def finish(self, meter: ClassMeter, names: Names, loss: float, unreadable: int) -> None:
        """Writes the page and the list of suspects. Every process has to call it.

        Args:
            meter: of the evaluation, gathered.
            names: of the classes, by number, as far as they are known.
            loss: the mean one.
            unreadable: images that were left out.

        Raises:
            UserError: a score is no number, --report_against has none of the images, or a file cannot be written.
        """
        answers = self.collector.gather(self.sizes)
        if answers is not None:
            self._check(answers)
            subject = page.Subject(answers, meter, names, Examples(self.loader.images, eval_transform(self.args)))
            self._write(subject, loss, unreadable)
        broadcast_object(None)  # the others wait, rather than end the run while the first one writes

    def _check(self, answers: Answers) -> None:
        finite = np.isfinite(answers.scores[:, 0])
        if not finite.all():
            name = self.loader.images.name(int(answers.rows[finite.argmin()]))
            raise not_finite(name, "scores", "--use_fp16" if self.args.use_fp16 else None)

    def _write(self, subject: page.Subject, loss: float, unreadable: int) -> None:
        args, answers, images = self.args, subject.answers, self.loader.images
        path = Path(args.report)
        found = find_suspects(answers)
        write_suspects(list_path(path), found, answers, images)
        comparison = None
        if self.earlier is not None:
            comparison = page.comparison(subject, compare(answers, images, self.earlier, args.report_against))
        data = packed_answers(path.stem, answers, images)
        if not data:
            warn(f"--report {path}: too many images for a later --report_against to compare with")
        parts = {
            "title": args.model,
            "weights": args.pretrained_model or args.model_file,
            "images": len(answers),
            "source": images.source,
            "unreadable": unreadable,
            "comparison": comparison,
            "duplicates": self._duplicates(subject),
            "data": data,
            **self._mistakes(subject),
            **page.suspects(subject, found, list_path(path)),
        }
        write_text(path, page.whole_page(subject, loss, parts), "--report")
        log(f"{path}: the report; {found.likely} labels that are likely wrong: {list_path(path)}")

    def _duplicates(self, subject: page.Subject) -> dict[str, Any] | None:
        """The validation images that were trained on, if --report_duplicates asks for them."""
        if not self.args.report_duplicates:
            return None
        found = near.find(self.args, self.model, self.loader.images, self._prepared)
        log(f"{len(found.pairs)} validation images have a near-duplicate among {len(found.images)} training images")
        return near.section(subject, self.args, found)

    def _mistakes(self, subject: page.Subject) -> dict[str, Any]:
        """The gallery of mistakes, with what spoke for the wrong answer where gradients tell."""
        places = subject.mistakes[: page.MISTAKES].tolist()
        shown = [subject.example(place) for place in places]
        heats = []
        if self.model is not None and places:
            rows = [int(subject.answers.rows[place]) for place in places]
            classes = [int(subject.answers.classes[place, 0]) for place in places]
            heats = attention(self.model, subject.examples, rows, classes, self._prepared)
        for example, heat in zip(shown, heats, strict=False):
            example["heat"] = heat
        return {"mistakes": shown, "heats": bool(heats)}

    def _prepared(self, pixels: Tensor) -> Tensor:
        return self.prepare(pixels.to(self.device))
