"""Finds near-duplicates: resized, recompressed, brightened or sharpened copies.

Each image has a fingerprint of 16 x 16 grey levels and 4 x 4 colours. Two images are near-duplicates if their
fingerprints differ little in shape, and not much in brightness and colour. Shape is the cosine transform of the grey
levels without their mean, with each coefficient weighted by the root of its frequency, scaled to length 1: with equal
weights, all pictures of sky over ground would match.

(Perceptual-hash libraries such as imagehash do not search for pairs.)
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

SIDE = 16
GREY, COLOUR = SIDE * SIDE, 2 * 4 * 4
FINGERPRINT = GREY + COLOUR
# Minimum cosine similarity of two matching shapes. (JPEG quality 50, half the size or a gamma of 1.3 give 0.99 and more
# for photographs; the nearest different photograph gives 0.6. Of scikit-learn's digits, 0.4% exceed the threshold with
# another digit.)
ALIKE = 0.985
# Maximum difference in mean brightness and in colours, in levels.
BRIGHTNESS, COLOURS = 48, 10
# Shapes shorter than this, the length of noise of 8 levels, are not scaled up to 1.
FAINT = 25.0 * SIDE
# Number of coefficients to compare first; block sizes of that comparison; pairs to compare in full at a time.
LEADING, ROWS, COLUMNS, AT_ONCE = 24, 512, 8192, 1 << 16


def _weighed_transform() -> np.ndarray:
    """The matrix from SIDE * SIDE levels to weighted coefficients, lowest frequency first, without the mean."""
    k = np.arange(SIDE)
    matrix = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / (2 * SIDE)) * np.sqrt(2 / SIDE)
    matrix[0] /= np.sqrt(2)
    frequency = np.hypot(k[:, None], k).ravel()
    order = np.argsort(frequency, kind="stable")[1:]
    return (np.kron(matrix, matrix) * np.sqrt(frequency)[:, None])[order].T.astype(np.float32)


_WEIGHED = _weighed_transform()


def fingerprint(rgb: np.ndarray) -> np.ndarray:
    """The fingerprint, uint8 (FINGERPRINT,), of an image, uint8 (height, width, 3) RGB."""
    small = cv2.cvtColor(cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2YCrCb)
    colours = cv2.resize(small[..., 1:], (4, 4), interpolation=cv2.INTER_AREA)
    return np.concatenate((small[..., 0].ravel(), colours.ravel()))


def shapes(fingerprints: np.ndarray) -> np.ndarray:
    """The shapes, float32 (n, SIDE * SIDE - 1), of length 1 at most, of fingerprints, uint8 (n, FINGERPRINT)."""
    weighed = fingerprints[:, :GREY].astype(np.float32) @ _WEIGHED
    return weighed / np.maximum(np.linalg.norm(weighed, axis=1, keepdims=True), FAINT)


def alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether pairs are near-duplicates, bool (n,), from their fingerprints, uint8 (n, FINGERPRINT)."""
    near = ((shapes(first) - shapes(second)) ** 2).sum(1) <= 2 * (1 - ALIKE)
    brightness = np.abs(first[:, :GREY].mean(1) - second[:, :GREY].mean(1)) <= BRIGHTNESS
    difference = np.abs(first[:, GREY:].astype(np.int16) - second[:, GREY:]).mean(1)
    return near & brightness & (difference <= COLOURS)


def groups_of(fingerprints: np.ndarray) -> np.ndarray:
    """The groups of near-duplicates: int64 (images,), each image's first group member, from uint8 (images,
    FINGERPRINT).

    Copies of copies belong to one group, however much the first differs from the last.
    """
    if not len(fingerprints):
        return np.empty(0, np.int64)
    different, which = np.unique(fingerprints, axis=0, return_inverse=True)
    group = np.arange(len(different))
    for pairs in _candidates(different, group):
        pairs = pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]
        _join(group, pairs[alike(different[pairs[:, 0]], different[pairs[:, 1]])])
    joined = group[which.reshape(-1)]
    first = np.full(len(different), len(fingerprints))
    np.minimum.at(first, joined, np.arange(len(fingerprints)))
    return first[joined]


def _candidates(fingerprints: np.ndarray, group: np.ndarray) -> Iterator[np.ndarray]:
    """The pairs that may be near-duplicates, some at a time, int64 (n, 2), of uint8 (images, FINGERPRINT). Those that
    are of one `group` in the meantime may be missing.

    Images are sorted along the direction in which they differ most, and each is compared with its successors within the
    distance, in the leading coefficients. Images too far apart in these are too far apart in all, so no pair is missed.
    """
    starts = range(0, len(fingerprints), 4096)
    leading = np.concatenate([shapes(fingerprints[start : start + 4096])[:, :LEADING] for start in starts])
    along = leading @ np.linalg.eigh(leading.T @ leading)[1][:, -1]
    order = np.argsort(along, kind="stable")
    leading, along = leading[order], along[order]
    squares, ones = (leading**2).sum(1, keepdims=True), np.ones((len(leading), 1), np.float32)
    # The product of a row of one and a row of the other is their squared distance.
    rows, columns = np.hstack((-2 * leading, squares, ones)), np.hstack((leading, ones, squares))
    limit = 2 * (1 - ALIKE) + 1e-5
    for start in range(0, len(rows), ROWS):
        stop = min(start + ROWS, len(rows))
        last = int(np.searchsorted(along, along[stop - 1] + np.sqrt(limit), "right"))
        for begin in range(start, last, COLUMNS):
            near = rows[start:stop] @ columns[begin : min(begin + COLUMNS, last)].T <= limit
            if np.count_nonzero(near) > AT_ONCE:  # thousands of blank pages
                near &= group[order[start:stop], None] != group[order[begin : begin + near.shape[1]]]
            first, second = np.divmod(np.flatnonzero(near), near.shape[1])
            pairs = np.stack((first + start, second + begin), 1)
            pairs = order[pairs[pairs[:, 0] < pairs[:, 1]]]
            yield from (pairs[place : place + AT_ONCE] for place in range(0, len(pairs), AT_ONCE))


def _join(group: np.ndarray, pairs: np.ndarray) -> None:
    """Merges the groups of each pair, int64 (n, 2); `group` has each item's first group member."""
    while len(pairs := pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]):
        first, second = group[pairs[:, 0]], group[pairs[:, 1]]
        np.minimum.at(group, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(group, deeper := group[group]):
            group[:] = deeper
