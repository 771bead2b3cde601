"""Detections matched with ground truths of their image and class, all images at once; nothing here but numpy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cledet.data.index import Bools, DetectionIndex, Floats, Ints
from cledet.evaluation.results import Results

TABLE = 2**24
"""Up to which number things are looked up in a table, for ids and for counts."""
CHUNK = 2**20
"""Pairs looked at at once, at some 100 bytes each."""
NEARLY_ONE = 1 - 1e-10
"""The highest IoU that pycocotools ever asks for."""


LARGEST = 1e5**2
"""The end of COCO's area ranges."""


class Pairs(NamedTuple):
    """Pairs of a detection and a ground truth of the same image and class that overlap, by detection, then by box."""

    detection: Ints  # [P] row of the results
    truth: Ints  # [P] box row of the index
    iou: Floats  # [P]
    cover: Floats  # [P] the share of the detection that lies in the ground truth: COCO's IoU with a crowd

    def chosen(self, which: Ints | Bools) -> Pairs:
        """Some of them, by position or by mask."""
        return Pairs(self.detection[which], self.truth[which], self.iou[which], self.cover[which])


class Matches(NamedTuple):
    """What became of each detection [D], in the order of the results."""

    counted: Bools
    """Not beyond the number of detections an image and class that count."""
    correct: Bools
    """Matched with an object."""
    ignored: Bools
    """Matched with an ignored ground truth: neither correct nor a false alarm."""
    iou: Floats
    """IoU with the object matched; 0 without one."""


class Order(NamedTuple):
    """The detections by falling score, equal ones as in the results."""

    all: Ints  # [D]
    by_class: list[Ints]  # those of each class


def order_of(scores: Floats, labels: Ints, classes: int) -> Order:
    """The order of detections with these scores [D] and labels [D]."""
    order = np.argsort(-scores, kind="stable")
    small = labels[order].astype(np.min_scalar_type(classes))  # which numpy sorts at once
    ends = np.cumsum(np.bincount(labels, minlength=classes))
    return Order(order, np.split(order[np.argsort(small, kind="stable")], ends[:-1]))


def groups_of(index: DetectionIndex, results: Results) -> Ints:
    """A number [D] for the image and class of each detection: image position * classes + label.

    The detections' ids must be the index's.
    """
    label = _position(index.category_ids, results[:, 6])
    return _position(index.image_ids, results[:, 0]) * len(index.classes) + label


def _position(known: Ints, ids: Floats) -> Ints:
    """The position of each id [D] in the distinct known ones."""
    wanted = ids.astype(np.int64)
    if known.min() >= 0 and known.max() < TABLE:
        table = np.empty(known.max() + 1, dtype=np.int64)
        table[known] = np.arange(len(known))
        return table[wanted]
    order = np.argsort(known)
    place: Ints = order[np.searchsorted(known, wanted, sorter=order)]
    return place


def overlapping(index: DetectionIndex, results: Results, group: Ints, threshold: float) -> Pairs:
    """The pairs with an IoU of the threshold at least, or, if the ground truth is ignored, such a `cover`.

    Computed as pycocotools does, operation by operation: no area, no overlap.
    """
    home = index.image_of_boxes() * len(index.classes) + index.labels
    order = np.argsort(home, kind="stable")
    groups, first, count = np.unique(home[order], return_index=True, return_counts=True)
    place = np.searchsorted(groups, group).clip(max=len(groups) - 1)
    rows = np.flatnonzero(groups[place] == group)
    place = place[rows]
    found = [
        _overlaps(index, results, rows[detection], order[box], threshold)
        for detection, box in _chunks(first[place], count[place])
    ]
    return Pairs(*(np.concatenate(column) for column in zip(*found)))


def _chunks(first: Ints, count: Ints) -> Iterator[tuple[Ints, Ints]]:
    """All pairs of a d and one of the count[d] numbers from first[d] on, some at a time."""
    ends = np.cumsum(count)
    cuts = np.searchsorted(ends, np.arange(CHUNK, ends[-1] if len(ends) else 0, CHUNK))
    for part in np.split(np.arange(len(count)), np.unique(cuts)):
        many = count[part]
        offset = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        yield np.repeat(part, many), np.repeat(first[part], many) + offset


