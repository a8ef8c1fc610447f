"""Classifies images with an exported network; does not need models/.

python predict.py --model_file=ResNet50/model --params_file=ResNet50/params --image_path=cat.jpg
python predict.py --model_file=ResNet50/model --image_path=photos/ --topk=5 --save_json_path=results.txt
python predict.py --model_file=PPLCNet_x1_0_infer/inference.pdmodel --image_path=cat.jpg
python predict.py --model_file=ResNet50/model --serve_port=8866
python -m torch.distributed.run --nproc_per_node=4 predict.py --model_file=ResNet50/model --image_path=photos/
"""

from __future__ import annotations

import argparse
import os

from utils.errors import FlagError, UserError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("predict")  # answers --help and misspelt flags before the slow import of PyTorch

import torch

from utils.deploy.answering import classifier_by_flags, input_of, load_by_flags, precision_flag
from utils.devices import gpu_of_process, named_device, note_slow_type
from utils.evaluation.classify import Extractor, Scorer, answer_images
from utils.evaluation.features import FeatureFile
from utils.evaluation.predictions import ResultFile
from utils.flags.idle import note_idle_flags
from utils.processes import check_agreement, process_group, rank, refuse_several, world_size
from utils.reading.build import eval_transform, infer_loader
from utils.reading.image_list import ImageList
from utils.reading.loader import Loader


def main() -> None:
    args = parse("predict")
    note_idle_flags(args)
    check_features_path(args)
    dtype = choose_dtype(args)
    device = choose_device(args)
    note_slow_type(device, dtype, precision_flag(args) or "")
    if args.serve_port is not None:
        serve(args, device, dtype)
        return
    with process_group(device):
        predict(args, device, dtype)


def predict(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """Classifies --image_path, a line per image; or writes the output to --features_path."""
    if not args.image_path:
        raise FlagError("--image_path is required, or --serve_port (see --help)")
    images = ImageList.find(args.image_path)
    check_agreement({**args.values(), "image_path": images.summary()})
    network = load_by_flags(args, args.model_file, device, dtype, min(args.batch_size, len(images)), len(images))

    def open_loader(images: ImageList) -> Loader:
        transform = eval_transform(network.description)
        return infer_loader(args, images, transform, rank(), world_size(), network.device.type == "cuda")

    if args.features_path:
        extractor = Extractor(network.features, input_of(network), precision_flag(args))
        answer_images(images, extractor, open_loader, lambda: FeatureFile(args.features_path, args.resume))
        return
    if args.score_decimals is not None:
        scorer = Scorer(Extractor(network.features, input_of(network), precision_flag(args)), args.score_decimals)
        answer_images(images, scorer, open_loader, lambda: ResultFile(args.save_json_path, None, args.resume))
        return
    classifier = classifier_by_flags(args, network)
    scores = classifier.scores_per_image
    answer_images(images, classifier, open_loader, lambda: ResultFile(args.save_json_path, scores, args.resume))


def serve(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """Answers requests until it is told to stop."""
    refuse_several("--serve_port")
    try:
        from utils.serving.server import run
    except ModuleNotFoundError as error:
        raise UserError(f"--serve_port needs the package {error.name}: pip install -r requirements-serve.txt") from None
    run(args, device, dtype)


def check_features_path(args: argparse.Namespace) -> None:
    """Raises `FlagError` if --features_path is no .npy file, or if another flag asks for a different kind of output."""
    if args.features_path and args.score_decimals is not None:
        raise FlagError("--features_path and --score_decimals both write the network's raw output: give one of them")
    if args.serve_port is not None and args.score_decimals is not None:
        raise FlagError(
            "--score_decimals works with --image_path only: leave out --serve_port, which answers with classes"
        )
    if args.features_path and not args.features_path.endswith(".npy"):
        raise FlagError(f"--features_path {args.features_path}: give a file name ending in .npy")


def choose_device(args: argparse.Namespace) -> torch.device:
    """--device, or GPU --gpu_id, or with several processes this process's GPU, limited to --gpu_mem if given; the CPU
    if --gpu_id is negative or there is no GPU.

    Raises:
        FlagError: the requested GPU does not exist, or several processes would share it.
        UserError: there are more processes than GPUs on this machine.
    """
    if args.device is not None:
        return _limited(named_device(args.device), args.gpu_mem)
    count = torch.cuda.device_count()
    given = "gpu_id" in args.given
    if args.gpu_id >= count and given:
        raise FlagError(f"--gpu_id {args.gpu_id}: this machine has {count} usable GPUs; give --gpu_id=-1 for the CPU")
    if args.gpu_id < 0 or not count:
        return torch.device("cpu")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        device = torch.device("cuda", args.gpu_id)
        torch.cuda.set_device(device)  # the reader's copies and events go to the current one
    elif given:
        raise FlagError(
            f"--gpu_id {args.gpu_id}: with several processes each takes its own GPU; leave the flag out, or give "
            "--gpu_id=-1 for the CPU"
        )
    else:
        device = gpu_of_process("--gpu_id=-1")
    return _limited(device, args.gpu_mem)


def _limited(device: torch.device, gpu_mem: int | None) -> torch.device:
    """The device; limits a GPU to `gpu_mem` MB from now on."""
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
