"""The error for options that a network cannot be built with, and for images that it cannot take."""

from __future__ import annotations


class OptionError(ValueError):
    """An option of a network's constructor has an invalid value.

    Args:
        option: its name; `image_size` if the images themselves do not fit, even in networks without this option.
        reason: what is wrong, and what is allowed.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason
