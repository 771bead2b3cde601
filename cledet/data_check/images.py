"""What is wrong with the image files of a data set, and which of them are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from cledet.data.images import Damage
from cledet.data.index import DetectionIndex, Ints
from cledet.data_check.findings import Example, Finding, counted, few, image_example
from cledet.data_check.image_files import ImageFiles

Placed = tuple[DetectionIndex, Ints]
"""A split, and [I] where each of its images is among the files."""
_DAMAGE: dict[Damage, tuple[str, str]] = {
    "missing": ("image has no file", "images have no file"),
    "unreadable": ("image cannot be decoded", "images cannot be decoded"),
    "truncated": ("image is truncated: its file ends too early", "images are truncated: their files end too early"),
}


def check_files(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> list[Finding]:
    """Images that are missing, damaged, of another size than annotated, or there twice.

    `at` is [I], where each image of the split is among the files.
    """
    return [
        *_damaged(split, index, files, at),
        *_missized(split, index, files, at),
        *_unsized(split, index),
        *_copies(split, index, files, at),
    ]


def check_leaks(splits: Mapping[str, Placed], files: ImageFiles) -> list[Finding]:
    """Images with the same content in two splits."""
    findings: list[Finding] = []
    for (one, (index, at)), (other, (index2, at2)) in combinations(splits.items(), 2):
        here, there = _contents(files, at), _contents(files, at2)
        pairs = sorted((here[digest], there[digest]) for digest in here.keys() & there.keys())
        if not pairs:
            continue
        found = counted(len(pairs), "image is", "images are")
        text = f"{found} in both {one} and {other}, so that figures on one flatter a model trained on the other"
        examples = few(
            image_example(index, i, "" if index.paths[i] == index2.paths[k] else f"is {index2.paths[k]}")
            for i, k in pairs
        )
        findings.append(Finding("warning", "leak", f"{one}, {other}", len(pairs), text, examples))
    return findings


def compounds(splits: Mapping[str, Placed]) -> dict[str, tuple[str, ...]]:
    """The splits that are others together, as VOC's trainval is train and val, and which ones."""
    held = {name: set(at.tolist()) for name, (_, at) in splits.items()}
    boxes = {name: index.num_boxes for name, (index, _) in splits.items()}
    found = {}
    for name, images in held.items():
        inside = [other for other in held if held[other] < images]
        parts = [part for part in inside if not any(held[part] < held[other] for other in inside)]
        whole = {image for part in parts for image in held[part]}
        disjoint = sum(len(held[part]) for part in parts) == len(images)
        if len(parts) > 1 and whole == images and disjoint and boxes[name] == sum(boxes[part] for part in parts):
            found[name] = tuple(parts)
    return found


def _damaged(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> Iterator[Finding]:
    for kind, words in _DAMAGE.items():
        bad = [i for i, file in enumerate(at.tolist()) if files.damage.get(file, ("",))[0] == kind]
        if bad:
            examples = few(image_example(index, i, files.damage[int(at[i])][1]) for i in bad)
            yield Finding("error", kind, split, len(bad), counted(len(bad), *words), examples)


def _missized(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> Iterator[Finding]:
    found, said = files.sizes[at], index.sizes
    wrong = np.flatnonzero((found != said).any(axis=1) & (said > 0).all(axis=1) & (found > 0).all(axis=1))
    if len(wrong):
        words = ("image has another size than its annotation says", "images have another size than annotated")
        examples = few(
            image_example(index, i, "{}x{}, annotated as {}x{}".format(*found[i], *said[i])) for i in wrong.tolist()
        )
        yield Finding("error", "size", split, len(wrong), counted(len(wrong), *words), examples)


def _unsized(split: str, index: DetectionIndex) -> Iterator[Finding]:
    unsized = np.flatnonzero((index.sizes <= 0).any(axis=1))
    if len(unsized):
        words = ("annotation does not say the size of its image", "annotations do not say the size of their image")
        examples = few(image_example(index, i) for i in unsized.tolist())
        yield Finding("warning", "unsized", split, len(unsized), counted(len(unsized), *words), examples)


def _copies(split: str, index: DetectionIndex, files: ImageFiles, at: Ints) -> Iterator[Finding]:
    digests = files.digests[at]
    original, of = np.unique(digests, return_index=True, return_inverse=True)[1:]
    repeats = np.flatnonzero((original[of.reshape(-1)] != np.arange(len(at))) & (digests != b""))
    if len(repeats):
        words = ("image is there twice, by its content", "images repeat the content of another")
        examples = few(_copy(index, i, int(original[of.reshape(-1)[i]])) for i in repeats.tolist())
        yield Finding("warning", "copy", split, len(repeats), counted(len(repeats), *words), examples)


def _copy(index: DetectionIndex, image: int, original: int) -> Example:
    same = index.paths[image] == index.paths[original]
    return image_example(index, image, "is listed twice" if same else f"is {index.paths[original]}")


def _contents(files: ImageFiles, at: Ints) -> dict[bytes, int]:
    """The first image of every content."""
    digests: Sequence[bytes] = files.digests[at].tolist()
    return {digest: i for i, digest in reversed(list(enumerate(digests))) if digest}
