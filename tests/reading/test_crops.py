"""12 and 144 crops: their boxes, against a straightforward computation, and the mean of their scores."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import models
from utils.evaluation.crops import AverageOverCrops
from utils.reading.crops import SHORT_SIDES, MultiCropTransform, short_sides
from utils.reading.normalize import normalize
from utils.reading.transforms import EvalTransform

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def picture(height, width, seed=0):
    """Smooth enough that resizing keeps it, with a colour for every place."""
    noise = np.random.RandomState(seed).randint(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)


def five_and_whole(square, size):
    """The crops of a square, spelled out."""
    side = square.shape[0]
    assert square.shape[:2] == (side, side)
    start = (side - size) // 2
    return [
        square[:size, :size],
        square[:size, -size:],
        square[-size:, :size],
        square[-size:, -size:],
        square[start : start + size, start : start + size],
        cv2.resize(square, (size, size)),
    ]


def twelve(image, base, size):
    return five_and_whole(cv2.resize(image, (base, base)), size)


def hundred_and_forty_four(image, sides, size):
    crops = []
    for side in sides:
        height, width = image.shape[:2]
        if height < width:
            resized = cv2.resize(image, (round(width * side / height), side))
            slack = resized.shape[1] - side
            squares = [resized[:, start : start + side] for start in (0, slack // 2, slack)]
        else:
            resized = cv2.resize(image, (side, round(height * side / width)))
            slack = resized.shape[0] - side
            squares = [resized[start : start + side] for start in (0, slack // 2, slack)]
        for square in squares:
            crops += five_and_whole(square, size)
    return crops


# Portrait, landscape, square, tiny, and all of odd sizes.
SIZES = [(375, 501), (501, 375), (97, 333), (333, 97), (255, 255), (7, 5), (1, 3), (1, 1)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("base", "size"), [(256, 224), (257, 224), (320, 299), (64, 64), (33, 32)])
def test_twelve_crops(height, width, base, size):
    image = picture(height, width)
    ours = MultiCropTransform(12, size, base)(image)
    assert ours.shape == (6, size, size, 3)
    np.testing.assert_array_equal(ours, twelve(image, base, size))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [224, 235, 299, 320, 64])
def test_144_crops(height, width, size):
    image = picture(height, width)
    sides = {
        224: [256, 288, 320, 352],
        235: [270, 300, 330, 360],
        299: [320, 352, 384, 416],
        320: [352, 384, 416, 448],
        64: [73, 82, 91, 101],
    }[size]
    ours = MultiCropTransform(144, size, 256)(image)
    assert ours.shape == (72, size, size, 3)
    np.testing.assert_array_equal(ours, hundred_and_forty_four(image, sides, size))


def test_short_sides_grow_with_the_crop():
    assert [short_sides(size) for size in SHORT_SIDES] == list(SHORT_SIDES.values())
    for size in range(32, 500, 13):
        assert size < short_sides(size)[0] < short_sides(size)[1] < short_sides(size)[2] < short_sides(size)[3]


def test_one_crop_of_a_square_is_the_centre_of_twelve():
    image = picture(301, 301)
    (centre,) = [EvalTransform((224, 224), 256)(image)]
    np.testing.assert_array_equal(MultiCropTransform(12, 224, 256)(image)[4], centre)


def test_crops_of_a_file(tmp_path):
    image = picture(40, 60)
    data = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    transform = MultiCropTransform(12, 32, 36)
    np.testing.assert_array_equal(transform.decode(data, "x.png"), transform(image))


def to_input(images):
    return normalize(images, MEAN, STD)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = models.MobileNetV1_x0_25(class_dim=7).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return model


@pytest.mark.parametrize("crop_num", [12, 144])
@pytest.mark.parametrize("batch_size", [1, 10, 1000])
def test_scores_are_the_mean_of_single_evaluations(crop_num, batch_size, network):
    transform = MultiCropTransform(crop_num, 32, 37)
    crops = np.stack([transform(picture(51, 43, seed)) for seed in range(2)])
    scores = AverageOverCrops(network, to_input, batch_size)
    with torch.inference_mode():
        ours = scores(torch.from_numpy(crops)).exp()
        for image, mean in zip(crops, ours, strict=True):
            singles = []
            for crop in image:
                for pixels in (crop, crop[:, ::-1]):
                    one = torch.from_numpy(np.ascontiguousarray(pixels))[None]
                    singles.append(network(to_input(one)).softmax(1)[0])
            assert len(singles) == crop_num
            torch.testing.assert_close(mean, torch.stack(singles).mean(0), rtol=1e-5, atol=1e-6)
    assert (ours[0] - ours[1]).abs().max() > 1e-3  # the images are not mixed up


def test_a_network_sees_no_more_than_a_batch():
    seen = []

    def network(images):
        seen.append(len(images))
        return images.mean((2, 3))

    AverageOverCrops(network, to_input, 8)(torch.zeros(3, 6, 4, 4, 3, dtype=torch.uint8))
    assert sum(seen) == 36
    assert max(seen) == 8


def test_a_certain_network_has_a_finite_loss():
    def network(images):
        return torch.tensor([[1000.0, -1000.0]]).repeat(len(images), 1)

    log_mean = AverageOverCrops(network, to_input, 8)(torch.zeros(1, 6, 4, 4, 3, dtype=torch.uint8))
    assert torch.isfinite(nn.functional.cross_entropy(log_mean, torch.tensor([1])))
    assert log_mean[0, 0] == 0
