"""--list_models with a budget, and --recommend: the Pareto front, from what was published or measured."""

from __future__ import annotations

import json
import math

import pytest

import models
from models import choosing, published
from models.choosing import Row, candidates, front, sorted_by
from utils import flags


def row(name: str, cost: float | None, top1: float | None) -> Row:
    return Row(name, cost or 0, cost or 0, 224, () if top1 is None else ((top1, "x"),), cost)


def test_the_front_is_what_nothing_beats():
    rows = [row("a", 2, 70), row("b", 1, 60), row("c", 2, 71), row("d", 3, 71), row("e", 4, None), row("f", None, 99)]
    assert [one.name for one in front(rows, "latency")] == ["b", "c"]
    everything = candidates()
    for cost in ("macs", "params", "latency"):
        best = front(everything, cost)
        known = [one for one in everything if one.top1 > 0 and one.cost(cost) < math.inf]
        unbeaten = {
            one.top1
            for one in known
            if not any(other.top1 >= one.top1 and other.cost(cost) < one.cost(cost) for other in known)
            and one.top1 == max(other.top1 for other in known if other.cost(cost) == one.cost(cost))
        }
        assert {one.top1 for one in best} == unbeaten and len(best) > 3


def test_facts_and_their_sources():
    (vgg,) = candidates("VGG16")
    assert vgg.accuracies == ((72.0, "fluid"), (72.0, "PaddleClas")) and vgg.latency == 8.985
    (ghost,) = candidates("GhostNet_x1_3")
    assert ghost.accuracies == ((79.4, "PaddleClas ssld"), (75.79, "PaddleClas")) and ghost.latency is None
    urls = {one.name: one.url for one in published.read() if one.network == "GhostNet_x1_3"}
    assert urls["GhostNet_x1_3"].endswith("/dygraph/GhostNet_x1_3_pretrained.pdparams")
    fused = next(one for one in published.read() if one.deploy)
    assert (fused.name, fused.network) == ("ResNet50_ACNet_deploy", "ResNet50_ACNet")
    assert {one.network for one in published.read()} <= set(models.list_models()) and len(published.read()) > 400


def test_paddleclass_accuracies_are_those_of_its_networks():
    """Under some names it has another network than fluid, some are quoted in other spellings, and some are not here."""
    assert candidates("HRNet_W18_C")[0].accuracies == ((76.92, "fluid"),)
    assert candidates("HRNet_W18_C_paddleclas")[0].accuracies == ((81.2, "PaddleClas ssld"), (76.92, "PaddleClas"))
    assert candidates("MobileNetV3_small_x1_0")[0].accuracies == ((67.46, "fluid"),)
    assert candidates("MobileNetV3_large_x1_25_paddleclas")[0].accuracies == ((76.41, "PaddleClas"),)
    assert candidates("PPLCNet_x2_5")[0].accuracies == ((80.8, "PaddleClas ssld"), (76.6, "PaddleClas"))
    (fixed,) = published.by_network()["Fix_ResNet50_vd_ssld_v2"]
    assert (fixed.name, fixed.said, fixed.top1) == ("Fix_ResNet50_vd_ssld", "PaddleClas", 84.0)
    listed = json.loads((published.DOCS / "paddleclas_published.json").read_text())["paddleclas"]
    # Quantised weights, and three rows of other works.
    assert [name for name in listed if published.network_of(name) is None] == [
        "MobileNetV3_large_x1_0_ssld_int8",
        "ResNet50_rsb",
        "SwinTransformer_base",
        "SwinTransformer_tiny",
    ]
    best = published.best(models.list_models("PPHGNet_*"), "PaddleClas")
    assert best is not None and (best.whose, best.top1) == ("PPHGNet_base ssld", 85.0)
    assert published.best(models.list_models("PPHGNet_*"), "fluid") is None


def test_budgets_and_orders():
    small = candidates(max_params=5, max_macs=0.3)
    assert small and all(one.params <= 5 and one.macs <= 0.3 for one in small)
    assert all(one.latency is not None and one.latency <= 2 for one in candidates(max_latency=2))
    by_accuracy = [one.top1 for one in sorted_by(small, "accuracy")]
    assert by_accuracy == sorted(by_accuracy, reverse=True)
    assert sorted_by(candidates(), "latency")[-1].latency is None


def told(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        flags.parse("train", words)
    said = capsys.readouterr()
    return end.value.code or 0, said.out, said.err


def test_what_is_printed(tmp_path, capsys, monkeypatch):
    code, out, _ = told(capsys, "--list_models", "--max_params=5", "--sort=accuracy")
    assert code == 0 and out.startswith("MobileViTV2_x1_0 ") and "77.90 PaddleClas ssld, 70.99 fluid" in out
    assert len(out.splitlines()) == len(candidates(max_params=5))
    picture = tmp_path / "front.png"
    code, out, _ = told(capsys, f"--recommend={picture}", "--list_models=ResNet*_vd", "--cost=latency")
    assert code == 0 and picture.stat().st_size > 10000 and "top-1 over latency" in out
    monkeypatch.setattr(choosing, "ENOUGH", 0.0)
    code, out, _ = told(capsys, "--recommend", "--list_models=MobileNetV3_small_x0_*", "--measure=1")
    assert code == 0 and "one image, one thread, float32" in out and "ms here  top-1" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--max_params=5"], 2, "--max_params selects networks for --list_models or --recommend"),
        (["--list_models", "--cost=macs"], 2, "--cost only works with --recommend"),
        (["--recommend", "--sort=name"], 2, "--sort only works with --list_models"),
        (["--recommend", "--cost=time"], 2, "--cost=time needs --measure"),
        (["--recommend", "--measure=1", "--cost=macs"], 2, "--cost=time needs --measure"),
        (["--recommend=front.txt"], 2, "--recommend front.txt: give a file name ending in .png"),
        (["--recommend=/dev/null/front.png"], 1, "--recommend: cannot write /dev/null/front.png"),
        (["--list_models", "--max_params=0.01"], 2, "no network is within --max_params=0.01; the lowest"),
        (["--recommend", "--list_models=VGG*", "--max_latency=1"], 2, "no network is within --max_latency=1"),
        (["--list_models", "--measure=0"], 2, "--measure: 0 is not allowed"),
    ],
)
def test_refusals(capsys, words, code, message):
    got, _, err = told(capsys, *words)
    assert got == code and message in err and err.count("\n") == 1
