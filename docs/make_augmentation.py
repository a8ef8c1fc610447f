"""Makes docs/augmentation.jpg: each augmentation on a photograph, three draws each.

    python docs/make_augmentation.py

The photographs are scikit-learn's sample images, which are in its wheel.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
import torch
from sklearn.datasets import load_sample_image

from utils.flags.line_parser import LineParser
from utils.reading import augment
from utils.reading.grid import write_grid
from utils.reading.transforms import EvalTransform, TrainTransform
from utils.training import mixing

DOCS = Path(__file__).resolve().parent
SIZE = (224, 224)
FILL = (124, 116, 104)  # the mean colour of ImageNet
DRAWS = 3
SHOWN = (150, 150)


def main() -> None:
    LineParser(__doc__).parse_args()
    china, flower = load_sample_image("china.jpg"), load_sample_image("flower.jpg")
    whole = EvalTransform(SIZE, 224)
    photograph, other = whole(china), whole(flower)
    operations = {
        "--use_aa": augment.AutoAugment(),
        "--use_ra": augment.RandAugment(),
        "--random_rotation 30": augment.RandomRotation(30, FILL),
        "--color_jitter 0.4": augment.ColorJitter(0.4, 0.4, 0.4),
        "--use_cutout": augment.Cutout(112, FILL),
        "--random_erasing 1": augment.RandomErasing(1.0),
        "--use_hide_and_seek": augment.HideAndSeek(FILL, sizes=(16, 32, 44, 56)),
        "--use_gridmask": augment.GridMask(FILL, probability=1.0),
    }
    pictures, captions = [photograph, other, photograph[:, ::-1]], ["validation", "another image", "flipped"]

    rng = np.random.default_rng(1)
    crop = TrainTransform(SIZE)
    for _ in range(DRAWS):
        pictures.append(crop(china, rng))
        captions.append("training crop")
    for flag, operation in operations.items():
        for _ in range(DRAWS):
            pictures.append(operation(photograph, rng))
            captions.append(flag)
    batch = torch.from_numpy(np.stack([photograph, other])).permute(0, 3, 1, 2).float()
    for flag, mix, alpha in (("--use_mixup", mixing.mixup, 1.0), ("--use_cutmix", mixing.cutmix, 1.0)):
        drawn = 0
        while drawn < DRAWS:
            mixed, targets = mix(batch, torch.tensor([0, 1]), alpha, rng)
            if (
                targets.mixed_labels is not None and targets.mixed_labels[0] == 1 and 0.2 < targets.weight < 0.8
            ):  # with the other image, and to be seen
                pictures.append(mixed[0].round().byte().permute(1, 2, 0).numpy())
                captions.append(f"{flag}: {targets.weight:.2f}")
                drawn += 1
    pictures = [cv2.resize(picture, SHOWN, interpolation=cv2.INTER_AREA) for picture in pictures]
    write_grid(str(DOCS / "augmentation.jpg"), pictures, captions, columns=2 * DRAWS)


if __name__ == "__main__":
    main()
