"""Vectorized matching of the detections and ground truths of a split, as in COCO's evaluation.

Per class, detections are matched in order of falling score, each with the unmatched object of highest IoU. A detection
without such an object may match an ignored one and is then ignored too.

Matching is computed for all images and classes at once as a stable matching: every detection proposes to its best
object that has not rejected it, and every object holds the proposal of highest score, until no proposal is left. All
objects have the same preference, so the result is that of pycocotools' loop (Gale and Shapley, 1962).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cledet.data.index import Bools, DetectionIndex, Floats, Ints
from cledet.metrics.evaluation import LARGEST
from cledet.metrics.results_file import DetectionRows

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds."""
FOREGROUND, BACKGROUND = 0.5, 0.1
"""TIDE's IoU thresholds: a box is on an object from the first, and on background up to the second."""
MAX_DETECTIONS = 100
"""Per image and class, as in COCO's metrics."""
PAIRS = 2**16
"""Pairs per chunk, at about 200 bytes each, so that a chunk fits the processor's cache."""
TABLE = 2**23
"""Ids below this are looked up in a table."""


class Pairs(NamedTuple):
    """Pairs of detection and ground truth, by detection, highest IoU first, of equal IoU the later ground truth."""

    detection: Ints  # [P]
    gt: Ints  # [P] box row of the index
    iou: Floats  # [P]; with an ignored one the share of the detection inside it

    def where(self, chosen: Bools | Ints) -> Pairs:
        """Select pairs by mask or by position."""
        return Pairs(self.detection[chosen], self.gt[chosen], self.iou[chosen])

    def best(self, detections: int) -> tuple[Ints, Floats]:
        """Return the best ground truth of every detection [D] and its IoU; -1 and 0 without one."""
        gt, iou = np.full(detections, -1), np.zeros(detections)
        first = np.flatnonzero(np.diff(self.detection, prepend=-1))
        gt[self.detection[first]], iou[self.detection[first]] = self.gt[first], self.iou[first]
        return gt, iou


class Match(NamedTuple):
    """Matching of every detection at one IoU threshold."""

    gt: Ints  # [D] the matched object, -1 for none
    ignored: Bools  # [D] neither a true nor a false positive
    iou: Floats  # [D] IoU with the matched object, 0 for none

    @property
    def correct(self) -> Bools:
        """Return the mask [D] of the true positives."""
        return self.gt >= 0