def _overlaps(index: DetectionIndex, results: Results, detection: Ints, truth: Ints, threshold: float) -> Pairs:
    """Those of the pairs that overlap enough."""
    x, y, w, h = results[detection, 1:5].T
    left, top, width, height = index.xywh[truth].T
    across = np.minimum(x + w, left + width) - np.maximum(x, left)
    down = np.minimum(y + h, top + height) - np.maximum(y, top)
    shared = np.where((across > 0) & (down > 0), across * down, 0.0)
    area = w * h
    touching = shared > 0
    iou = np.divide(shared, area + width * height - shared, out=np.zeros_like(shared), where=touching)
    cover = np.divide(shared, area, out=np.zeros_like(shared), where=touching)
    enough = touching & ((iou >= threshold) | (index.ignore[truth] & (cover >= threshold)))
    return Pairs(detection[enough], truth[enough], iou[enough], cover[enough])


def match_coco(
    index: DetectionIndex, results: Results, group: Ints, pairs: Pairs, threshold: float, max_det: int
) -> Matches:
    """COCO's matching at one IoU threshold, as pycocotools does it, over boxes of any area.

    In each image and class the detection of highest score goes first (of equal scores, the first in the results), and
    takes the object of highest IoU that is left (of equal IoU, the last); without one, an ignored ground truth, which
    is never used up. One of negative area that matches nothing is ignored too, for it is in no area range. `pairs` are
    those of `overlapping` at this threshold or a lower one.
    """
    scores, area = results[:, 5], results[:, 3] * results[:, 4]
    counted = best_of_group(group, scores, max_det)
    ignore, threshold = index.ignore[pairs.truth], min(threshold, NEARLY_ONE)
    near = counted[pairs.detection] & (np.where(ignore, pairs.cover, pairs.iou) >= threshold)
    ignored = (area < 0) | (area > LARGEST)
    ignored[pairs.detection[near & ignore]] = True
    free = near & ~ignore
    iou = np.zeros(len(scores))
    taken = np.zeros(index.num_boxes, dtype=np.bool_)
    for chosen in _rounds(group, scores, pairs.chosen(free)):
        left = chosen.truth[~taken[chosen.truth]]
        detection, quality = (column[~taken[chosen.truth]] for column in (chosen.detection, chosen.iou))
        last = np.append(detection[1:] != detection[:-1], True)[: len(detection)]
        taken[left[last]] = True
        iou[detection[last]] = quality[last]
    return Matches(counted, iou > 0, ignored & (iou == 0), iou)


def best_of_group(group: Ints, scores: Floats, count: int) -> Bools:
    """Which detections [D] are among the best `count` of their image and class; of equal scores the first ones are."""
    inside = np.ones(len(group), dtype=np.bool_)
    rows = np.flatnonzero(_how_many(group) > count)
    order = rows[np.lexsort((-scores[rows], group[rows]))]
    inside[order[_rank(group[order]) >= count]] = False
    return inside


def _how_many(keys: Ints) -> Ints:
    """How many equals each key [n] has, itself included."""
    if len(keys) and keys.max() < TABLE:
        return np.bincount(keys)[keys]
    _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return counts[place]


def _rounds(group: Ints, scores: Floats, pairs: Pairs) -> Iterator[Pairs]:
    """The pairs in rounds, each by detection and then by IoU.

    Round r has the pairs of the r-th detection of every image and class, of those that are in any pair.
    """
    begins = np.append(True, np.diff(pairs.detection) > 0)[: len(pairs.detection)]
    rows, position = pairs.detection[begins], np.cumsum(begins) - 1
    order = np.lexsort((-scores[rows], group[rows]))
    rank = np.empty(len(rows), dtype=np.int64)
    rank[order] = _rank(group[rows[order]])
    by_round = np.lexsort((pairs.truth, pairs.iou, pairs.detection, rank[position]))
    ends = np.cumsum(np.bincount(rank[position]))
    for chosen in np.split(by_round, ends[:-1]):
        yield pairs.chosen(chosen)


def _rank(keys: Ints) -> Ints:
    """The place of each key [n] among its equals, from 0; equal keys stand together."""
    place = np.arange(len(keys))
    begins = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    rank: Ints = place - np.maximum.accumulate(np.where(begins, place, 0))
    return rank
