"""What a network says of options that it cannot be built with, and of images that it cannot take."""

from __future__ import annotations


class OptionError(ValueError):
    """A value that an option of a network's constructor cannot have.

    Args:
        option: its name; `image_size`, also where a network has no such option and the images themselves are at fault.
        reason: what is wrong, and what would be right.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason
