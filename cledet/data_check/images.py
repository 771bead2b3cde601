"""Checks of the image files of a data set: damage, sizes and duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np

from cledet.data.image_files import ImageFiles
from cledet.data.images import Damage
from cledet.data.index import DetectionIndex, Ints
from cledet.data_check.findings import Example, Finding, collect, image_example

IndexedFiles = tuple[DetectionIndex, Ints]
"""A split, and the position [I] of each image's file in ImageFiles."""
_DAMAGE: dict[Damage, tuple[str, str]] = {
    "missing": ("image has no file", "images have no file"),
    "unreadable": ("image cannot be decoded", "images cannot be decoded"),
    "truncated": ("image is truncated: its file ends too early", "images are truncated: their files end too early"),
}


def check_files(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> list[Finding]:
    """Find images that are missing, damaged, of another size than annotated, or duplicates.

    `at` [I] is the position of each image's file in `files`.
    """
    return [
        *_damaged(split, index, files, at),
        *_missized(split, index, files, at),
        *_copies(split, index, files, at),
    ]


def check_leaks(splits: Mapping[str, IndexedFiles], files: ImageFiles) -> list[Finding]:
    """Find images with the same content in two splits."""
    findings: list[Finding] = []
    for (one, (index, at)), (other, (index2, at2)) in combinations(splits.items(), 2):
        first, second = _first_of_digest(files, at), _first_of_digest(files, at2)
        pairs = sorted((first[digest], second[digest]) for digest in first.keys() & second.keys())
        rest = f"in both {one} and {other}: metrics on one are too high for a model trained on the other"
        words = (f"image is {rest}", f"images are {rest}")
        example = partial(_same_content, index, index2, same="")
        findings += collect("warning", "leak", f"{one}, {other}", pairs, words, example)
    return findings


def find_unions(splits: Mapping[str, IndexedFiles]) -> dict[str, tuple[str, ...]]:
    """Find the splits that are the union of others, as VOC's trainval is train and val; return their parts by name."""
    files = {name: set(at.tolist()) for name, (_, at) in splits.items()}
    boxes = {name: index.num_boxes for name, (index, _) in splits.items()}
    unions = {}
    for name, images in files.items():
        inside = [other for other in files if files[other] < images]
        parts = [part for part in inside if not any(files[part] < files[other] for other in inside)]
        union = {image for part in parts for image in files[part]}
        disjoint = sum(len(files[part]) for part in parts) == len(images)
        if len(parts) > 1 and union == images and disjoint and boxes[name] == sum(boxes[part] for part in parts):
            unions[name] = tuple(parts)
    return unions


def _damaged(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> list[Finding]:
    damage = {i: files.damage[file] for i, file in enumerate(at.tolist()) if file in files.damage}
    findings: list[Finding] = []
    for kind, words in _DAMAGE.items():
        bad = [i for i, (its_kind, _) in damage.items() if its_kind == kind]
        findings += collect("error", kind, split, bad, words, lambda i: image_example(index, i, damage[i][1]))
    return findings


def _missized(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> list[Finding]:
    actual, annotated = files.sizes[at], index.sizes
    unsized = (annotated <= 0).any(axis=1)
    wrong = np.flatnonzero((actual != annotated).any(axis=1) & (actual > 0).all(axis=1) & ~unsized).tolist()

    def example(i: int) -> Example:
        return image_example(index, i, "{}x{}, annotated as {}x{}".format(*actual[i], *annotated[i]))

    words = ("image has another size than annotated", "images have another size than annotated")
    lacking = ("annotation lacks the size of its image", "annotations lack the size of their image")
    unknown = np.flatnonzero(unsized).tolist()
    return [
        *collect("error", "size", split, wrong, words, example),
        *collect("warning", "unsized", split, unknown, lacking, lambda i: image_example(index, i)),
    ]


def _copies(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> list[Finding]:
    digests = files.digests[at]
    first, of = np.unique(digests, return_index=True, return_inverse=True)[1:]
    original = first[of.reshape(-1)]
    repeats = np.flatnonzero((original != np.arange(len(at))) & (digests != b""))
    pairs = list(zip(repeats.tolist(), original[repeats].tolist()))
    words = ("image repeats the content of another", "images repeat the content of another")
    return collect("warning", "copy", split, pairs, words, partial(_same_content, index, index, same="is listed twice"))


def _same_content(index: DetectionIndex, other: DetectionIndex, pair: tuple[int, int], *, same: str) -> Example:
    """Create an example of an image that names its copy in another index; `same` is the text for one path."""
    image, copy = index.paths[pair[0]], other.paths[pair[1]]
    return image_example(index, pair[0], same if image == copy else f"is {copy}")


def _first_of_digest(files: ImageFiles, at: Ints) -> dict[bytes, int]:
    """Return the first image of every digest."""
    digests: Sequence[bytes] = files.digests[at].tolist()
    return {digest: i for i, digest in reversed(list(enumerate(digests))) if digest}
