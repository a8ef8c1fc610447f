"""Turns the averaged (EMA) parameters of a checkpoint into ordinary weights.

python ema_clean.py --ema_model_dir=output/ResNet50_vd/latest --cleaned_model_dir=output/ResNet50_vd_ema

Takes a checkpoint of train.py --use_ema=True, or a folder of variables saved by the original PaddlePaddle code, where
NAME_ema_0 is the average of NAME. --pretrained_model takes the result.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from utils.errors import UserError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("ema_clean")  # answers --help and misspelt flags before the slow import of PyTorch

from utils.console import log
from utils.files import check_can_write_into, written_whole
from utils.formats.paddle import write_variable
from utils.processes import refuse_several
from utils.training.checkpoint import EMA_WEIGHTS, WEIGHTS
from utils.weights import read_weights
from utils.weights.matching import BYPRODUCTS

# What fluid appends to a variable's name for its average.
SUFFIX = "_ema_0"


def main() -> None:
    args = parse("ema_clean")
    refuse_several("ema_clean.py")
    source, target = Path(args.ema_model_dir), Path(args.cleaned_model_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--cleaned_model_dir: {target} already exists: give a new folder")
    check_can_write_into(target, "--cleaned_model_dir")

    if (source / WEIGHTS).is_file():
        if not (source / EMA_WEIGHTS).is_file():
            raise UserError(
                f"--ema_model_dir: {source} has no {EMA_WEIGHTS}: give a checkpoint of train.py --use_ema=True"
            )
        with written_whole(target, "--cleaned_model_dir") as folder:
            folder.mkdir()
            shutil.copyfile(source / EMA_WEIGHTS, folder / WEIGHTS)
        log(f"wrote {target / WEIGHTS}")
        return

    variables = read_weights(source).tensors
    averages = {name.removesuffix(SUFFIX): tensor for name, tensor in variables.items() if name.endswith(SUFFIX)}
    if not averages:
        raise UserError(
            f"--ema_model_dir: {source} has no averaged parameters (NAME{SUFFIX}): give a folder saved with an average"
        )
    # Variables without an average, such as batch norm statistics in some trainings, keep their value.
    others = {
        name: tensor for name, tensor in variables.items() if name not in averages and not BYPRODUCTS.fullmatch(name)
    }
    with written_whole(target, "--cleaned_model_dir") as folder:
        for name, tensor in {**averages, **others}.items():
            write_variable(tensor.numpy(), folder / name)
    log(f"wrote {len(averages)} averaged variables to {target}" + (f", and {len(others)} others" if others else ""))


if __name__ == "__main__":
    run_script(main)
