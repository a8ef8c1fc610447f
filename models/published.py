"""The published weights of the networks: accuracy on ImageNet, latency and download addresses.

The data are in docs/published.json (the fluid files) and docs/paddleclas_published.json (PaddleClas's list of models).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from models import list_models

DOCS = Path(__file__).resolve().parents[1] / "docs"
FLUID_FILES = "https://paddle-imagenet-models-name.bj.bcebos.com/"
SOURCES = ("fluid", "PaddleClas")
# Names in PaddleClas's list -> the networks' names here, if they differ.
OTHER_NAMES = {"Fix_ResNet50_vd_ssld": "Fix_ResNet50_vd_ssld_v2", "PPLCNetV1_x2_5": "PPLCNet_x2_5"}
# Ending of a network's name here if PaddleClas's network of that name differs from fluid's: HRNet_W18_C_paddleclas.
CHANGED = "_paddleclas"


class Published(NamedTuple):
    """Published weights.

    Attributes:
        name: the name under which they were published.
        network: the network that they belong to.
        source: one of `SOURCES`.
        top1, top5: accuracy on ImageNet's validation set, in percent; None if not published.
        url: address of the file; None if there is none.
        latency: milliseconds for one image on a Tesla P4 with TensorRT; None if not published.
        deploy: whether they are the fused weights of an ACNet.
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
        """The source of the accuracy and the kind of weights: fluid, PaddleClas ssld."""
        return self.source + self._added

    @property
    def whose(self) -> str:
        """The network and the kind of weights: ResNet50_vd, GhostNet_x1_3 ssld."""
        return self.network + self._added

    @property
    def _added(self) -> str:
        """The kind of weights, which distinguishes them from the network's other weights."""
        words = (word for word in ("deploy", "ssld") if self.name.endswith(word) and word not in self.network)
        return "".join(f" {word}" for word in words)


@cache
def read() -> tuple[Published, ...]:
    """All published weights of the networks in models/, each once; those without a file come last."""
    fluid = json.loads((DOCS / "published.json").read_text())["paddle"]
    found = []
    for name, facts in fluid.items():
        network = name.removesuffix("_deploy")
        accuracy, url = (facts["top1"], facts["top5"]), FLUID_FILES + facts["weights_file"]
        found.append(Published(name, network, "fluid", *accuracy, url, facts["trt_ms_p4"], network != name))
    own = json.loads((DOCS / "paddleclas_published.json").read_text())
    for name, (top1, top5, file) in own["paddleclas"].items():
        network = network_of(name)
        if network is not None:
            found.append(Published(name, network, "PaddleClas", top1, top5, file and own["base"] + file))
    # Pages on one family repeat the figures of others under other names, rounded and without files.
    found.sort(key=lambda one: one.url is None)
    first: dict[tuple[str, str], Published] = {}
    for one in found:
        first.setdefault((one.network, one.said), one)
    return tuple(first.values())


def network_of(name: str) -> str | None:
    """The network of weights in PaddleClas's list; None if models/ does not have it."""
    called = {network.lower(): network for network in list_models()}
    name = OTHER_NAMES.get(name, name).lower()  # some names differ from the network's in capitals
    plain = name.removesuffix("_ssld")  # better weights of a network, usually without their own network here
    candidates = (plain + CHANGED, name, plain)
    return next((called[candidate] for candidate in candidates if candidate in called), None)


@cache
def by_network() -> dict[str, tuple[Published, ...]]:
    """The published weights of each network, the best top-1 first; networks without any are missing."""
    found: dict[str, list[Published]] = {}
    for weights in read():
        if weights.top1 is not None:
            found.setdefault(weights.network, []).append(weights)
    return {name: tuple(sorted(of, key=lambda one: -(one.top1 or 0))) for name, of in found.items()}


def best(networks: Iterable[str], source: str) -> Published | None:
    """The most accurate weights of any of the networks that `source`, one of `SOURCES`, published; None without any."""
    known = [weights for name in networks for weights in by_network().get(name, ()) if weights.source == source]
    return max(known, key=lambda weights: (weights.top1 or 0, weights.top5 or 0), default=None)
