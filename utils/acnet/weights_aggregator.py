"""Fuses the weights of a trained ACNet into those of its deploy form, for eval.py and infer.py --deploy=True.

python utils/acnet/weights_aggregator.py --model=ResNet50_ACNet --input=output/ResNet50_ACNet/best_model --output=fused
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Run as a script, Python looks for modules next to it, not in the project's root.
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from utils.errors import FlagError, run_script
from utils.flags import parse

if __name__ == "__main__":
    parse("weights_aggregator")  # answers --help and misspelt flags before the slow import of PyTorch

import models
from models.fusion import fuse
from utils.console import log
from utils.evaluation.names import noted_names
from utils.processes import refuse_several
from utils.weights import TO_USE, load_pretrained
from utils.weights.network import build_model, check_model, noted_input
from utils.weights.notes import CLASS_NAMES
from utils.weights.write import check_output, write_weights


def main() -> None:
    args = parse("weights_aggregator")
    refuse_several("weights_aggregator.py")
    output = Path(args.output)
    check_output(output)
    check_model(args.model)
    if args.model not in models.FAMILIES["resnet_acnet"]:
        known = ", ".join(models.FAMILIES["resnet_acnet"])
        raise FlagError(f"--model: {args.model} has no asymmetric convolutions to fuse: choose one of {known}")
    model = build_model(args)
    log(str(load_pretrained(model, args.input, key=args.pretrained_key, remedies=TO_USE)))
    names = list(noted_names(args.input, args.class_dim))
    notes = noted_input(args.input, args.model, args.pretrained_key) | ({CLASS_NAMES: names} if names else {})
    write_weights(fuse(model), output, args.model, args.class_dim, notes)
    log(f"wrote {output}: use it with eval.py --model={args.model} --deploy=True")


if __name__ == "__main__":
    run_script(main)
