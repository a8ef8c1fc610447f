"""Classifies images with an exported network; needs nothing of models/.

python predict.py --model_file=ResNet50/model --params_file=ResNet50/params --image_path=cat.jpg
python predict.py --model_file=ResNet50/model --image_path=photos/ --topk=5 --save_json_path=results.txt
"""

from __future__ import annotations

import argparse

from utils.errors import FlagError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("predict")  # answers --help and a misspelt flag before PyTorch is imported, which takes a while

import torch

from utils.console import check_readable, log, progress, report_unreadable
from utils.deploy.exported import load_exported
from utils.evaluation.predictions import ResultFile, top_predictions
from utils.reading.build import infer_loader
from utils.reading.class_names import read_class_names
from utils.reading.image_list import ImageList
from utils.reading.transforms import EvalTransform, normalize


def main() -> None:
    args = parse("predict")
    images = ImageList.find(args.image_path)
    network = load_exported(
        args.model_file,
        args.params_file,
        choose_device(args),
        choose_dtype(args),
        engine=args.engine,
        batch_size=min(args.batch_size, len(images)),
        use_compile=args.use_compile,
        use_tensorrt=args.use_tensorrt,
        gpu_mem=args.gpu_mem and args.gpu_mem * 2**20,
        may_use_cpu="gpu_id" not in args.given,
        cpu_flag="--gpu_id=-1",
    )
    precision_flag = "--use_fp16" if args.use_fp16 else "--use_bf16" if args.use_bf16 else None
    about = network.description
    class_names = about.class_names
    if args.class_map_path:
        class_names = read_class_names(args.class_map_path, len(class_names))
    if args.topk > len(class_names):
        raise FlagError(f"--topk {args.topk} is more than the {len(class_names)} classes of {about.network}")
    transform = EvalTransform(about.image_size, about.resize_short_size, about.interpolation)
    results = ResultFile(args.save_json_path, args.topk, args.resume)
    with results, progress(len(images), "images", len(results.done)) as bar:
        images = images.without(results.done)
        if not len(images):
            log("every image has its result already")
            return
        loader = infer_loader(args, images, transform, pin_memory=network.device.type == "cuda")
        read = len(results.done)
        for batch in loader.epoch(0):
            pixels = batch.images.to(network.device, non_blocking=True)
            inputs = normalize(pixels, about.image_mean, about.image_std, network.memory_format, network.dtype)
            names = [images.name(index) for index in batch.indices.tolist()]
            for prediction in top_predictions(network(inputs), names, class_names, args.topk, precision_flag):
                log(prediction.line())
                results.write(prediction)
            results.flush()
            read += len(batch)
            bar.update(len(batch))
    check_readable(loader.unreadable, read)
    report_unreadable(loader.unreadable)


def choose_device(args: argparse.Namespace) -> torch.device:
    """GPU --gpu_id with no more than --gpu_mem of its memory if that was given, or the CPU if --gpu_id is below 0 or
    there is no GPU.

    Raises:
        FlagError: a GPU was asked for that is not there.
    """
    count = torch.cuda.device_count()
    if args.gpu_id >= count and "gpu_id" in args.given:
        raise FlagError(f"--gpu_id {args.gpu_id}: there are {count} usable GPUs here; give --gpu_id=-1 for the CPU")
    if not 0 <= args.gpu_id < count:
        return torch.device("cpu")
    device = torch.device("cuda", args.gpu_id)
    torch.cuda.set_device(device)  # the reader's copies and events go to the current one
    if args.gpu_mem:
        share = args.gpu_mem * 2**20 / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
    return device


def choose_dtype(args: argparse.Namespace) -> torch.dtype:
    """The type to compute in, by the flags."""
    if args.use_fp16 and args.use_bf16:
        raise FlagError("--use_fp16 and --use_bf16 exclude each other: give one of them")
    return torch.float16 if args.use_fp16 else torch.bfloat16 if args.use_bf16 else torch.float32


if __name__ == "__main__":
    run_script(main, less_memory="lower --batch_size, or raise --gpu_mem if it was given")
