"""The figures of a report, and what it keeps of the images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from utils.errors import FlagError, UserError
from utils.evaluation.class_report import ClassMeter
from utils.evaluation.report import near, page
from utils.evaluation.report.answers import Answers, Collector, appearance
from utils.evaluation.report.charts import confusion_picture, order_of_classes
from utils.evaluation.report.comparison import Result, compare, packed_answers, read_result
from utils.evaluation.report.examples import Examples
from utils.evaluation.report.slices import slices
from utils.evaluation.report.statistics import (
    McNemar,
    best_temperature,
    calibration_error,
    mean_of_classes,
    reliability,
    tempered,
    thresholds_for,
    wilson,
)
from utils.evaluation.report.suspects import find_suspects, write_suspects
from utils.evaluation.report.write import check_report_flags
from utils.flags import parse
from utils.reading.build import eval_transform, validation_images
from utils.reading.image_list import ImageList
from utils.reading.loader import Batch


def answers_of(logits: np.ndarray, labels: np.ndarray) -> Answers:
    """What a collector makes of logits that come in two batches, the second one first, and of white noise."""
    collector = Collector(len(labels), logits.shape[1], 5)
    generator = torch.Generator().manual_seed(0)
    half = len(labels) // 2
    for rows in (np.arange(half, len(labels)), np.arange(half)):
        pixels = torch.randint(256, (len(rows), 4, 4, 3), dtype=torch.uint8, generator=generator)
        there = torch.from_numpy(labels[rows])
        batch = Batch(pixels, there, torch.from_numpy(rows))
        collector(pixels, torch.from_numpy(logits[rows]), there, batch)
    return collector.gather(np.stack((np.arange(len(labels)) + 1, np.full(len(labels), 7)), 1))


def sure_network(images: int = 400, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a network that is sure and mostly right, and the true classes."""
    random = np.random.default_rng(0)
    truth = np.arange(images) % classes
    logits = random.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), truth] += 5
    return logits, truth


# ------------------------------------------------------------------------------------------------------- statistics


def test_intervals():
    # Brown, Cai and DasGupta (2001) and Wilson's formula by hand: 0 of 10 is no certainty.
    assert wilson(0, 10) == pytest.approx((0, 0, 0.27754), abs=1e-5)
    assert wilson(50, 100) == pytest.approx((0.5, 0.40383, 0.59617), abs=1e-5)
    assert wilson(0, 0)[1:] == (0, 1)
    labels = np.repeat([0, 2], [90, 10])
    assert mean_of_classes(labels == 0, labels).value == 0.5


@pytest.mark.parametrize(("first", "second", "p"), [(10, 25, 0.0166738), (0, 5, 0.0625), (4, 4, 1.0), (0, 0, 1.0)])
def test_mcnemar(first, second, p):
    """The values of scipy.stats.binomtest(min, first + second)."""
    assert McNemar(first, second).p_value == pytest.approx(p, rel=1e-5)


def test_a_network_that_says_what_it_knows_is_calibrated_and_its_temperature_found():
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(4000, 4)).astype(np.float32)
    labels = np.array([random.choice(4, p=row / row.sum()) for row in np.exp(logits)])
    right = logits.argmax(1) == labels
    assert best_temperature(3 * logits, labels) == pytest.approx(3, rel=0.1)
    confident = tempered(logits, 1.0)
    assert calibration_error(reliability(confident, right)) < 0.03
    assert calibration_error(reliability(tempered(3 * logits, 1.0), right)) > 0.1


def test_thresholds_reach_their_precision_with_the_most_images():
    confidence = np.array([0.91, 0.9, 0.7, 0.6, 0.6, 0.2], np.float32)
    right = np.array([1, 1, 0, 1, 1, 0], bool)
    found = thresholds_for(confidence, right, (0.5, 0.8, 0.99))
    assert [(t.threshold, round(t.answered, 3), t.precision) for t in found] == [
        (0.2, 1.0, pytest.approx(4 / 6)),
        (0.6, 0.833, 0.8),
        (0.899, 0.333, 1.0),
    ]
    for threshold in found:
        taken = confidence >= threshold.threshold
        assert right[taken].mean() == pytest.approx(threshold.precision)
    assert thresholds_for(np.array([0.5, 0.5]), np.array([True, False]), (0.9,)) == []


# ---------------------------------------------------------------------------------------------------------- answers


