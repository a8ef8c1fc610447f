"""Writes docs/inputs.md: how every network's images are decoded, resized, cropped and normalised, and who chose that.

python docs/make_inputs.py

paddleclas_inputs.json.gz holds what PaddleClas's configurations say (of October 2024; ImageNet and PULC): `pipelines`,
lists of operators; `normalizations`, mean and std for pixels of 0..255; `configurations`, by path: the network, the
pipeline and normalization of the Eval and the Infer section, and of the Train section decoder, channel order and
RandCropImage (backend, interpolation, size); `sha1`, of what the pipelines with Pillow make of two photographs.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from models.inputs import InputConfig
from utils.flags.line_parser import LineParser
from utils.reading.transforms import EvalTransform

FILE = Path(__file__).with_name("inputs.md")
FACTS = Path(__file__).with_name("paddleclas_inputs.json.gz")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "lanczos")
LIBRARIES = {"cv2": "OpenCV", "pil": "Pillow"}

TITLE = """# Preprocessing of every network

How images are decoded, resized, cropped and normalised for each network, and the source of each setting. Look here when
you feed a network from your own program, or when an accuracy differs from the published one.

An accuracy holds for one way of preprocessing. Each network is evaluated and exported with the preprocessing that its
published accuracy was measured with, and trained with it by default. These flags change it: `--image_shape`,
`--resize_short_size`, `--interpolation`, `--resize_mode`, `--resize_backend`, `--decode_backend`, `--channel_order`,
`--background`, `--image_depth_range`, `--image_mean` and `--image_std`. Checkpoints and exports store all of them.

- OpenCV interpolates between neighbouring pixels; Pillow averages over all pixels that shrink into one. They differ by
  up to 69 of 255 levels. When Pillow resizes, rows are filtered first, with any version of Pillow.
- OpenCV rotates an image upright by its EXIF orientation; Pillow does not.
- The pixels equal PaddleClas's bit by bit. (OpenCV's bicubic interpolation depends on the processor in one of 50,000
  pixels, in PaddleClas as well.)

docs/make_inputs.py writes this page from the settings in models/ (`INPUTS`) and the configurations of PaddleClas.

## All networks
"""


def facts() -> dict[str, Any]:
    """What PaddleClas's configurations say; see above."""
    return json.loads(gzip.decompress(FACTS.read_bytes()))


def transform(operators: Sequence[Mapping[str, Mapping[str, Any]]]) -> EvalTransform:
    """A pipeline of PaddleClas as a transform of ours."""
    arguments = {name: given for operator in operators for name, given in operator.items()}
    decoding = arguments["DecodeImage"]
    decoder = decoding.get("backend", "cv2")
    # OpenCV decodes to BGR, and `to_np: false` keeps that; Pillow decodes to RGB.
    swapped = not decoding.get("to_rgb", True) or (decoder == "cv2" and not decoding.get("to_np", True))
    order = "bgr" if swapped else "rgb"
    if crop := arguments.get("CropImageAtRatio"):
        size, interpolation = crop["size"], INTERPOLATIONS.index(crop["interpolation"])
        return EvalTransform((size, size), size + crop["pad"], interpolation, "crop", "cv2", decoder, order)
    resizing = arguments["ResizeImage"]
    backend, interpolation = (
        resizing.get("backend", "cv2"),
        INTERPOLATIONS.index(resizing.get("interpolation", "bilinear")),
    )
    if crop := arguments.get("CropImage"):
        size = crop["size"]
        return EvalTransform((size, size), resizing["resize_short"], interpolation, "short", backend, decoder, order)
    width, height = resizing["size"] if isinstance(resizing["size"], list) else (resizing["size"],) * 2
    return EvalTransform((height, width), max(height, width), interpolation, "exact", backend, decoder, order)


def transform_of(config: InputConfig) -> EvalTransform:
    """What a network's evaluation does."""
    return EvalTransform(
        (config.image_size, config.image_size),
        config.resize_short_size,
        config.interpolation,
        config.resize_mode,
        config.resize_backend,
        config.decode_backend,
        config.channel_order,
    )


def interpolation_of(transform: EvalTransform) -> str:
    """Its name."""
    return INTERPOLATIONS[1 if transform.interpolation is None else transform.interpolation]


