"""Checks of the image files of a data set: damage, sizes and duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from cledet.data.images import Damage
from cledet.data.index import DetectionIndex, Ints
from cledet.data_check.findings import Example, Finding, counted, first_examples, image_example
from cledet.data_check.image_files import ImageFiles

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
        *_unsized(split, index),
        *_copies(split, index, files, at),
    ]


def check_leaks(splits: Mapping[str, IndexedFiles], files: ImageFiles) -> list[Finding]:
    """Find images with the same content in two splits."""
    findings: list[Finding] = []
    for (one, (index, at)), (other, (index2, at2)) in combinations(splits.items(), 2):
        first, second = _first_of_digest(files, at), _first_of_digest(files, at2)
        pairs = sorted((first[digest], second[digest]) for digest in first.keys() & second.keys())
        if not pairs:
            continue
        count = counted(len(pairs), "image is", "images are")
        text = f"{count} in both {one} and {other}: metrics on one are too high for a model trained on the other"
        examples = first_examples(
            image_example(index, i, "" if index.paths[i] == index2.paths[k] else f"is {index2.paths[k]}")
            for i, k in pairs
        )
        findings.append(Finding("warning", "leak", f"{one}, {other}", len(pairs), text, examples))
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


def _damaged(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> Iterator[Finding]:
    for kind, words in _DAMAGE.items():
        bad = [i for i, file in enumerate(at.tolist()) if files.damage.get(file, ("",))[0] == kind]
        if bad:
            examples = first_examples(image_example(index, i, files.damage[int(at[i])][1]) for i in bad)
            yield Finding("error", kind, split, len(bad), counted(len(bad), *words), examples)


def _missized(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> Iterator[Finding]:
    actual, annotated = files.sizes[at], index.sizes
    known = (annotated > 0).all(axis=1) & (actual > 0).all(axis=1)
    wrong = np.flatnonzero((actual != annotated).any(axis=1) & known)
    if len(wrong):
        words = ("image has another size than annotated", "images have another size than annotated")
        examples = first_examples(
            image_example(index, i, "{}x{}, annotated as {}x{}".format(*actual[i], *annotated[i]))
            for i in wrong.tolist()
        )
        yield Finding("error", "size", split, len(wrong), counted(len(wrong), *words), examples)


def _unsized(split: str, index: DetectionIndex) -> Iterator[Finding]:
    unsized = np.flatnonzero((index.sizes <= 0).any(axis=1))
    if len(unsized):
        words = ("annotation lacks the size of its image", "annotations lack the size of their image")
        examples = first_examples(image_example(index, i) for i in unsized.tolist())
        yield Finding("warning", "unsized", split, len(unsized), counted(len(unsized), *words), examples)


def _copies(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> Iterator[Finding]:
    digests = files.digests[at]
    original, of = np.unique(digests, return_index=True, return_inverse=True)[1:]
    repeats = np.flatnonzero((original[of.reshape(-1)] != np.arange(len(at))) & (digests != b""))
    if len(repeats):
        words = ("image repeats the content of another", "images repeat the content of another")
        examples = first_examples(_copy(index, i, int(original[of.reshape(-1)[i]])) for i in repeats.tolist())
        yield Finding("warning", "copy", split, len(repeats), counted(len(repeats), *words), examples)


def _copy(index: DetectionIndex, image: int, original: int) -> Example:
    same = index.paths[image] == index.paths[original]
    return image_example(index, image, "is listed twice" if same else f"is {index.paths[original]}")


def _first_of_digest(files: ImageFiles, at: Ints) -> dict[bytes, int]:
    """Return the first image of every digest."""
    digests: Sequence[bytes] = files.digests[at].tolist()
    return {digest: i for i, digest in reversed(list(enumerate(digests))) if digest}