@dataclass(frozen=True, eq=False)
class Overlaps:
    """D detections, highest score first and of equal score by image id, B ground truths, and the pairs that overlap."""

    index: DetectionIndex
    row: Ints
    """[D] row in the results."""
    image: Ints
    """[D] image position."""
    label: Ints
    """[D]"""
    score: Floats
    """[D]"""
    xywh: Floats
    """[D, 4]"""

    @cached_property
    def area(self) -> Floats:
        """Compute width times height [D]."""
        return self.xywh[:, 2] * self.xywh[:, 3]

    @cached_property
    def objects(self) -> Bools:
        """Return the mask [B] of the ground truths that are not ignored."""
        return np.logical_not(self.index.ignore)

    @cached_property
    def gt_image(self) -> Ints:
        """Return the image position [B] of every ground truth."""
        return self.index.image_of_boxes()

    @cached_property
    def before(self) -> Ints:
        """Count the detections [D] of the same image and class that precede each."""
        order = class_order(self.label, len(self.index.classes))
        order = order[np.argsort(_small(self.image[order], len(self.index)), kind="stable")]
        image, label, position = self.image[order], self.label[order], np.arange(len(order))
        first = np.append(True, (np.diff(image) != 0) | (np.diff(label) != 0))[: len(order)]
        before = np.empty_like(order)
        before[order] = position - np.maximum.accumulate(np.where(first, position, 0))
        return before

    @cached_property
    def pairs(self) -> Pairs:
        """Compute the pairs of any classes with IoU of at least 0.1."""
        return self._pairs(self.image, self.gt_image, BACKGROUND)

    @cached_property
    def same(self) -> Pairs:
        """Compute the pairs of equal class that can be matched."""
        return self.of_class(FOREGROUND)

    def of_class(self, least: float) -> Pairs:
        """Compute the pairs of equal class with at least that IoU."""
        classes = len(self.index.classes)
        return self._pairs(self.image * classes + self.label, self.gt_image * classes + self.index.labels, least)

    def best(self, most: int) -> Overlaps:
        """Keep the best `most` detections per image and class."""
        if not (self.before >= most).any():
            return self
        kept = np.flatnonzero(self.before < most)
        columns = self.row[kept], self.image[kept], self.label[kept], self.score[kept], self.xywh[kept]
        return Overlaps(self.index, *columns)

    def counts(self, gts: Bools) -> Ints:
        """Count these ground truths [B] per class [C]."""
        return np.bincount(self.index.labels[gts], minlength=len(self.index.classes))

    def match(
        self, threshold: float = FOREGROUND, objects: Bools | None = None, detections: Bools | None = None
    ) -> Match:
        """Match at an IoU threshold.

        Ground truths [B] outside `objects` are ignored, and so are unmatched detections [D] outside `detections`, by
        default those of an area outside COCO's range.
        """
        real = self.objects if objects is None else self.objects & objects
        counted = (self.area >= 0) & (self.area <= LARGEST) if detections is None else detections
        return match_pairs(self.same.where(self.same.iou >= threshold), real, counted, self.index.ignore)

    def _pairs(self, key: Ints, gt_key: Ints, least: float) -> Pairs:
        """Compute the pairs of detections [D] and ground truths [B] of equal key, in chunks."""
        order = np.argsort(gt_key, kind="stable")
        keys, begin, count = np.unique(gt_key[order], return_index=True, return_counts=True)
        position, known = _positions(keys, key)
        rows = np.flatnonzero(known)
        begin, count = begin[position[rows]], count[position[rows]]
        ends = count.cumsum()
        parts = [Pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
        first = 0
        while first < len(rows):
            done = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, done + PAIRS, side="right")))
            many = count[first:last]
            shift = begin[first:last] - (ends[first:last] - many - done)
            detection = np.repeat(rows[first:last], many)
            gt = order[np.arange(len(detection)) + np.repeat(shift, many)]
            iou = box_iou(self.xywh[detection], self.index.xywh[gt], self.index.ignore[gt])
            parts.append(Pairs(detection, gt, iou).where(iou >= least))
            first = last
        pairs = Pairs(*(np.concatenate(column) for column in zip(*parts)))
        several = tied(pairs.detection)
        detection, gt, iou = pairs.where(several)
        ordered = np.arange(len(pairs.iou))
        ordered[several] = several[np.lexsort((-gt, -iou, detection))]
        return pairs.where(ordered)


def overlaps(index: DetectionIndex, results: DetectionRows, most: int | None = MAX_DETECTIONS) -> Overlaps:
    """Pair the best `most` detections per image and class of a split, None for all, with its ground truths.

    Detections of classes that the split lacks are dropped. Raises ValueError for an image that it lacks.
    """
    position, known = _positions(index.category_ids, results[:, 6])
    row = np.flatnonzero(known)
    label = np.argsort(index.category_ids)[position[row]]
    position, known = _positions(index.image_ids, results[row, 0])
    if not known.all():
        unknown = np.unique(results[row[~known], 0])
        raise ValueError(f"detections name image ids that {index.name} does not have: {unknown[:5].tolist()}")
    order = np.argsort(_small(position, len(index)), kind="stable")
    order = order[np.argsort(-results[row[order], 5], kind="stable")]
    row, label, image = row[order], label[order], np.argsort(index.image_ids)[position[order]]
    ordered = results[row]
    paired = Overlaps(index, row, image, label, ordered[:, 5], ordered[:, 1:5])
    return paired if most is None else paired.best(most)


def by_class(label: Ints, chosen: Bools, classes: int) -> list[Ints]:
    """Split the chosen detections [D] by class, in their order."""
    rows = np.flatnonzero(chosen)
    ends = np.bincount(label[rows], minlength=classes).cumsum()
    return np.split(rows[class_order(label[rows], classes)], ends[:-1])


