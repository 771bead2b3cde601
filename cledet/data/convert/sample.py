"""Samples of a data set in which every class stays, if there is room."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cledet.data.convert.classes import lost_classes
from cledet.data.index import DetectionIndex, Ints
from cledet.errors import UserError


def sample(
    splits: Mapping[str, DetectionIndex], count: int, seed: int | None = None
) -> tuple[dict[str, DetectionIndex], tuple[str, ...]]:
    """Choose `count` images, from each split in proportion to its size; return the splits and notes.

    The choice depends on the images' names, sizes and boxes, and on the seed if there is one, so it is the same on
    every machine. Splits without an image are left out. Raises UserError if there are fewer images.
    """
    sizes = [len(index) for index in splits.values()]
    if count > sum(sizes):
        raise UserError(f"{count} images are to be chosen of {sum(sizes)}", "choose fewer")
    chosen: dict[str, DetectionIndex] = {}
    notes: list[str] = []
    for (name, index), number in zip(splits.items(), _shares(sizes, count)):
        if number:
            chosen[name] = index.subset(choose(index, number, seed))
            notes += lost_classes(index, {name: chosen[name]})
    if len(chosen) < len(splits):
        notes.append(f"no image is chosen from {', '.join(name for name in splits if name not in chosen)}")
    return chosen, tuple(notes)


def choose(index: DetectionIndex, count: int, seed: int | None = None) -> Ints:
    """Choose image positions [count], sorted: first one image for each class, from the rarest, then any.

    For a class, the image with the most classes that are still missing is chosen.
    """
    order = np.argsort(_digests(index, seed), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    pairs = np.unique(np.stack([index.labels, index.image_of_boxes()], axis=1)[~index.ignore], axis=0)
    images_of = {label: pairs[pairs[:, 0] == label, 1] for label in np.unique(pairs[:, 0]).tolist()}
    missing, chosen = set(images_of), set[int]()
    for label in sorted(images_of, key=lambda label: (len(images_of[label]), label)):
        if label in missing and len(chosen) < count:
            classes_of = {i: set(index.labels[index.rows(i)][~index.ignore[index.rows(i)]]) for i in images_of[label]}
            best = max(classes_of, key=lambda i: (len(classes_of[i] & missing), -rank[i]))
            chosen.add(int(best))
            missing -= classes_of[best]
    rest = [i for i in order.tolist() if i not in chosen]
    return np.sort([*chosen, *rest[: count - len(chosen)]]).astype(np.int64)


def _shares(sizes: list[int], count: int) -> list[int]:
    """Divide `count` in proportion to sizes, by the largest remainders; each gets one if there is one for each."""
    least = [int(count >= len(sizes) and size > 0) for size in sizes]
    exact = [count * size / sum(sizes) for size in sizes]
    shares = [max(low, int(share)) for low, share in zip(least, exact)]
    while sum(shares) != count:
        step = 1 if sum(shares) < count else -1
        rows = [i for i in range(len(sizes)) if least[i] <= shares[i] + step <= sizes[i]]
        shares[max(rows, key=lambda i: step * (exact[i] - shares[i]))] += step
    return shares


def _digests(index: DetectionIndex, seed: int | None) -> npt.NDArray[np.uint64]:
    """Hash the file name, size and boxes of every image, with the seed: [I] 8-byte numbers."""
    digests = []
    for image, path in enumerate(index.paths.tolist()):
        rows = index.rows(image)
        content = (index.sizes[image], index.labels[rows], index.xywh[rows])
        data = os.fsencode(os.path.basename(path)) + b"".join(column.tobytes() for column in content)
        key = b"" if seed is None else b"%d" % seed
        digests.append(int.from_bytes(hashlib.blake2b(data, digest_size=8, key=key).digest(), "big"))
    return np.array(digests, dtype=np.uint64)
