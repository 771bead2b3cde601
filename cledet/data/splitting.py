"""Division of a split into a training and a validation part by the content of its images.

The choice is a function of the images' content: independent of paths, order, seed and machine. Adding images moves no
other image, unless they join a group of near-duplicates or change a repair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cledet.data.image_files import Digests, read_files
from cledet.data.index import Bools, DetectionIndex, Floats, Ints
from cledet.data.near_duplicates import Thumbnails, group_near_duplicates
from cledet.errors import UserError

THREADS = 8
"""Default number of threads that read images."""


@dataclass(frozen=True, eq=False)
class ContentSplit:
    """Division of I images into a training and a validation part."""

    val: Bools
    """[I] the validation part."""
    groups: Ints
    """[I] group of each image; a group is on one side."""
    near_duplicates: bool
    """True for groups of near-duplicates; False for identical images, if most are near-duplicates of one another."""


def divide(
    index: DetectionIndex,
    fraction: float,
    *,
    threads: int = THREADS,
    progress: Callable[[int, int], None] | None = None,
) -> ContentSplit:
    """Choose about this fraction of the images for validation, by a hash of their content.

    Near-duplicates are on one side, and classes on both where possible.

    All image files are read; `progress` is called with (files read, number of files). Raises UserError if all images
    have the same content.
    """
    files, (at,) = read_files([index], threads=threads, progress=progress)
    digests = files.digests[at]
    copies = np.unique(digests, return_inverse=True)[1].reshape(-1)
    groups = join_near_duplicates(copies, files.thumbnails[at], files.decoded[at])
    near = np.bincount(groups).max(initial=0) <= (1 - fraction / 2) * len(index)
    groups = groups if near else copies
    if groups.max(initial=0) == 0:
        hint = "divide it by hand, or train with --val-split train or none"
        raise UserError(f"{index.name} cannot be divided: it holds one image, or copies of one", hint)
    sizes, positions = np.bincount(groups), group_positions(digests, groups)
    side = balance(sizes, positions, positions < fraction, fraction)
    side = spread_classes(sizes, positions, side, class_groups(index, groups), fraction)
    return ContentSplit(side[groups], groups, bool(near))


def join_near_duplicates(copies: Ints, thumbnails: Thumbnails, decoded: Bools) -> Ints:
    """Join groups [I] of identical images that hold near-duplicates; images that are not decoded join none.

    Returns group numbers [I] from 0.
    """
    first = np.unique(copies, return_index=True)[1]
    usable = np.flatnonzero(decoded[first])
    joined = np.arange(len(first))
    joined[usable] = usable[group_near_duplicates(thumbnails[first[usable]])]
    return np.unique(joined[copies], return_inverse=True)[1].reshape(-1)


def group_positions(digests: Digests, groups: Ints) -> Floats:
    """Hash the smallest digest of each of G groups to a position [G] from 0 to 1."""
    order = np.lexsort((digests, groups))
    smallest = digests[order[np.unique(groups[order], return_index=True)[1]]]
    hashes = [hashlib.blake2b(digest, digest_size=8).digest() for digest in smallest.tolist()]
    return np.array([int.from_bytes(value, "big") for value in hashes], dtype=np.float64) / 2.0**64


def balance(sizes: Ints, positions: Floats, side: Bools, fraction: float) -> Bools:
    """Move groups until the chosen side has about the fraction of the images, and neither is empty.

    `sizes` [G] are numbers of images and `side` [G] is the chosen side. Up to half of the smaller part may be too many
    or missing, as larger data sets are that close by chance. Each move is that which comes closest to the fraction, of
    the group nearest to the border.
    """
    side, total = side.copy(), sizes.sum()
    while True:
        excess = sizes[side].sum() - fraction * total
        if side.any() and not side.all() and abs(excess) <= min(fraction, 1 - fraction) / 2 * total:
            return side
        movable = np.flatnonzero(side == (excess > 0))
        left = np.abs(excess + np.where(side[movable], -sizes[movable], sizes[movable]))
        best = np.lexsort((np.abs(positions[movable] - fraction), left))[0]
        lone = len(movable) == 1
        if side.any() and not side.all() and (lone or left[best] >= abs(excess)):
            return side
        side[movable[best]] ^= True


def class_groups(index: DetectionIndex, groups: Ints) -> tuple[Ints, Ints]:
    """List the distinct pairs [P] of group and class, without ignored boxes."""
    pairs = np.stack([groups[index.image_of_boxes()], index.labels], axis=1)
    unique = np.unique(pairs[index.objects()], axis=0)
    return unique[:, 0], unique[:, 1]


def spread_classes(sizes: Ints, positions: Floats, side: Bools, pairs: tuple[Ints, Ints], fraction: float) -> Bools:
    """Move groups while that lowers the number of missing classes; no side becomes empty.

    Each move is that which gains most classes, of the smallest group, nearest to the border.
    """
    side, (groups, labels) = side.copy(), pairs
    while (missing := missing_classes(side, pairs)).any():
        count, chosen = np.bincount(labels), np.bincount(labels, weights=side[groups])
        needed = np.where(side[groups], ((chosen == 1) & (count > 1))[labels], (count - chosen == 1)[labels])
        gain = np.bincount(groups, np.where(missing[labels], 1, -1 * needed), minlength=len(sizes))
        for part in (side, ~side):
            if part.sum() == 1:
                gain[part] = 0
        best = np.lexsort((np.abs(positions - fraction), sizes, -gain))[0]
        if gain[best] <= 0:
            break
        side[best] ^= True
    return side


def missing_classes(side: Bools, pairs: tuple[Ints, Ints]) -> Bools:
    """Mark the classes that are not in the training part, or not in the validation part though in several groups."""
    groups, labels = pairs
    count, chosen = np.bincount(labels), np.bincount(labels, weights=side[groups])
    return (count > 0) & ((chosen == count) | ((count > 1) & (chosen == 0)))
