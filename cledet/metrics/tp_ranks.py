"""Ranks of true positives among the detections of their class, for subsets of a split and IoU thresholds from 0.5.

Only a detection that overlaps a ground truth of its class can be a true positive. These matchable detections are few
and are matched separately; of the others, only the number that precede a matchable one matters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cledet.data.index import Bools, Ints
from cledet.metrics.matching import Overlaps, Pairs, class_order, match_pairs


class MatchableDetections(NamedTuple):
    """The N detections that can be true positives, class by class, highest score first."""

    o: Overlaps
    order: Ints  # [D] all detections, class by class, highest score first
    place: Ints  # [N] positions of the matchable detections in `order`
    label: Ints  # [N] their classes, ascending
    first: Ints  # [C] first position of each class in `order`
    own_first: Ints  # [C] first position of each class among the matchable detections
    pairs: Pairs  # those of `o.same`; `detection` is a position among the matchable detections

    @property
    def detection(self) -> Ints:
        """Return their indices [N] among all detections."""
        return self.order[self.place]

    def part(self, objects: Bools, detections: Bools) -> Part:
        """Restrict to ground truths [B] in `objects` and detections [D], which are ignored as in `Overlaps.match`."""
        others = detections[self.order]
        known = others[self.place]
        others[self.place] = False
        before = np.append(0, others.cumsum())
        return Part(self, self.o.objects & objects, known, before[self.place] - before[self.first[self.label]])


class Part(NamedTuple):
    """A subset of the objects and detections."""

    of: MatchableDetections
    objects: Bools  # [B] mask of the objects that count
    known: Bools  # [N] detections that are false positives if unmatched
    before: Ints  # [N] other counted detections of the class that precede each

    def ranks(self, threshold: float) -> Ranks:
        """Match at an IoU threshold and return the ranks of the true positives."""
        matchable = self.of
        pairs = matchable.pairs.where(matchable.pairs.iou >= threshold)
        match = match_pairs(pairs, self.objects, self.known, matchable.o.index.ignore)
        positives = np.flatnonzero(match.correct)
        label = matchable.label[positives]
        count = np.append(0, (~match.ignored).cumsum())
        return Ranks(
            positives, label, self.before[positives] + count[positives + 1] - count[matchable.own_first[label]]
        )


class Ranks(NamedTuple):
    """The true positives at an IoU threshold, class by class."""

    position: Ints  # [R] among the matchable detections
    label: Ints  # [R] ascending
    rank: Ints  # [R] 1, 2, ... among the detections of the class that count

    def by_class(self, classes: int) -> list[Ints]:
        """Return the ranks of each class, ascending."""
        return np.split(self.rank, np.searchsorted(self.label, np.arange(1, classes)))


def matchable_detections(o: Overlaps) -> MatchableDetections:
    """Select the detections of a split that can be true positives."""
    classes = len(o.index.classes)
    order = class_order(o.label, classes)
    near = np.zeros(len(order), dtype=np.bool_)
    near[o.same.detection] = True
    place = np.flatnonzero(near[order])
    number = np.zeros(len(order), dtype=np.int64)
    number[order[place]] = np.arange(len(place))
    pairs = o.same._replace(detection=number[o.same.detection])
    pairs = pairs.where(np.argsort(pairs.detection, kind="stable"))
    label = o.label[order[place]]
    return MatchableDetections(o, order, place, label, _starts(o.label, classes), _starts(label, classes), pairs)


def _starts(label: Ints, classes: int) -> Ints:
    """Return the first position [C] of each class in sorted labels."""
    counts = np.bincount(label, minlength=classes)
    return counts.cumsum() - counts
