"""The command-line flags: declared in `utils.flags.table`, parsed in `utils.flags.parsing`.

A script calls `parse("train")` and gets its `Flags`. Nothing heavy is imported here, so that `--help` and errors appear
at once.

Booleans take True/False, true/false, 1/0, yes/no and on/off, as in `--use_mixup=True` or `--use_mixup 1`, and
`--use_mixup` alone is True. Lists take spaces or commas: `--image_shape 3 224 224`, `--image_shape=3,224,224`.
"""

from utils.flags.parsing import Flags, parse

__all__ = ["Flags", "parse"]
