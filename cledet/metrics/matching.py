"""Detections and ground truths of a split as columns, every pair of them that overlaps, and who is matched with whom.

Matching is COCO's: class by class the detection of highest score first, each with the best object that is left; one
that finds none may fall to an ignored one and then does not count. Worked out for all images and classes at once: every
detection asks for the best object it has not been refused, every object keeps the asker of highest score, until nobody
asks. As all objects prefer alike, that ends where pycocotools' loop ends (Gale and Shapley, 1962).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cledet.data.index import Bools, DetectionIndex, Floats, Ints
from cledet.metrics.evaluation import LARGEST
from cledet.metrics.results_file import Results

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds."""
FOREGROUND, BACKGROUND = 0.5, 0.1
"""The IoU from which a box lies on an object, and up to which it lies beside all (TIDE's)."""
MAX_DETECTIONS = 100
"""Of an image and class, as in COCO's figures."""
PAIRS = 2**16
"""Pairs worked on at once, at some 200 bytes each: more would not fit a processor's cache."""
TABLE = 2**23
"""Ids below this are looked up in a table of that many numbers at most."""


class Pairs(NamedTuple):
    """Pairs on one image, by detection; of a detection the highest IoU first, of equal ones the later object."""

    detection: Ints  # [P]
    gt: Ints  # [P] box row of the index
    iou: Floats  # [P]; with an ignored one the share of the detection that lies in it

    def where(self, chosen: Bools | Ints) -> Pairs:
        """Some of them, by mask or by position."""
        return Pairs(self.detection[chosen], self.gt[chosen], self.iou[chosen])

    def best(self, detections: int) -> tuple[Ints, Floats]:
        """The best ground truth of every detection [D] and its IoU; -1 and 0 where there is none."""
        gt, iou = np.full(detections, -1), np.zeros(detections)
        first = np.flatnonzero(np.diff(self.detection, prepend=-1))
        gt[self.detection[first]], iou[self.detection[first]] = self.gt[first], self.iou[first]
        return gt, iou


class Match(NamedTuple):
    """What became of every detection at one IoU threshold."""

    gt: Ints  # [D] the object that it is matched with, -1 for none
    ignored: Bools  # [D] it counts neither as right nor as wrong
    iou: Floats  # [D] IoU with the object, 0 for none

    @property
    def correct(self) -> Bools:
        """[D] which are true positives."""
        return self.gt >= 0


@dataclass(frozen=True, eq=False)
class Overlaps:
    """D detections, highest score first, of equal ones those of lower image id; the index's B ground truths; pairs."""

    index: DetectionIndex
    row: Ints
    """[D] place in the results that they came in."""
    image: Ints
    """[D] position of the image."""
    label: Ints
    """[D]"""
    score: Floats
    """[D]"""
    xywh: Floats
    """[D, 4]"""

    @cached_property
    def area(self) -> Floats:
        """[D] width times height."""
        return self.xywh[:, 2] * self.xywh[:, 3]

    @cached_property
    def objects(self) -> Bools:
        """[B] which ground truths are objects: all but ignored ones."""
        return np.logical_not(self.index.ignore)

    @cached_property
    def gt_image(self) -> Ints:
        """[B] position of the image of every ground truth."""
        return self.index.image_of_boxes()

    @cached_property
    def before(self) -> Ints:
        """[D] how many detections of its image and class come before each."""
        order = class_order(self.label, len(self.index.classes))
        order = order[np.argsort(_small(self.image[order], len(self.index)), kind="stable")]
        image, label, place = self.image[order], self.label[order], np.arange(len(order))
        first = np.append(True, (np.diff(image) != 0) | (np.diff(label) != 0))[: len(order)]
        before = np.empty_like(order)
        before[order] = place - np.maximum.accumulate(np.where(first, place, 0))
        return before

    @cached_property
    def pairs(self) -> Pairs:
        """Those of IoU 0.1 and more, of any classes."""
        return self._pairs(self.image, self.gt_image, BACKGROUND)

    @cached_property
    def same(self) -> Pairs:
        """The pairs of one class that can be matched."""
        return self.of_class(FOREGROUND)

    def of_class(self, least: float) -> Pairs:
        """The pairs of one class and at least that IoU."""
        classes = len(self.index.classes)
        return self._pairs(self.image * classes + self.label, self.gt_image * classes + self.index.labels, least)

    def best(self, most: int) -> Overlaps:
        """The same with the best `most` detections of each image and class."""
        if not (self.before >= most).any():
            return self
        kept = np.flatnonzero(self.before < most)
        columns = self.row[kept], self.image[kept], self.label[kept], self.score[kept], self.xywh[kept]
        return Overlaps(self.index, *columns)

    def counts(self, gts: Bools) -> Ints:
        """How many of these ground truths [B] each class has [C]."""
        return np.bincount(self.index.labels[gts], minlength=len(self.index.classes))

    def match(
        self, threshold: float = FOREGROUND, objects: Bools | None = None, detections: Bools | None = None
    ) -> Match:
        """Match at an IoU threshold.

        Of the ground truths [B] those are ignored that are not in `objects`, and of the detections [D] that match
        nothing those that are not in `detections`, which by default are all of an area that COCO knows.
        """
        real = self.objects if objects is None else self.objects & objects
        known = (self.area >= 0) & (self.area <= LARGEST) if detections is None else detections
        return match_pairs(self.same.where(self.same.iou >= threshold), real, known, self.index.ignore)

    def _pairs(self, home: Ints, gt_home: Ints, least: float) -> Pairs:
        """Pairs of equal home, of detections [D] and ground truths [B], a bounded number at a time."""
        order = np.argsort(gt_home, kind="stable")
        homes, begin, count = np.unique(gt_home[order], return_index=True, return_counts=True)
        place, known = _places(homes, home)
        rows = np.flatnonzero(known)
        begin, count = begin[place[rows]], count[place[rows]]
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


