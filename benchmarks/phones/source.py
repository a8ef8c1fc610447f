"""What benchmarks/mobile.py converts: a network with weights, images, and PyTorch's answers, in a folder.

description.json, weights.safetensors, model.onnx
images.npy, expected.npy                    some images, and the logits that PyTorch makes of them
calibration.npy, calibration/*.png          of a trained network: images to quantize it by
photos.npy, photo_logits.npy                of a trained network: photographs, and PyTorch's logits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import models
from models.network import Network
from utils.deploy.export import save_inference
from utils.deploy.network import Description
from utils.evaluation.names import class_names
from utils.flags.inputs import INPUT_FLAGS
from utils.flags.parsing import parse
from utils.reading.build import eval_transform, infer_loader
from utils.reading.image_list import ImageList
from utils.reading.normalize import normalize
from utils.weights import TO_USE, load_pretrained
from utils.weights.network import build_model, noted_input, resolve_input, settle_network

IMAGES = 4


def write_random(name: str, folder: Path) -> None:
    """A network with random weights, whose batch norms fit what they see.

    Their scales are below 1 on average, as after training: otherwise deep networks would be chaotic, and float rounding
    would be seen in the first digits of the logits.
    """
    size = models.input_config(name).image_size
    torch.manual_seed(0)
    model = models.build(name).train().requires_grad_(False)
    images = torch.randn(IMAGES, 3, size, size)
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.weight.uniform_(0.25, 0.75)
        norm.bias.uniform_(-0.25, 0.25)
        norm.momentum = 0.9
    if norms:
        model(images)
    write(model, Description(name, [], [3, size, size], size, 1, [0.5] * 3, [0.25] * 3, class_dim=1000), images, folder)


def write_trained(name: str, weights: str, photos: str, calibration: str, folder: Path) -> None:
    """A network with the weights that train.py has saved, and images read as these say."""
    args = parse("infer", [f"--model={name}", f"--pretrained_model={weights}", "--batch_size=32"])
    settle_network(args, weights)
    resolve_input(args, noted_input(weights, name))
    model = build_model(args)
    load_pretrained(model, weights, remedies=TO_USE)
    values = {flag: getattr(args, flag) for flag in INPUT_FLAGS}
    description = Description(name, list(class_names(args)), **values, class_dim=args.class_dim)
    pixels = {what: pixels_of(args, images) for what, images in (("calibration", calibration), ("photos", photos))}
    inputs = {what: normalize(each, args.image_mean, args.image_std) for what, each in pixels.items()}
    write(model, description, inputs["photos"][:IMAGES].contiguous(), folder)
    for what, each in inputs.items():
        np.save(folder / f"{what}.npy", each.contiguous().numpy())
    np.save(folder / "photo_logits.npy", logits_of(model, inputs["photos"]))
    (folder / "calibration").mkdir()
    for number, picture in enumerate(pixels["calibration"].numpy()):
        rgb = picture if args.channel_order == "rgb" else picture[..., ::-1]
        cv2.imwrite(str(folder / "calibration" / f"{number}.png"), rgb[..., ::-1])


def pixels_of(args: argparse.Namespace, path: str) -> Tensor:
    """The images of a folder, resized and cropped as the flags say, uint8 (N, H, W, 3)."""
    loader = infer_loader(args, ImageList.find(path), eval_transform(args))
    return torch.cat([batch.images.clone() for batch in loader.epoch(0)])


def write(model: Network, description: Description, images: Tensor, folder: Path) -> None:
    """A network, images, and what PyTorch makes of them."""
    model.eval().requires_grad_(False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "description.json").write_text(description.to_json(), encoding="utf-8")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "weights.safetensors")
    np.save(folder / "images.npy", images.numpy())
    np.save(folder / "expected.npy", logits_of(model, images))
    save_inference(model, description, folder, "onnx")


@torch.inference_mode()
def logits_of(model: nn.Module, images: Tensor) -> np.ndarray:
    return np.concatenate([model(image).numpy() for image in images.split(1)])
