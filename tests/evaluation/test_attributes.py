"""The attributes of PULC's networks, against PaddleClas's own (tests/fixtures/attributes.json)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from utils.errors import FlagError, UserError
from utils.evaluation.attributes import attributes_found
from utils.evaluation.classify import Classifier
from utils.evaluation.meters import answer_thresholds
from utils.flags import parse
from utils.flags.paddleclas.use import post_flags
from utils.formats.inference_yml import PostProcess

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "attributes.json").read_text())


def rounded(attributes: list[str] | str) -> str:
    """Attributes as one text, whose probabilities have four digits."""
    text = attributes if isinstance(attributes, str) else ", ".join(attributes)
    return re.sub(r"prob: ([\d.]+)", lambda found: f"prob: {float(found[1]):.4f}", text)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_words_and_outputs_are_those_of_paddleclas(number):
    case = CASES[number]
    flags, refused = post_flags(PostProcess(case["operation"], case["options"]))
    assert not refused and flags["attributes"] == case["kind"] and flags["multi_label"] is True
    logits = torch.logit(torch.tensor(case["scores"], dtype=torch.float64))
    images = [f"{index}.jpg" for index in range(len(logits))]
    found = list(attributes_found(logits, images, flags["threshold"], case["kind"]))
    for answer, scores, theirs in zip(found, case["scores"], case["answers"], strict=True):
        assert rounded(answer.attributes) == rounded(theirs["attributes"])
        assert answer.output == theirs["output"]
        assert answer.score == pytest.approx(scores, abs=1e-6)
        name, _, line = answer.line().partition("\t")
        assert name == answer.image and json.loads(line)["output"] == theirs["output"]


def test_the_flags(tmp_path):
    args = parse("predict", ["--model_file=m", "--image_path=i", "--attributes=table"])
    assert answer_thresholds(args, 6, True) == [0.5] * 6
    classifier = Classifier(lambda x: x, lambda x: x, (), thresholds=[0.5] * 6, attributes="table")
    assert classifier.scores_per_image == 6
    (answer,) = classifier(torch.tensor([[9.0, -9, 9, 9, -9, 9]]), ["a.jpg"])
    words = ["Scanned", "Numerous", "Black-and-White", "Clear", "With-Obstacles", "Horizontal"]
    assert json.loads(answer.line().split("\t")[1])["attributes"] == words
    for classes, several in ((5, True), (6, False)):
        with pytest.raises(FlagError, match=r"^--attributes=table is for networks with --multi_label=True and 6"):
            answer_thresholds(args, classes, several)
    with pytest.raises(UserError, match=r"a\.jpg: the network's scores are not finite numbers"):
        classifier(torch.full((1, 6), torch.nan), ["a.jpg"])
