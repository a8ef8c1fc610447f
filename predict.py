"""Classifies images with an exported network; needs nothing of models/.

python predict.py --model_file=ResNet50/model --params_file=ResNet50/params --image_path=cat.jpg
python predict.py --model_file=ResNet50/model --image_path=photos/ --topk=5 --save_json_path=results.txt
python predict.py --model_file=PPLCNet_x1_0_infer/inference.pdmodel --image_path=cat.jpg
python -m torch.distributed.run --nproc_per_node=4 predict.py --model_file=ResNet50/model --image_path=photos/
"""

from __future__ import annotations

import argparse
import os

from utils.errors import FlagError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("predict")  # answers --help and a misspelt flag before PyTorch is imported, which takes a while

import torch
from torch import Tensor

from utils.deploy.exported import load_exported
from utils.deploy.network import ExportedNetwork
from utils.devices import gpu_of_process, named_device
from utils.evaluation.classify import Classifier, Extractor, answer_images
from utils.evaluation.features import FeatureFile
from utils.evaluation.meters import answer_thresholds
from utils.evaluation.predictions import ResultFile
from utils.flags.idle import note_idle_flags
from utils.flags.inputs import given_input
from utils.processes import check_agreement, process_group, rank, world_size
from utils.reading.build import eval_transform, infer_loader
from utils.reading.class_names import Names, checked_names
from utils.reading.image_list import ImageList
from utils.reading.loader import Loader
from utils.reading.normalize import normalize
from utils.reading.numbering import choose_names


def main() -> None:
    args = parse("predict")
    note_idle_flags(args)
    check_features_path(args)
    dtype = choose_dtype(args)
    device = choose_device(args)
    with process_group(device):
        predict(args, device, dtype)


def predict(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """Classifies --image_path, a line per image; or writes the output that --features_path is for."""
    images = ImageList.find(args.image_path)
    check_agreement({**args.values(), "image_path": images.summary()})
    network = load_exported(
        args.model_file,
        args.params_file,
        device,
        dtype,
        engine=args.engine,
        batch_size=min(args.batch_size, len(images)),
        use_compile=args.use_compile,
        use_tensorrt=args.use_tensorrt,
        gpu_mem=args.gpu_mem and args.gpu_mem * 2**20,
        may_use_cpu=not {"gpu_id", "device"} & args.given,
        cpu_flag="--device=cpu" if args.device else "--gpu_id=-1",
        input_flags=given_input(args),
        output_name=args.output_name,
        features=bool(args.features_path),
    )
    about = network.description

    def prepare(pixels: Tensor) -> Tensor:
        pixels = pixels.to(network.device, non_blocking=True)
        return normalize(pixels, about.image_mean, about.image_std, network.memory_format, network.dtype)

    def open_loader(images: ImageList) -> Loader:
        return infer_loader(args, images, eval_transform(about), rank(), world_size(), network.device.type == "cuda")

    precision_flag = "--use_fp16" if args.use_fp16 else "--use_bf16" if args.use_bf16 else None
    if args.features_path:
        extractor = Extractor(network.features, prepare, precision_flag)
        answer_images(images, extractor, open_loader, lambda: FeatureFile(args.features_path, args.resume))
        return
    if network.topk and "topk" not in args.given:
        args.topk = min(network.topk, about.class_dim)
    if "multi_label" not in args.given:
        args.multi_label = about.multi_label
    if "attributes" not in args.given and args.multi_label:
        args.attributes = network.attributes
    noted = about.threshold if args.multi_label == about.multi_label else None
    thresholds = answer_thresholds(args, about.class_dim, args.multi_label, noted)
    names = class_names(args, network)
    classifier = Classifier(network, prepare, names, args.topk, precision_flag, thresholds, args.attributes)
    scores = classifier.scores_per_image
    answer_images(images, classifier, open_loader, lambda: ResultFile(args.save_json_path, scores, args.resume))


def class_names(args: argparse.Namespace, network: ExportedNetwork) -> Names:
    """The names of --class_names or --class_map_path, or those that the network was exported with, if it was with any.

    Raises:
        FlagError: they are fewer than --topk.
    """
    about = network.description
    if args.topk > about.class_dim and not args.multi_label:
        raise FlagError(f"--topk {args.topk} is more than the {about.class_dim} classes of {about.network}")
    if args.class_names:
        return checked_names(args.class_names, about.class_dim)
    return choose_names(args.class_map_path or None, about.class_dim, about.class_names)


def check_features_path(args: argparse.Namespace) -> None:
    """Raises `FlagError` unless --features_path, if given, is a name for an array."""
    if args.features_path and not args.features_path.endswith(".npy"):
        raise FlagError(f"--features_path {args.features_path}: give a file name that ends in .npy")


def choose_device(args: argparse.Namespace) -> torch.device:
    """--device, or GPU --gpu_id, or this process's of several, with no more than --gpu_mem of its memory if that was
    given; the CPU if --gpu_id is below 0 or there is no GPU.

    Raises:
        FlagError: a GPU was asked for that is not there, or one for several processes.
        UserError: there are more processes than GPUs on this machine.
    """
    if args.device is not None:
        return _limited(named_device(args.device), args.gpu_mem)
    count = torch.cuda.device_count()
    given = "gpu_id" in args.given
    if args.gpu_id >= count and given:
        raise FlagError(f"--gpu_id {args.gpu_id}: there are {count} usable GPUs here; give --gpu_id=-1 for the CPU")
    if args.gpu_id < 0 or not count:
        return torch.device("cpu")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        device = torch.device("cuda", args.gpu_id)
        torch.cuda.set_device(device)  # the reader's copies and events go to the current one
    elif given:
        raise FlagError(
            f"--gpu_id {args.gpu_id}: each of several processes takes a GPU of its own; leave it out, or give "
            "--gpu_id=-1 for the CPU"
        )
    else:
        device = gpu_of_process("--gpu_id=-1")
    return _limited(device, args.gpu_mem)


def _limited(device: torch.device, gpu_mem: int | None) -> torch.device:
    """The device, a GPU of which no more than `gpu_mem` MB may be used from now on."""
    if gpu_mem and device.type == "cuda":
        share = gpu_mem * 2**20 / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
    return device


def choose_dtype(args: argparse.Namespace) -> torch.dtype:
    """The type to compute in, by the flags."""
    if args.use_fp16 and args.use_bf16:
        raise FlagError("--use_fp16 and --use_bf16 exclude each other: give one of them")
    return torch.float16 if args.use_fp16 else torch.bfloat16 if args.use_bf16 else torch.float32


if __name__ == "__main__":
    run_script(main, less_memory="lower --batch_size, or raise --gpu_mem if it was given")
