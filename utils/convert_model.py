"""Converts a model that PaddlePaddle exported to PyTorch, ONNX or ExecuTorch.

python utils/convert_model.py --model_file=PPLCNet_x1_0_infer --output=PPLCNet_x1_0
python utils/convert_model.py --model_file=ResNet50/model --params_file=ResNet50/params --output=ResNet50_onnx \\
    --inference_format=onnx --calibration_dir=photos/
python utils/convert_model.py --model_file=PPLCNet_x1_0_infer.tar --output=PPLCNet_x1_0.pt2
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if not __package__:
    # Run as a script: Python searches the script's folder for modules, not the project's root.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from utils.errors import FlagError, UserError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("convert_model")  # answers --help and misspelt flags before the slow import of PyTorch

import torch

from utils.console import log
from utils.deploy.calibration import CalibrationBatches, choose_images
from utils.deploy.comparing import export_program, test_images
from utils.deploy.executorch_export import quantize_executorch
from utils.deploy.export import QUANTIZED_FORMATS, check_answers, check_format, forget_source, write_export
from utils.deploy.onnx_export import onnx_form
from utils.deploy.paddle_model import PaddleModel, read_paddle
from utils.deploy.quantize import quantize
from utils.files import check_can_write_into, written_together
from utils.flags.idle import note_idle_flags
from utils.flags.inputs import INPUT_FLAGS, given_input
from utils.formats.inference_model import is_inference_model
from utils.processes import refuse_several
from utils.reading.class_names import read_class_names

PACKAGE = ".pt2"


def main() -> None:
    args = parse("convert_model")
    refuse_several("convert_model.py")
    output = Path(args.output)
    check_flags(args, output)
    note_idle_flags(args)
    as_package = output.suffix == PACKAGE
    any_output = as_package and args.output_name is not None
    model = read_paddle(args.model_file, args.params_file, given_input(args), args.output_name, any_output)
    if model.images is not None:
        raise UserError(
            f"--model_file {args.model_file} was exported for exactly {model.images} images at a time and cannot be "
            "converted: export it for any number of images, or run it as it is with predict.py or eval.py"
        )
    if as_package:
        write_package(model, output)
    else:
        convert(args, model, output)


def check_flags(args: argparse.Namespace, output: Path) -> None:
    """Raises `UserError` for flags that do not go together, before any work starts."""
    if output.suffix == PACKAGE:
        for flag in ("inference_format", "onnx_opset", "onnx_external_data", "calibration_dir", "class_map_path"):
            if flag in args.given:
                raise FlagError(
                    f"--{flag} does not go with --output {output}, a torch.export package: leave it out, or name a "
                    "folder"
                )
        if output.is_dir():
            raise FlagError(f"--output {output} is a folder: give a file name")
    elif output.exists() and not output.is_dir():
        raise FlagError(f"--output {output} is a file: give a folder, or a file name that ends in {PACKAGE}")
    elif output.is_dir() and is_inference_model(output):
        raise FlagError(
            f"--output {output} holds a PaddlePaddle model, which would be overwritten: give another folder"
        )
    if args.calibration_dir and args.inference_format not in QUANTIZED_FORMATS:
        raise FlagError("--calibration_dir needs --inference_format=onnx or executorch: give both, or leave it out")
    check_format(args.inference_format)
    check_can_write_into(output.parent if output.suffix == PACKAGE else output, "--output")


def convert(args: argparse.Namespace, model: PaddleModel, folder: Path) -> None:
    """Writes an export in the format --inference_format, as infer.py --save_inference=True does."""
    about = model.description
    if args.class_map_path:
        about = replace(about, class_names=[*read_class_names(args.class_map_path, about.class_dim)])
    for name in INPUT_FLAGS:
        setattr(args, name, getattr(about, name))
    chosen = choose_images(args) if args.calibration_dir else None
    module, images = model.module(), test_images(about.image_shape)
    with torch.inference_mode():
        expected = module(images)
    program = export_program(module, images)
    model_file = write_export(
        program, images, expected, about, folder, args.inference_format, "--output", onnx_form(args)
    )
    if chosen is not None and args.inference_format == "executorch":
        batches = CalibrationBatches(args, chosen)
        model_file = quantize_executorch(export_program(module, images), about, folder, batches, "--output")
    elif chosen is not None:
        model_file = quantize(model_file, CalibrationBatches(args, chosen), "--output")
    log(f"converted {about.network}; run it with python predict.py --model_file={model_file} --image_path=IMAGE")


def write_package(model: PaddleModel, file: Path) -> None:
    """Writes a package for `torch.export.load` that maps normalized images to the program's own output."""
    module, images = model.module(before_activation=False), test_images(model.description.image_shape)
    with torch.inference_mode():
        expected = module(images)
    program = export_program(module, images)
    forget_source(program)
    with written_together(file.parent, "--output") as temporary:
        torch.export.save(program, temporary / file.name)
        with torch.inference_mode():
            answers = torch.export.load(temporary / file.name).module()(images)
        check_answers(answers.float(), expected.float(), model.description, file, "--output")
    log(f"converted {model.description.network}; run it with torch.export.load({str(file)!r}).module()")


if __name__ == "__main__":
    run_script(main)
