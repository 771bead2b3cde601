"""Images of equal content in a data set that is merged from several."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from cledet.data.formats.paths import match_split, read_blocks
from cledet.data.index import DetectionIndex, Ints
from cledet.errors import UserError

HELD_OUT = ("test", "val", "train")
"""Splits from the one whose images no other may have."""
SAME_BOX = 0.01
"""Pixels by which coordinates of one box differ at most, as after rounding to six digits of a fraction."""
Splits = dict[str, DetectionIndex]


def content_keys(paths: Sequence[str], progress: Callable[[int, int], None] | None = None) -> dict[str, bytes]:
    """Return a key for each path, equal for files of equal content. Only files of equal size are read.

    `progress` is called with (paths done, number of paths).
    """
    distinct = list(dict.fromkeys(paths))
    sizes = {path: os.path.getsize(path) if os.path.isfile(path) else -1 for path in distinct}
    count, keys = Counter(sizes.values()), {}
    for done, path in enumerate(distinct, 1):
        keys[path] = _digest(path) if sizes[path] >= 0 and count[sizes[path]] > 1 else os.fsencode(path)
        if progress is not None:
            progress(done, len(distinct))
    return keys


def _digest(path: str) -> bytes:
    digest = hashlib.blake2b(digest_size=20)
    try:
        for block in read_blocks(path):
            digest.update(block)
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error.strerror}") from None
    return digest.digest()


def keep_held_out(splits: Splits, origin: dict[str, Ints], keys: dict[str, bytes], notes: list[str]) -> Splits:
    """Leave out the images of train and val that another data set has in a split nearer to the test.

    `origin` [I] is the number of each image's data set, by split.
    """
    held: dict[bytes, set[int]] = defaultdict(set)
    kept = dict(splits)
    for kind in HELD_OUT:
        split = match_split(kind, splits)
        if split is None:
            continue
        content = [keys[path] for path in splits[split].paths.tolist()]
        own = origin[split].tolist()
        mask = np.array([held[key] <= {number} for key, number in zip(content, own)], dtype=np.bool_)
        for key, number in zip(content, own):
            held[key].add(number)
        if not mask.all():
            kept[split] = splits[split].subset(np.flatnonzero(mask))
            notes.append(f"{(~mask).sum():,} images of {split} are held out by another data set: left out of {split}")
    return kept


def join_equal(
    index: DetectionIndex, keys: dict[str, bytes], on_conflict: Literal["stop", "first", "union"], notes: list[str]
) -> DetectionIndex:
    """Return the index with images of equal content once; `on_conflict` is the rule for boxes that differ."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for image, path in enumerate(index.paths.tolist()):
        groups[keys[path]].append(image)
    if len(groups) == len(index):
        return index
    images = [group[0] for group in groups.values()]
    extra = {group[0]: _extra_rows(index, group) for group in groups.values()}
    conflicts = [group for group in groups.values() if _differ(index, group, extra[group[0]])]
    if conflicts and on_conflict == "stop":
        one, *others = conflicts[0]
        other = next(image for image in others if _differ(index, [one, image], _extra_rows(index, [one, image])))
        raise UserError(
            f"{index.name}: {len(conflicts)} images have equal content and different boxes, the first: "
            f"{index.paths[one]} and {index.paths[other]}",
            "keep the boxes of the first data set with --on-conflict first, or all with --on-conflict union",
        )
    if conflicts:
        rule = "all boxes are kept" if on_conflict == "union" else "the boxes of the first are kept"
        notes.append(f"{index.name}: {len(conflicts):,} images have equal content and different boxes: {rule}")
    repeated = len(index) - len(groups)
    notes.append(f"{index.name}: {repeated:,} images repeat the content of another: kept once")
    rows = [_rows(index, image) for image in images]
    if on_conflict == "union":
        rows = [np.concatenate([own, extra[image]]) for own, image in zip(rows, images)]
    return index.gather(np.array(images, dtype=np.int64), np.concatenate(rows), list(map(len, rows)))


def _rows(index: DetectionIndex, image: int) -> Ints:
    return np.arange(index.starts[image], index.starts[image + 1])


def _differ(index: DetectionIndex, group: Sequence[int], extra: Ints) -> bool:
    """Return whether images have different boxes; `extra` are the rows of all that the first image lacks."""
    counts = np.diff(index.starts)[list(group)]
    return len(extra) > 0 or bool((counts != counts[0]).any())


def _extra_rows(index: DetectionIndex, group: Sequence[int]) -> Ints:
    """Return the rows of a group's other images whose boxes are none of the images before."""
    known = _rows(index, group[0])
    first = len(known)
    for image in group[1:]:
        free, added = known.tolist(), []
        for row in _rows(index, image).tolist():
            same = next((other for other in free if _is_same(index, row, other)), None)
            if same is None:
                added.append(row)
            else:
                free.remove(same)
        known = np.concatenate([known, np.array(added, dtype=np.int64)])
    return known[first:]


def _is_same(index: DetectionIndex, row: int, other: int) -> bool:
    equal = index.labels[row] == index.labels[other] and index.ignore[row] == index.ignore[other]
    return bool(equal and (np.abs(index.xywh[row] - index.xywh[other]) <= SAME_BOX).all())
