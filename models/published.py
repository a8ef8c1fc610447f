"""What was published of the networks' weights: accuracy on ImageNet, latency, and where the files are.

From docs/published.json (the fluid files) and docs/paddleclas_published.json (PaddleClas's list of models).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from models import list_models

DOCS = Path(__file__).resolve().parents[1] / "docs"
FLUID_FILES = "https://paddle-imagenet-models-name.bj.bcebos.com/"


class Published(NamedTuple):
    """Weights that were published.

    Attributes:
        name: under which they were.
        network: that they are of.
        source: "fluid" or "PaddleClas".
        top1, top5: accuracy on ImageNet's validation set, in percent; None where it was not said.
        url: of the file; None where there is none.
        latency: milliseconds for one image on a Tesla P4 with TensorRT; None where it was not said.
        deploy: they are those of an ACNet after fusing.
    """

    name: str
    network: str
    source: str
    top1: float | None
    top5: float | None
    url: str | None
    latency: float | None = None
    deploy: bool = False

    @property
    def said(self) -> str:
        """Whose the accuracy is, with what the name adds to the network's."""
        added = self.name[len(self.network) :].strip("_")
        return f"{self.source} {added}" if added else self.source


@cache
def read() -> tuple[Published, ...]:
    """All published weights of networks that are here."""
    fluid = json.loads((DOCS / "published.json").read_text())["paddle"]
    found = []
    for name, facts in fluid.items():
        network = name.removesuffix("_deploy")
        accuracy, url = (facts["top1"], facts["top5"]), FLUID_FILES + facts["weights_file"]
        found.append(Published(name, network, "fluid", *accuracy, url, facts["trt_ms_p4"], network != name))
    own = json.loads((DOCS / "paddleclas_published.json").read_text())
    called = {name.lower(): name for name in list_models()}
    for name, (top1, top5, file) in own["paddleclas"].items():
        # Some names have other capitals than their network's, some are better weights of one.
        network = called.get(name.lower()) or called.get(name.removesuffix("_ssld").lower())
        if network is not None:
            found.append(Published(name, network, "PaddleClas", top1, top5, file and own["base"] + file))
    return tuple(found)


@cache
def by_network() -> dict[str, tuple[Published, ...]]:
    """What was published of each network, the best top-1 first; networks of which nothing was are missing."""
    found: dict[str, list[Published]] = {}
    for weights in read():
        if weights.top1 is not None:
            found.setdefault(weights.network, []).append(weights)
    return {name: tuple(sorted(of, key=lambda one: -(one.top1 or 0))) for name, of in found.items()}
