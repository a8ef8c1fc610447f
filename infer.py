"""Classifies images with a network's weights, or exports the network for predict.py.

python infer.py --model=ResNet50 --pretrained_model=output/ResNet50/best_model --image_path=cat.jpg --topk=5
python infer.py --model=ResNet50 --pretrained_model=output/ResNet50/best_model --data_dir=photos/
python infer.py --model=ResNet50 --pretrained_model=output/ResNet50/best_model --save_inference=True
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from utils.errors import FlagError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("infer")  # answers --help and a misspelt flag before PyTorch is imported, which takes a while

import numpy as np
import torch
from torch import Tensor, nn

from utils.console import check_readable, log, progress, report_unreadable
from utils.deploy.export import save_inference
from utils.deploy.exported import Description
from utils.deploy.quantize import quantize
from utils.devices import choose_device, memory_format
from utils.evaluation.features import FeatureFile
from utils.evaluation.pictures import draw, grad_cam, save_picture
from utils.evaluation.predictions import Prediction, ResultFile, top_predictions
from utils.flags.idle import note_idle_flags
from utils.reading.build import eval_transform, infer_loader
from utils.reading.class_names import read_class_names
from utils.reading.image_list import ImageList
from utils.reading.transforms import normalize
from utils.weights import load_pretrained, read_input_notes
from utils.weights.network import build_model, explained_sizes, resolve_input


def main() -> None:
    args = parse("infer")
    check_flags(args)
    note_idle_flags(args)
    resolve_input(args, read_input_notes(args.pretrained_model))
    device = torch.device("cpu") if args.save_inference else choose_device(args)
    class_names = choose_class_names(args)
    calibration_images = choose_calibration_images(args) if args.calibration_dir else None
    model = build_model(args)
    log(str(load_pretrained(model, args.pretrained_model)))
    model.eval().requires_grad_(False)

    with explained_sizes(args.model):
        if args.save_inference:
            export(args, model, class_names, calibration_images)
        else:
            model.to(device, memory_format=memory_format(args, device))
            infer(args, model, class_names, device)


def check_flags(args: argparse.Namespace) -> None:
    """Raises `FlagError` for flags that do not go together."""
    if args.topk > args.class_dim:
        raise FlagError(f"--topk {args.topk} is more than the {args.class_dim} classes of --class_dim")
    if args.calibration_dir and not (args.save_inference and args.inference_format == "onnx"):
        raise FlagError("--calibration_dir goes with --save_inference=True --inference_format=onnx")
    if args.grad_cam and not args.vis_dir:
        raise FlagError("--grad_cam=True goes into the pictures of --vis_dir: give that folder")
    if args.features_path and not args.features_path.endswith(".npy"):
        raise FlagError(f"--features_path {args.features_path}: give a file name that ends in .npy")
    if args.vis_dir and args.features_path:
        raise FlagError("--vis_dir shows classes, which --features_path does not find: give one of them")


def choose_class_names(args: argparse.Namespace) -> list[str]:
    """The names of --class_map_path; by default ImageNet's for 1000 classes, and numbers for another number."""
    if "class_map_path" in args.given:
        return read_class_names(args.class_map_path, args.class_dim)
    if args.class_dim == 1000:
        return read_class_names(str(Path(__file__).parent / args.class_map_path), args.class_dim)
    log(f"--class_map_path not given: the {args.class_dim} classes have their numbers for names")
    return [str(number) for number in range(args.class_dim)]


def choose_calibration_images(args: argparse.Namespace) -> ImageList:
    """--calibration_images of the images of --calibration_dir, evenly spread over them."""
    images = ImageList.find(args.calibration_dir)
    count = min(len(images), args.calibration_images)
    chosen = [images.name(number * len(images) // count) for number in range(count)]
    return ImageList.from_paths(chosen, root=images.root)


def export(
    args: argparse.Namespace, model: nn.Module, class_names: list[str], calibration_images: ImageList | None
) -> None:
    """Writes the network into a folder of its name."""
    description = Description(
        args.model,
        class_names,
        args.image_shape,
        args.resize_short_size,
        args.interpolation,
        args.image_mean,
        args.image_std,
    )
    model_file = save_inference(model, description, Path(args.model), args.inference_format)
    if calibration_images is not None:
        model_file = quantize(model_file, partial(prepared, args, calibration_images))
    log(f"{args.model} is exported: python predict.py --model_file={model_file} --image_path=IMAGE")


def prepared(args: argparse.Namespace, images: ImageList) -> Iterator[Tensor]:
    """Batches of the images, prepared for the network."""
    loader = infer_loader(args, images, eval_transform(args))
    read = 0
    for batch in loader.epoch(0):
        yield normalize(batch.images, args.image_mean, args.image_std)
        read += len(batch)
    check_readable(loader.unreadable, read)


def infer(args: argparse.Namespace, model: nn.Module, class_names: list[str], device: torch.device) -> None:
    """Classifies --image_path or the folder --data_dir, a line per image; or writes the images' features.

    Raises:
        FlagError: the pictures of --vis_dir would take the places of the images.
        UserError: no image can be read, now or in the run that is resumed.
    """
    images = ImageList.find(args.image_path or args.data_dir)
    if args.vis_dir and os.path.realpath(args.vis_dir) == os.path.realpath(images.root):
        raise FlagError(f"--vis_dir {args.vis_dir}: the pictures would be written over the images: give another folder")
    if args.features_path:
        results = FeatureFile(args.features_path)
    else:
        results = ResultFile(args.save_json_path, args.topk, args.resume)
    with results, torch.no_grad(), progress(len(images), "images", len(results.done)) as bar:
        images = images.without(results.done)
        if not len(images):
            log("every image has its result already")
            return
        loader = infer_loader(args, images, eval_transform(args), pin_memory=device.type == "cuda")
        read = len(results.done)
        for batch in loader.epoch(0):
            pixels = batch.images.to(device, non_blocking=True)
            inputs = normalize(pixels, args.image_mean, args.image_std, memory_format(args, device))
            names = [images.name(index) for index in batch.indices.tolist()]
            if args.features_path:
                results.write(model.forward_features(inputs), names)
            else:
                predictions = list(top_predictions(model(inputs), names, class_names, args.topk))
                for prediction in predictions:
                    log(prediction.line())
                    results.write(prediction)
                results.flush()
                if args.vis_dir:
                    show(args, model, batch.images, inputs, predictions)
            read += len(batch)
            bar.update(len(batch))
    check_readable(loader.unreadable, read)
    report_unreadable(loader.unreadable)


def show(
    args: argparse.Namespace, model: nn.Module, pixels: Tensor, inputs: Tensor, predictions: list[Prediction]
) -> None:
    """Writes a picture of each image of a batch and its best classes to --vis_dir."""
    heats: Sequence[np.ndarray | None] = [None] * len(predictions)
    if args.grad_cam:
        heats = grad_cam(model, inputs, [prediction.classes[0] for prediction in predictions]).cpu().numpy()
    for image, prediction, heat in zip(pixels.numpy(), predictions, heats, strict=True):
        save_picture(draw(image, prediction, heat), args.vis_dir, prediction.image)


if __name__ == "__main__":
    run_script(main)