def class_order(label: Ints, classes: int) -> Ints:
    """Return the stable order [D] that groups detections by class."""
    return np.argsort(_small(label, classes), kind="stable")


def match_pairs(pairs: Pairs, real: Bools, counted: Bools, crowds: Bools) -> Match:
    """Match detections [D], highest score first, by pairs of equal class.

    Ground truths [B] that are not `real` are ignored, and `crowds` match any number of detections. Unmatched detections
    that are not `counted` [D] are ignored.
    """
    gt, iou = np.full(len(counted), -1), np.zeros(len(counted))
    own = pairs.where(real[pairs.gt])
    chosen = own.where(assign(own, own.detection, np.zeros(len(real), dtype=np.bool_)))
    gt[chosen.detection], iou[chosen.detection] = chosen.gt, chosen.iou
    ignored = ~counted & (gt < 0)
    rest = pairs.where(~real[pairs.gt] & (gt[pairs.detection] < 0))
    ignored[rest.detection[assign(rest, rest.detection, crowds)]] = True
    return Match(gt, ignored, iou)


def assign(pairs: Pairs, rank: Ints, shared: Bools) -> Bools:
    """Compute the stable matching of pairs, as a mask [P] with at most one pair per detection and per ground truth.

    Ground truths that are `shared` [B] may have many. A detection prefers its earlier pairs, a ground truth pairs of
    lower rank [P]; the ranks of the pairs of a ground truth are distinct.
    """
    chosen = np.zeros(len(rank), dtype=np.bool_)
    current = np.flatnonzero(np.diff(pairs.detection, prepend=-1))
    end = np.append(current[1:], len(rank))
    held = np.full(len(shared), np.iinfo(np.int64).max)
    proposing = current
    while len(proposing):
        np.minimum.at(held, pairs.gt[proposing], rank[proposing])
        rejected = (held[pairs.gt[current]] != rank[current]) & ~shared[pairs.gt[current]]
        current = current + rejected
        left = current < end
        proposing = current[rejected & left]
        current, end = current[left], end[left]
    chosen[current] = True
    return chosen


def box_iou(a: Floats, b: Floats, crowd: Bools | bool = False) -> Floats:
    """Compute IoU [P] of boxes xywh row by row as pycocotools does; with a crowd, the share of `a` inside it."""
    intersection = np.ones(len(a))
    for side in (0, 1):
        low = np.maximum(a[:, side], b[:, side])
        high = np.minimum(a[:, side] + a[:, side + 2], b[:, side] + b[:, side + 2])
        intersection *= np.maximum(high - low, 0)
    own, other = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    union = np.where(crowd, own, own + other - intersection)
    return np.divide(intersection, union, out=np.zeros(len(a)), where=intersection > 0)


def tied(values: NDArray[Any]) -> Ints:
    """Return the rows of sorted values [N] that equal the value of an adjacent row."""
    equal = values[1:] == values[:-1]
    return np.flatnonzero(np.append(equal, False)[: len(values)] | np.append(False, equal)[: len(values)])


def _positions(known: Ints, wanted: NDArray[Any]) -> tuple[Ints, Bools]:
    """Return the position of every wanted whole number [N] among the sorted known ones, and a mask of those known."""
    ordered = np.sort(known)
    if not len(known):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    if ordered[0] >= 0 and ordered[-1] < TABLE:  # several times as fast as a binary search
        table = np.zeros(ordered[-1] + 1, dtype=np.int64)
        table[ordered] = np.arange(len(ordered))
        position = table[wanted.clip(0, ordered[-1]).astype(np.int64)]
    else:
        position = np.searchsorted(ordered, wanted).clip(max=len(known) - 1)
    return position, ordered[position] == wanted


def _small(values: Ints, end: int) -> NDArray[Any]:
    """Convert values below `end` to the smallest integer type: numpy sorts 16 bits by radix."""
    return values.astype(np.min_scalar_type(end))
