"""Classifies images with a network's weights, or exports the network for predict.py.

python infer.py --model=ResNet50 --pretrained_model=output/ResNet50/best_model --image_path=cat.jpg --topk=5
python infer.py --model=ResNet50 --pretrained_model=output/ResNet50/best_model --data_dir=photos/
python -m torch.distributed.run --nproc_per_node=4 infer.py --model=ResNet50 --pretrained_model=... --data_dir=photos/
python infer.py --model=ResNet50 --pretrained_model=output/ResNet50/best_model --save_inference=True
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from utils.errors import LESS_MEMORY, FlagError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("infer")  # answers --help and misspelt flags before the slow import of PyTorch

import torch
from torch import Tensor

from models.network import Network
from utils.console import is_main_process, log
from utils.deploy.calibration import CalibrationBatches, choose_images
from utils.deploy.comparing import test_images
from utils.deploy.executorch_export import quantize_executorch
from utils.deploy.export import QUANTIZED_FORMATS, folded_program, save_inference
from utils.deploy.network import Description
from utils.deploy.onnx_export import onnx_form
from utils.deploy.quantize import quantize
from utils.devices import amp_dtype, choose_device, in_mixed_precision, memory_format, note_slow_type, place
from utils.evaluation.classify import Classifier, Extractor, answer_images
from utils.evaluation.features import FeatureFile
from utils.evaluation.meters import answer_thresholds
from utils.evaluation.names import class_names
from utils.evaluation.pictures import grad_cam, save_pictures
from utils.evaluation.predictions import AtLeast, Prediction, ResultFile
from utils.files import check_can_write_into
from utils.flags.idle import note_idle_flags
from utils.flags.inputs import INPUT_FLAGS
from utils.processes import broadcast_object, check_agreement, process_group, rank, refuse_several, world_size
from utils.reading.build import eval_transform, infer_loader
from utils.reading.image_list import ImageList
from utils.reading.loader import Loader
from utils.reading.normalize import normalize
from utils.weights import TO_USE, load_pretrained
from utils.weights.network import (
    build_model,
    explained_sizes,
    note_unknown_input,
    noted_input,
    resolve_input,
    settle_network,
)


def main() -> None:
    args = parse("infer")
    settle_network(args, args.pretrained_model)
    check_flags(args)
    note_idle_flags(args)
    noted = noted_input(args.pretrained_model, args.model, args.pretrained_key)
    resolve_input(args, noted)
    note_unknown_input(args, noted)
    if args.save_inference:
        with process_group(torch.device("cpu")), explained_sizes(args.model):
            export(args)
        return
    device = choose_device(args)
    note_slow_type(device, amp_dtype(args, device), "--use_fp16")
    with process_group(device), explained_sizes(args.model):
        infer(args, device)


def check_flags(args: argparse.Namespace) -> None:
    """Raises `FlagError` for flags that cannot work together."""
    thresholds = answer_thresholds(args, args.class_dim, args.multi_label)
    if (thresholds is None or isinstance(thresholds, AtLeast)) and args.topk > args.class_dim:
        raise FlagError(
            f"--topk {args.topk} is more than the {args.class_dim} classes of --class_dim: give at most "
            f"{args.class_dim}"
        )
    if args.save_inference and not (args.calibration_dir and args.inference_format == "onnx"):
        refuse_several("--save_inference=True")
    if args.calibration_dir and not (args.save_inference and args.inference_format in QUANTIZED_FORMATS):
        raise FlagError("--calibration_dir needs --save_inference=True --inference_format=onnx, or executorch")
    if args.grad_cam and args.multi_label:
        raise FlagError("--grad_cam explains a single class per image: leave out --grad_cam or --multi_label")
    if args.grad_cam and isinstance(thresholds, AtLeast):
        raise FlagError(
            "--grad_cam explains the best class, and with --threshold an image may have none: leave out one of them"
        )
    if args.grad_cam and not args.vis_dir:
        raise FlagError("--grad_cam=True draws into the pictures of --vis_dir: give --vis_dir=FOLDER")
    if args.features_path and not args.features_path.endswith(".npy"):
        raise FlagError(f"--features_path {args.features_path}: give a file name ending in .npy")
    if args.vis_dir and args.features_path:
        raise FlagError("--vis_dir shows classes, and --features_path writes features instead: give one of them")


def load_network(args: argparse.Namespace) -> Network:
    """--model with the weights of --pretrained_model, in evaluation mode."""
    model = build_model(args)
    log(str(load_pretrained(model, args.pretrained_model, key=args.pretrained_key, remedies=TO_USE)))
    return model.eval().requires_grad_(False)


def export(args: argparse.Namespace) -> None:
    """Writes the network into --save_inference_dir, or a folder with its name.

    Several processes share the images of --calibration_dir; the main process does the rest.
    """
    values = {name: getattr(args, name) for name in INPUT_FLAGS}
    threshold = args.threshold if args.multi_label or "threshold" in args.given else None
    labels = {"class_dim": args.class_dim, "multi_label": args.multi_label, "threshold": threshold}
    description = Description(args.model, list(class_names(args)), **values, **labels)
    calibration_images = choose_images(args) if args.calibration_dir else None
    folder = Path(args.save_inference_dir or args.model)
    if rank() == 0:
        check_can_write_into(folder, "--save_inference")
    if calibration_images is not None:
        check_agreement({**args.values(), "calibration_dir": calibration_images.summary()})
    model_file = None
    if rank() == 0:
        model = load_network(args)
        model_file = save_inference(model, description, folder, args.inference_format, onnx_form(args))
        if calibration_images is not None and args.inference_format == "executorch":
            program = folded_program(model, test_images(description.image_shape))
            batches = CalibrationBatches(args, calibration_images)
            model_file = quantize_executorch(program, description, folder, batches, "--save_inference")
    model_file = broadcast_object(model_file)
    if calibration_images is not None and args.inference_format == "onnx":
        model_file = quantize(model_file, CalibrationBatches(args, calibration_images))
    log(f"exported {args.model}: python predict.py --model_file={model_file} --image_path=IMAGE")


def infer(args: argparse.Namespace, device: torch.device) -> None:
    """Classifies --image_path or the folder --data_dir, a line per image; or writes the images' features.

    Raises:
        FlagError: the pictures of --vis_dir would overwrite the images.
        UserError: no image can be read, in this run or the resumed one.
    """
    names = () if args.features_path else class_names(args)
    where = "image_path" if args.image_path else "data_dir"
    images = ImageList.find(getattr(args, where))
    if args.vis_dir and is_main_process():
        check_can_write_into(Path(args.vis_dir), "--vis_dir")
    if args.vis_dir and os.path.realpath(args.vis_dir) == os.path.realpath(images.root):
        raise FlagError(f"--vis_dir {args.vis_dir}: the pictures would overwrite the images: give another folder")
    check_agreement({**args.values(), where: images.summary()})
    layout, dtype = memory_format(args, device), amp_dtype(args, device)
    model = place(load_network(args), device, layout)
    precision_flag = "--use_fp16" if args.use_fp16 else None

    def prepare(pixels: Tensor) -> Tensor:
        return normalize(pixels.to(device, non_blocking=True), args.image_mean, args.image_std, layout)

    extractor = Extractor(in_mixed_precision(model.forward_features, device, dtype), prepare, precision_flag)
    network = in_mixed_precision(model, device, dtype)
    thresholds = answer_thresholds(args, args.class_dim, args.multi_label)
    classifier = Classifier(network, prepare, names, args.topk, precision_flag, thresholds, args.attributes)

    def classify_and_show(pixels: Tensor, names: Sequence[str]) -> list[Prediction]:
        predictions = classifier(pixels, names)
        heats = None
        if args.grad_cam:
            heats = grad_cam(model, prepare(pixels), [found.classes[0] for found in predictions]).cpu().numpy()
        rgb = pixels if args.channel_order == "rgb" else pixels.flip(-1)
        save_pictures(args.vis_dir, rgb, predictions, heats)
        return predictions

    def open_loader(images: ImageList) -> Loader:
        return infer_loader(args, images, eval_transform(args), rank(), world_size(), device.type == "cuda")

    if args.features_path:
        answer_images(images, extractor, open_loader, partial(FeatureFile, args.features_path, args.resume))
    else:
        answer = classify_and_show if args.vis_dir else classifier
        asked_for = "save_json_path" in args.given
        open_results = partial(ResultFile, args.save_json_path, classifier.scores_per_image, args.resume, asked_for)
        answer_images(images, answer, open_loader, open_results)


if __name__ == "__main__":
    run_script(main, LESS_MEMORY)