def test_answers_are_in_the_order_of_the_list_whatever_that_of_the_batches(monkeypatch):
    logits, labels = sure_network(41)
    labels[3] = -1  # has no label
    monkeypatch.setattr("utils.evaluation.report.answers.MOST_LOGITS", 100)  # those of every third image
    answers = answers_of(logits, labels)
    kept = np.delete(np.arange(41), 3)
    scores = torch.from_numpy(logits).softmax(1).numpy()
    assert answers.rows.tolist() == kept.tolist()
    assert answers.labels.tolist() == labels[kept].tolist()
    assert answers.height.tolist() == (kept + 1).tolist()
    np.testing.assert_allclose(answers.own, scores[kept, labels[kept]], rtol=1e-5)
    assert answers.classes[:, 0].tolist() == logits[kept].argmax(1).tolist()
    assert answers.rows[answers.sampled].tolist() == [row for row in range(0, 41, 3) if row != 3]
    np.testing.assert_array_equal(answers.logits, logits[answers.rows[answers.sampled]])


def test_appearance():
    ramp = torch.arange(0, 256, 17, dtype=torch.uint8).expand(3, 16, 16)[..., None].repeat(1, 1, 1, 3).clone()
    ramp[1] //= 2
    ramp[2] = 0
    brightness, contrast, sharpness = appearance(ramp)
    assert brightness.tolist() == pytest.approx([0.5, 0.2484, 0], abs=1e-3)
    assert contrast[2] == 0 and contrast[1] == pytest.approx(float(contrast[0]) / 2, rel=0.02)
    assert sharpness[1] == pytest.approx(float(sharpness[0]), rel=0.02)  # half the contrast is as sharp
    assert torch.isfinite(sharpness).all()


def test_slices_by_what_images_are_like():
    logits, labels = sure_network()
    logits[:60, :] = np.roll(logits[:60], 1, axis=1)  # small images are taken for the next class
    size, aspect, *_ = slices(answers_of(logits, labels))
    assert sum(part.images for part in size.parts) == len(labels)
    assert len(size.parts) == 1 and len(aspect.parts) > 3  # the short side is 7 for all but six
    wide = aspect.parts[-1]
    assert (wide.odd, wide.accuracy.value) == (-1, pytest.approx(0, abs=0.15))


# --------------------------------------------------------------------------------------------------------- suspects


def test_planted_wrong_labels_are_the_first_suspects(tmp_path):
    logits, labels = sure_network()
    planted = np.random.default_rng(1).choice(len(labels), 20, replace=False)
    labels[planted] = (labels[planted] + 1) % 5
    answers = answers_of(logits, labels)
    found = find_suspects(answers)
    assert len(set(found.places[:25].tolist()) & set(planted.tolist())) == 20
    assert (np.diff(found.margins[: found.likely]) >= 0).all()
    images = ImageList.from_paths([f"{row}.png" for row in range(len(labels))], labels, str(tmp_path))
    write_suspects(tmp_path / "x.txt", found, answers, images)
    first = found.places[0]
    assert (tmp_path / "x.txt").read_text().splitlines()[0] == f"{tmp_path}/{first}.png {labels[first]}"


def test_suspects_are_those_of_cleanlab():
    """cleanlab 2.9.0, find_label_issues(filter_by="confident_learning", return_indices_ranked_by="normalized_margin"),
    of these logits and labels."""
    logits, labels = sure_network()
    planted = np.random.default_rng(1).choice(len(labels), 20, replace=False)
    labels[planted] = (labels[planted] + 1) % 5
    found = find_suspects(answers_of(logits, labels))
    theirs = (96, 162, 107, 11, 339, 255, 13, 34, 121, 101, 55, 318, 165, 368, 326, 180)
    assert tuple(found.places[: found.likely].tolist()) == theirs


# ------------------------------------------------------------------------------------------------------- comparison


def test_an_earlier_page_is_read_again_and_compared(tmp_path):
    logits, labels = sure_network(40)
    images = ImageList.from_paths([f"{row}é.png" for row in range(40)], labels)
    worse = logits.copy()
    worse[:9] = np.roll(worse[:9], 1, axis=1)
    data = packed_answers("old", answers_of(worse, labels), images)
    (tmp_path / "old.html").write_text(f'<p><script type="application/gzip" id="answers">{data}</script>')
    earlier = read_result(str(tmp_path / "old.html"))
    found = compare(answers_of(logits, labels), images, earlier, "old.html")
    assert (found.test.only_first, found.test.only_second) == (0, 9)
    assert found.flipped(won=True).tolist() == list(range(9))
    assert found.verdict() == "This network is better, and not by chance (McNemar's test, p = 0.0039)."
    same = compare(answers_of(worse, labels), images, earlier, "old.html")
    assert same.verdict() == "No difference that could not be chance (McNemar's test, p = 1)."