def described(transform: EvalTransform) -> tuple[str, str, str]:
    """Decoding, resizing and crop, in words."""
    height, width = transform.image_size
    how = f"{interpolation_of(transform)}, {LIBRARIES[transform.resize_backend]}"
    decoding = f"{LIBRARIES[transform.decode_backend]}, {transform.channel_order.upper()}"
    if transform.resize_mode == "exact":
        return decoding, f"to {height} x {width}, {how}", "none"
    if transform.resize_mode == "crop":
        return decoding, f"after the crop, {how}", f"{height}/{transform.resize_short_size} of the short side"
    return decoding, f"short side to {transform.resize_short_size}, {how}", f"{height} x {width}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def sources(configurations: Mapping[str, Any]) -> dict[str, str]:
    """Network -> the ImageNet configuration of its own name."""
    return {
        about["network"]: path
        for path, about in configurations.items()
        if path.startswith("ImageNet/") and Path(path).stem == about["network"]
    }


def table_of_networks(configurations: Mapping[str, Any]) -> str:
    """A row for each network, those of one kind together."""
    by_network = sources(configurations)
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in models.list_models():
        inputs = {"": models.input_config(name), "PaddleClas": models.input_config(name, "PaddleClas")}
        if inputs[""] == inputs["PaddleClas"] or name not in by_network:
            del inputs["PaddleClas"]
        for publisher, config in inputs.items():
            source = str(Path(by_network[name]).parent) if name in by_network else "as published"
            if len(inputs) == 2:
                source = f"{source}, for PaddleClas's weights" if publisher else "fluid zoo, for its weights"
            mean = f"{numbers(config.mean)} / {numbers(config.std)}"
            rows.setdefault((*described(transform_of(config)), mean, source), []).append(name)
    lines = [row("network", "decode", "resize", "crop", "mean / std", "source"), "|---|---|---|---|---|---|"]
    lines += [
        row(", ".join(names), *cells) for cells, names in sorted(rows.items(), key=lambda item: item[1][0].lower())
    ]
    return "\n".join(lines)


def table_of_differences(facts: Mapping[str, Any]) -> str:
    """The configurations whose Infer section makes other pixels than Eval."""
    lines = [row("configuration", "Eval (used here)", "Infer"), "|---|---|---|"]
    for path, about in facts["configurations"].items():
        if "Infer" in about and about["Infer"][0] != about["Eval"][0]:
            pipelines = [facts["pipelines"][about[section][0]] for section in ("Eval", "Infer")]
            lines.append(row(path, *("; ".join(described(transform(pipeline))) for pipeline in pipelines)))
    return "\n".join(lines)


def table_of_training(facts: Mapping[str, Any]) -> str:
    """The networks that PaddleClas trains with another decoder, channel order, library or interpolation than Eval."""
    lines = [row("networks", "trained with", "evaluated with"), "|---|---|---|"]
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, path in sources(facts["configurations"]).items():
        about = facts["configurations"][path]
        evaluated = transform(facts["pipelines"][about["Eval"][0]])
        decoder, order, backend, interpolation, _ = about["Train"]
        there = (decoder, order, backend, interpolation)
        here = (
            evaluated.decode_backend,
            evaluated.channel_order,
            evaluated.resize_backend,
            interpolation_of(evaluated),
        )
        if there != here:
            trained, evaluates = (
                f"{LIBRARIES[decoding]}, {channels.upper()}; {LIBRARIES[resizing]}, {method}"
                for decoding, channels, resizing, method in (there, here)
            )
            rows.setdefault((trained, evaluates), []).append(name)
    lines += [row(", ".join(names), *cells) for cells, names in rows.items()]
    return "\n".join(lines)


def table_of_pulc(facts: Mapping[str, Any]) -> str:
    """The flags for the tasks of PULC that are not evaluated as their networks usually are."""
    lines = [row("configuration", "flags"), "|---|---|"]
    for path, about in facts["configurations"].items():
        made = transform(facts["pipelines"][about["Eval"][0]])
        if path.startswith("PULC/") and made.resize_mode == "exact":
            height, width = made.image_size
            lines.append(row(path, f"`--image_shape 3 {height} {width} --resize_mode=exact`"))
    return "\n".join(lines)


def document() -> str:
    """The whole of docs/inputs.md."""
    known = facts()
    return f"""{TITLE}
{table_of_networks(known["configurations"])}

## Configurations whose Infer section differs from Eval

In these configurations of PaddleClas, the Infer section preprocesses images differently from the Eval section.
PaddleClas's `infer.py` and the `inference.yml` of an export follow Infer; the published accuracy belongs to Eval. Here
validation, eval.py, infer.py and predict.py all follow Eval.

{table_of_differences(known)}

## Networks that PaddleClas trains with other preprocessing

`--interpolation` and the other flags apply to training and validation alike. PaddleClas uses different settings for
training and evaluation of these networks (`random`: bilinear or bicubic):

{table_of_training(known)}

## PULC tasks that change the aspect ratio

{table_of_pulc(known)}
"""


if __name__ == "__main__":
    LineParser(__doc__).parse_args()
    FILE.write_text(document(), encoding="utf-8")
