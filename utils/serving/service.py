"""Answers images: decodes them in the workers, computes in batches, and formats results like predict.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError, of_the_machine
from utils.evaluation.predictions import Prediction
from utils.serving.decoders import Decoders, Encoded
from utils.serving.metrics import Metrics
from utils.serving.refusal import Limits, Refusal, try_again
from utils.serving.repository import Repository, Served


class Service:
    """The service behind all interfaces.

    Args:
        repository: the networks.
        decoders: decode the images.
        limits: the limits of a request.
        metrics: counts the images.
    """

    def __init__(self, repository: Repository, decoders: Decoders, limits: Limits, metrics: Metrics) -> None:
        self.repository, self.decoders, self.limits, self.metrics = repository, decoders, limits, metrics

    async def logits(self, served: Served, images: Sequence[Encoded | np.ndarray], names: Sequence[str]) -> Tensor:
        """The logits of images, (N, classes).

        Args:
            served: the network.
            images: files, or inputs as `utils.serving.repository.forward_of` takes them.
            names: their names, for refusals.

        Raises:
            Refusal: there are too many, one cannot be read, or the network cannot compute.
        """
        self.limits.check_images(len(images))
        tasks = [self._row(served, *each) for each in zip(images, names, strict=True)]
        rows = await asyncio.gather(*tasks, return_exceptions=True)
        for row in rows:
            if isinstance(row, BaseException):
                raise row
        self.metrics.images.labels(served.name).inc(len(rows))
        return torch.stack([row for row in rows if isinstance(row, Tensor)])

    async def _row(self, served: Served, image: Encoded | np.ndarray, name: str) -> Tensor:
        """The logits of an image."""
        if isinstance(image, np.ndarray):
            return await self._computed(served, image)
        start = perf_counter()
        with served.batcher.expecting():
            try:
                pixels = await self.decoders(image, served.transform)
            except Refusal as error:
                raise Refusal(error.status, f"{name}: {error.sentence}", error.headers) from None
        self.metrics.decode.observe(perf_counter() - start)
        return await self._computed(served, pixels)

    async def _computed(self, served: Served, values: np.ndarray) -> Tensor:
        try:
            return await served.batcher(values)
        except UserError as error:
            raise Refusal(500, str(error)) from None
        except Exception as error:
            line = of_the_machine(error)
            if line is None:
                raise
            raise try_again(503, line) from None

    async def predictions(
        self, served: Served, images: Sequence[Encoded | np.ndarray], names: Sequence[str], topk: int | None = None
    ) -> list[Prediction]:
        """predict.py's results for images; for the arguments see `logits`.

        Args:
            topk: classes per image; None: the server's own setting.
        """
        classifier = served.classifier
        if topk is not None and not 1 <= topk <= served.network.description.class_dim:
            classes = served.network.description.class_dim
            raise Refusal(400, f"top_k {topk} is not allowed: {served.name} has {classes} classes")
        if topk is not None and classifier.thresholds is None:
            classifier = replace(classifier, topk=topk)
        logits = await self.logits(served, images, names)
        try:
            return classifier.answers(logits, names)
        except UserError as error:
            raise Refusal(500, str(error)) from None