def overlaps(index: DetectionIndex, results: Results, most: int | None = MAX_DETECTIONS) -> Overlaps:
    """The best `most` detections of each image and class of a split, None for all, beside its ground truths.

    Detections of classes that it lacks are left out. Raises ValueError for an image that it lacks.
    """
    place, known = _places(index.category_ids, results[:, 6])
    row = np.flatnonzero(known)
    label = np.argsort(index.category_ids)[place[row]]
    place, known = _places(index.image_ids, results[row, 0])
    if not known.all():
        strange = np.unique(results[row[~known], 0])
        raise ValueError(f"detections name image ids that {index.name} does not have: {strange[:5].tolist()}")
    order = np.argsort(_small(place, len(index)), kind="stable")
    order = order[np.argsort(-results[row[order], 5], kind="stable")]
    row, label, image = row[order], label[order], np.argsort(index.image_ids)[place[order]]
    ordered = results[row]
    found = Overlaps(index, row, image, label, ordered[:, 5], ordered[:, 1:5])
    return found if most is None else found.best(most)


def by_class(label: Ints, chosen: Bools, classes: int) -> list[Ints]:
    """The chosen detections [D] of each class, in their order."""
    rows = np.flatnonzero(chosen)
    ends = np.bincount(label[rows], minlength=classes).cumsum()
    return np.split(rows[class_order(label[rows], classes)], ends[:-1])


def class_order(label: Ints, classes: int) -> Ints:
    """The order [D] that puts detections class by class, each class's as they were."""
    return np.argsort(_small(label, classes), kind="stable")


def match_pairs(pairs: Pairs, real: Bools, known: Bools, crowds: Bools) -> Match:
    """Match detections [D], the best of each class first, by pairs of one class.

    Of the ground truths [B] those count that are `real`, `crowds` are never used up; of the detections that match
    nothing those count that are `known` [D].
    """
    gt, iou = np.full(len(known), -1), np.zeros(len(known))
    own = pairs.where(real[pairs.gt])
    chosen = own.where(assign(own, own.detection, np.zeros(len(real), dtype=np.bool_)))
    gt[chosen.detection], iou[chosen.detection] = chosen.gt, chosen.iou
    ignored = ~known & (gt < 0)
    rest = pairs.where(~real[pairs.gt] & (gt[pairs.detection] < 0))
    ignored[rest.detection[assign(rest, rest.detection, crowds)]] = True
    return Match(gt, ignored, iou)


def assign(pairs: Pairs, rank: Ints, shared: Bools) -> Bools:
    """Which pairs [P] are chosen, at most one a detection and one a ground truth, unless `shared` [B].

    A detection prefers its earlier pairs, a ground truth those of lower rank [P]; the ranks of a ground truth's pairs
    differ.
    """
    chosen = np.zeros(len(rank), dtype=np.bool_)
    current = np.flatnonzero(np.diff(pairs.detection, prepend=-1))
    end = np.append(current[1:], len(rank))
    held = np.full(len(shared), np.iinfo(np.int64).max)
    asking = current
    while len(asking):
        np.minimum.at(held, pairs.gt[asking], rank[asking])
        refused = (held[pairs.gt[current]] != rank[current]) & ~shared[pairs.gt[current]]
        current = current + refused
        left = current < end
        asking = current[refused & left]
        current, end = current[left], end[left]
    chosen[current] = True
    return chosen


def box_iou(a: Floats, b: Floats, crowd: Bools | bool = False) -> Floats:
    """IoU [P] of boxes xywh row by row, to pycocotools' last bit; with a crowd the share of a in it."""
    shared = np.ones(len(a))
    for side in (0, 1):
        low = np.maximum(a[:, side], b[:, side])
        high = np.minimum(a[:, side] + a[:, side + 2], b[:, side] + b[:, side + 2])
        shared *= np.maximum(high - low, 0)
    own, other = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    union = np.where(crowd, own, own + other - shared)
    return np.divide(shared, union, out=np.zeros(len(a)), where=shared > 0)


def tied(values: NDArray[Any]) -> Ints:
    """The rows whose value [N], in order, is also that of the row before or behind."""
    equal = values[1:] == values[:-1]
    return np.flatnonzero(np.append(equal, False)[: len(values)] | np.append(False, equal)[: len(values)])


def _places(known: Ints, wanted: NDArray[Any]) -> tuple[Ints, Bools]:
    """The place of every wanted whole number [N] among the known ones in order, and whether it is one."""
    ordered = np.sort(known)
    if not len(known):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    if ordered[0] >= 0 and ordered[-1] < TABLE:  # looked up, several times as fast as searched for
        table = np.zeros(ordered[-1] + 1, dtype=np.int64)
        table[ordered] = np.arange(len(ordered))
        place = table[wanted.clip(0, ordered[-1]).astype(np.int64)]
    else:
        place = np.searchsorted(ordered, wanted).clip(max=len(known) - 1)
    return place, ordered[place] == wanted


def _small(values: Ints, end: int) -> NDArray[Any]:
    """Values below `end` as the smallest integers that hold them: numpy sorts those of 16 bits at once."""
    return values.astype(np.min_scalar_type(end))
