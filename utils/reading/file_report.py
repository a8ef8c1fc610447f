"""Reports on problem files found by loaders, over all processes."""

from __future__ import annotations

from utils.console import warn
from utils.processes import gather_dict
from utils.reading.content import Content
from utils.reading.loader import Loader

# If images use at most this share of the 16-bit range, 31 levels or fewer of 255 remain.
_NARROW = 1 / 8


def report_files(*loaders: Loader) -> None:
    """Reports damaged but decodable files, then calls `report_contents`.

    Every process has to call it.
    """
    damaged = gather_dict({path: said for loader in loaders for path, said in loader.damaged.items()})
    if damaged:
        shown = "; ".join(f"{path}: {said}" for path, said in sorted(damaged.items())[:5])
        more = ", ..." if len(damaged) > 5 else ""
        files = "file" if len(damaged) == 1 else "files"
        warn(f"used the decodable part of {len(damaged)} damaged image {files}: {shown}{more}")
    report_contents(*loaders)


def report_contents(*loaders: Loader) -> None:
    """Warns if images lose content in their alpha channel or in 16 bits and no flag preserves it.

    Every process has to call it. Each file is reported only once.
    """
    hidden: dict[str, Content] = {}
    deep: dict[str, Content] = {}
    for loader in loaders:
        found = loader.contents.items()
        if getattr(loader.transform, "background", None) is None:
            hidden.update((path, content) for path, content in found if content.hidden)
        if getattr(loader.transform, "image_depth_range", None) is None:
            deep.update((path, content) for path, content in found if content.deep)
        loader.contents.clear()
    total = sum(len(loader.images) for loader in loaders)
    _report_hidden(dict(sorted(gather_dict(hidden).items())), total)
    _report_deep(dict(sorted(gather_dict(deep).items())), total)


def _report_hidden(images: dict[str, Content], total: int) -> None:
    if not images:
        return
    dark = sum(content.high < (1 << 15 if content.deep else 1 << 7) for content in images.values())
    colour = "white" if 2 * dark >= len(images) else "black"
    warn(
        f"transparency hides everything in {len(images)} of {total} images (such as {next(iter(images))}): without "
        f"it only a single colour is left; give --background={colour}"
    )


def _report_deep(images: dict[str, Content], total: int) -> None:
    if not images:
        return
    low, high = min(content.low for content in images.values()), max(content.high for content in images.values())
    if low == high or high - low > _NARROW * 65535:  # of one value nothing can be spread
        return
    levels = (high >> 8) - (low >> 8) + 1
    warn(
        f"{len(images)} of {total} images have 16 bits (such as {next(iter(images))}) and use {low} to {high} of "
        f"65535, {(high - low) / 655.35:.1f}% of the range: {levels} of 256 levels are left; give --image_depth_range "
        f"0 {2 ** high.bit_length() - 1}"
    )
