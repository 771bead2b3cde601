"""Near-duplicate images: copies of other encoding, size or brightness, slight crops, and neighbours in a video.

Two images are near-duplicates if their difference hashes are close and their thumbnails are correlated. All sums are of
integers and exact, so the result is the same on every machine. Mirrored copies are not found.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cledet.data.index import Bools, Ints

Thumbnails = npt.NDArray[np.uint8]
ROWS, COLUMNS = 16, 18
MAX_DISTANCE = 10
"""Largest number of differing bits of 64. Measured on real data, see docs/data.md."""
MIN_CORRELATION = 0.95
"""Smallest correlation of two thumbnails."""
_WEIGHTS = np.array([77, 150, 29])
"""Weights of red, green and blue in the gray of ITU-R BT.601, in 256ths."""
_BITS = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16).sum(axis=1, dtype=np.uint8)
"""Number of bits that are set in each 16-bit number, for numpy 1."""
_BLOCK, _PAIRS = 2**18, 2**14
"""Number of hashes that are compared at a time, and of thumbnails."""


def thumbnail(pixels: npt.NDArray[np.uint8]) -> Thumbnails:
    """Average an image [H, W, 3] over 16 x 18 areas, in gray: [16, 18]."""
    height, width = pixels.shape[:2]
    tops, lefts = np.arange(ROWS + 1) * height // ROWS, np.arange(COLUMNS + 1) * width // COLUMNS
    heights, widths = (np.maximum(np.diff(edges), 1) for edges in (tops, lefts))  # a small image repeats its pixels
    rows = [pixels[top : top + rows].sum(axis=0, dtype=np.uint32) for top, rows in zip(tops.tolist(), heights.tolist())]
    sums = np.add.reduceat(np.stack(rows), lefts[:-1], axis=1, dtype=np.int64) @ _WEIGHTS
    return (sums // (256 * np.outer(heights, widths))).astype(np.uint8)


def difference_hashes(thumbnails: Thumbnails) -> npt.NDArray[np.uint64]:
    """Hash thumbnails [N, 16, 18] to 64 bits [N]: is each of 8 x 8 areas brighter than its left neighbour?"""
    areas = thumbnails.reshape(-1, ROWS // 2, 2, COLUMNS // 2, 2).sum(axis=(2, 4), dtype=np.int64)
    brighter = areas[:, :, 1:] > areas[:, :, :-1]
    return np.packbits(brighter.reshape(len(thumbnails), 64), axis=1).view(np.uint64).reshape(-1)


def hamming_distances(hashes: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Count the bits in which hashes [N] and [M] differ, [N, M]."""
    differing = hashes[:, None] ^ others[None]
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(differing)
    return _BITS[differing.view(np.uint16)].reshape(*differing.shape, 4).sum(axis=2, dtype=np.uint8)


def are_near(one: Thumbnails, other: Thumbnails) -> Bools:
    """Mark the correlated pairs of thumbnails, [N, 16, 18] each; uniform ones are only near to equal ones."""
    pixels = ROWS * COLUMNS
    a, b = (side.reshape(-1, pixels).astype(np.float64) for side in (one, other))
    covariance = pixels * np.einsum("ij,ij->i", a, b) - a.sum(axis=1) * b.sum(axis=1)
    variances = [pixels * np.einsum("ij,ij->i", side, side) - side.sum(axis=1) ** 2 for side in (a, b)]
    correlated = covariance >= MIN_CORRELATION * np.sqrt(variances[0] * variances[1])
    return ((covariance > 0) & correlated) | (a == b).all(axis=1)


def group_near_duplicates(thumbnails: Thumbnails) -> Ints:
    """Return a group number [N] for each thumbnail [N, 16, 18]: chains of near-duplicates share theirs."""
    count, hashes = len(thumbnails), difference_hashes(thumbnails)
    groups = np.arange(count)
    step = max(1, _BLOCK // max(1, count))
    for start in range(0, count, step):
        close = hamming_distances(hashes[start : start + step], hashes[start:]) <= MAX_DISTANCE
        close &= groups[start : start + step, None] != groups[start:]
        pairs = start + np.stack(np.unravel_index(np.flatnonzero(close), close.shape), axis=1)
        for first in range(0, len(pairs), _PAIRS):
            _merge(groups, thumbnails, pairs[first : first + _PAIRS])
    return groups


def _merge(groups: Ints, thumbnails: Thumbnails, pairs: Ints) -> None:
    """Merge the groups, in place, of the pairs [P, 2] that are near; pairs of one group are not looked at."""
    pairs = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]
    near = are_near(thumbnails[pairs[:, 0]], thumbnails[pairs[:, 1]])
    for i, j in pairs[near].tolist():
        if groups[i] != groups[j]:
            groups[groups == groups[j]] = groups[i]