def test_results_of_infer_are_compared_too(tmp_path):
    logits, labels = sure_network(8)
    images = ImageList.from_paths([f"a\t{row}.png" for row in range(8)], labels)
    lines = [f'a\\t{row}.png\t{{"score": [1.0], "class": [{labels[row]}]}}' for row in range(6)]
    path = tmp_path / "res.json"
    path.write_text("\n".join([*lines, 'a\\t6.png\t{"score": [], "class": []}']) + "\n")
    found = compare(answers_of(logits, labels), images, read_result(str(path)), "res.json")
    assert (found.title, found.right_before.tolist()) == ("res", [True] * 6 + [False])
    with pytest.raises(
        UserError, match=r"--report_against x: it has none of these images \(a\\t0\.png here, b there\)"
    ):
        compare(answers_of(logits, labels), images, Result("x", {"b": 1}), "x")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "text",
        '{"a": 1}',
        "a.png\t[]",
        'a.png\t{"class": "x"}',
        '<script type="application/gzip" id="answers">AAAA</script>',
        '<script type="application/gzip" id="answers">eJyrVkosLcnILFayUoo2jAUAI8UEXQ==</script>',
    ],
)
def test_what_is_no_result(tmp_path, content):
    path = tmp_path / "x"
    path.write_text(content)
    with pytest.raises(UserError, match="neither a page that --report wrote nor results of infer"):
        read_result(str(path))
    with pytest.raises(UserError, match=r"--report_against .*: no such file or directory"):
        read_result(str(tmp_path / "none"))


# ----------------------------------------------------------------------------------------------------------- charts


def test_classes_that_are_taken_for_each_other_stand_side_by_side():
    confusion = np.diag(np.full(40, 50))
    partner = np.random.default_rng(0).permutation(40).reshape(20, 2)
    for first, second in partner.tolist():
        confusion[first, second] = confusion[second, first] = 25
    order = order_of_classes(confusion)
    assert sorted(order.tolist()) == list(range(40))
    place = np.argsort(order)
    assert (np.abs(place[partner[:, 0]] - place[partner[:, 1]]) == 1).all()
    assert confusion_picture(confusion, order)[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--report=x.pdf"], "--report x.pdf: give a file name that ends in .html"),
        (["--report=x.html", "--crop_num=12"], "--report shows one crop per image: leave it out, or --crop_num=12"),
        (["--report=x.html", "--multi_label=1"], "--report needs one label per image and a single evaluation: leave"),
        (["--report=x.html", "--same_feed=2"], "leave it out, or --same_feed"),
    ],
)
def test_flags_that_do_not_go_with_a_report(flags, message):
    with pytest.raises(FlagError, match=message):
        check_report_flags(parse("eval", flags))


# ------------------------------------------------------------------------------------------------------- duplicates


def test_duplicates_of_training_images(tmp_path):
    """Copies are found, with the label of what they are copies of; images that only the network takes for one not."""
    rng = np.random.default_rng(0)
    pictures = [cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (48, 48)) for _ in range(14)]
    small = cv2.resize(pictures[1], (24, 24), interpolation=cv2.INTER_AREA)
    files = {f"t{number}": pictures[number] for number in range(8)} | {"v0": pictures[0], "v1": small}
    files |= {f"v{number}": pictures[number + 6] for number in range(2, 8)}
    for name, pixels in files.items():
        cv2.imwrite(f"{tmp_path}/{name}.png", pixels)
    (tmp_path / "train_list.txt").write_text("".join(f"t{number}.png {number % 2}\n" for number in range(8)))
    (tmp_path / "val_list.txt").write_text("v1.png 0\n" + "".join(f"v{n}.png 0\n" for n in (0, *range(2, 8))))
    words = f"--data_dir={tmp_path} --class_dim=2 --image_shape 3 32 32 --report={tmp_path}/r.html --reader_thread=0"
    args = parse("eval", [*words.split(), "--report_duplicates=True", "--resize_mode=exact"])
    images = validation_images(args)

    class Same(torch.nn.Module):
        def forward_features(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(inputs), 4)

    found = near.find(args, Same(), images, lambda pixels: pixels)
    assert [(pair.val, pair.train) for pair in found.pairs] == [(0, 1), (1, 0)] and len(found.images) == 8
    answers = answers_of(np.tile(np.float32([1, 0]), (8, 1)), np.zeros(8, np.int64))
    meter = ClassMeter(2, torch.device("cpu"), 2)
    subject = page.Subject(answers, meter, ("cat", "dog"), Examples(images, eval_transform(args)))
    about = near.section(subject, args, found)
    assert (about["count"], about["clashes"], about["trained"], about["accuracy_without"]) == (2, 1, 8, 1.0)
    assert [(pair["val"]["name"], pair["train"]["name"]) for pair in about["pairs"]] == [
        ("v1.png", "t1.png"),
        ("v0.png", "t0.png"),
    ]
    assert (tmp_path / "r_duplicates.csv").read_text().splitlines()[1] == "v1.png,0,t1.png,1,1.0000"


def test_duplicates_need_features():
    args = parse("eval", ["--model_file=x", "--report=a.html", "--report_duplicates=True"])
    with pytest.raises(FlagError, match="--report_duplicates needs features, which --model_file lacks"):
        check_report_flags(args)
