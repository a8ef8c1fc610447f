"""Converts a network's weights from PaddlePaddle to PyTorch or back.

python utils/convert_weights.py --model=ResNet50_vd --input=ResNet50_vd_pretrained.tar --output=ResNet50_vd.safetensors
python utils/convert_weights.py --model=ResNet50_vd --input=output/ResNet50_vd/best_model --output=ResNet50_vd_fluid
python utils/convert_weights.py --model=ResNet50_vd --input=output/ResNet50_vd/latest --training_state=PaddleClas \
    --output=output/ResNet50_vd/epoch_7
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Run as a script: Python searches the script's folder for modules, not the project's root.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from utils.errors import FlagError, UserError, run_script
from utils.flags import Flags, parse

if __name__ == "__main__":
    parse("convert_weights")  # answers --help and misspelt flags before the slow import of PyTorch

from utils.console import log
from utils.evaluation.names import noted_names
from utils.formats.published import is_published
from utils.formats.training_states import file_of
from utils.processes import refuse_several
from utils.training.checkpoint import MANIFEST, find_checkpoint
from utils.training.paddle_states import ENDINGS, find_original
from utils.training.to_paddle import write_original
from utils.weights import TO_USE, load_pretrained
from utils.weights.network import build_model, check_model, noted_input, settle_network, usual_input
from utils.weights.notes import CLASS_NAMES, side_file
from utils.weights.write import (
    PADDLECLAS,
    PDPARAMS,
    TORCH_SUFFIXES,
    check_output,
    dropout_mode,
    suffix,
    usual_names,
    write_weights,
)


def main() -> None:
    args = parse("convert_weights")
    refuse_several("convert_weights.py")
    output = Path(args.output)
    if args.names and (args.training_state or suffix(output) != PDPARAMS):
        raise FlagError(f"--names needs --output=NAME{PDPARAMS}, and --output is {output}: leave --names out")
    noted = settle_network(args, args.input)
    if "model" not in (*args.given, *noted):
        raise FlagError(f"--model is required: {args.input} does not say which network it belongs to")
    check_model(args.model)
    if "image_shape" not in args.given:
        args.image_shape = usual_input(args.model)["image_shape"]
    if args.training_state:
        convert_training(args, output)
        return
    check_output(output)
    model = build_model(args)
    published = dropout_mode(model)
    if suffix(output) == PDPARAMS and (args.names or usual_names(model)) == PADDLECLAS:
        published = model.paddleclas_dropout or published
    log(str(load_pretrained(model, args.input, key=args.pretrained_key, resize=False, remedies=TO_USE)))
    if suffix(output) not in TORCH_SUFFIXES and dropout_mode(model) != published:
        raise UserError(
            f"--output: PaddlePaddle's {args.model} has dropout of the kind {published}, but these weights need "
            f"{dropout_mode(model)}: write .pth or .safetensors, which store the kind"
        )
    notes = noted_input(args.input, args.model, args.pretrained_key)
    names = list(noted_names(args.input, args.class_dim))
    known = not names or is_published(output, args.class_dim)  # as the file's name shows
    several = {"multi_label": True} if "multi_label" in noted else {}
    more = {**notes, **({} if known else {CLASS_NAMES: names}), **several}
    write_weights(model, output, args.model, args.class_dim, more, args.names)
    beside = f" and the training's notes {side_file(output)}" if side_file(output).exists() else ""
    log(f"wrote {output}{beside}")


def convert_training(args: Flags, output: Path) -> None:
    """Writes a checkpoint of train.py as a PaddlePaddle training state."""
    checkpoint = Path(args.input)
    if args.training_state == "fluid":
        check_output(output)
    elif existing := [file_of(output, ending) for ending in ENDINGS if file_of(output, ending).exists()]:
        raise UserError(f"--output: {existing[0]} exists already: give another prefix")
    if not (checkpoint / MANIFEST).is_file():
        raise UserError(f"--input: {checkpoint} is not a checkpoint of train.py, which --training_state needs")
    find_checkpoint(str(checkpoint), checkpoint)  # raises if it is damaged
    like = None
    if args.names_from:
        like = find_original(Path(args.names_from), args.model, args.class_dim, "--names_from")
        if like is None:
            raise UserError(f"--names_from: {args.names_from} is not a PaddlePaddle training state")
    write_original(checkpoint, build_model(args), args.training_state, output, like)
    log(f"wrote {output} for {args.training_state}")


if __name__ == "__main__":
    run_script(main)
