"""The ranks of right detections among those of their class, for parts of a split and IoU thresholds from 0.5 on.

Only a detection that lies on a ground truth of its class can be right. These contenders are few and are matched by
themselves; of all other detections it only matters how many stand before a contender.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cledet.data.index import Bools, Ints
from cledet.metrics.matching import Overlaps, Pairs, class_order, match_pairs


class Contenders(NamedTuple):
    """The N detections that can be right, class by class, the best first."""

    o: Overlaps
    order: Ints  # [D] all detections, class by class, the best first
    place: Ints  # [N] where the contenders are among these
    label: Ints  # [N] their classes, rising
    first: Ints  # [C] where each class begins among all detections, and
    own_first: Ints  # [C] among the contenders
    pairs: Pairs  # those of `o.same`, by contender

    @property
    def detection(self) -> Ints:
        """[N] which detection each is."""
        return self.order[self.place]

    def part(self, objects: Bools, detections: Bools) -> Part:
        """With ground truths [B] ignored that are not in `objects`, and detections [D] as in `Overlaps.match`."""
        others = detections[self.order]
        known = others[self.place]
        others[self.place] = False
        before = np.append(0, others.cumsum())
        return Part(self, self.o.objects & objects, known, before[self.place] - before[self.first[self.label]])


class Part(NamedTuple):
    """Some of the objects and detections."""

    of: Contenders
    objects: Bools  # [B] those that count
    known: Bools  # [N] contenders that count where they match nothing
    before: Ints  # [N] how many others that count stand before each in its class

    def ranks(self, threshold: float) -> Ranks:
        """Match at an IoU threshold."""
        who = self.of
        pairs = who.pairs.where(who.pairs.iou >= threshold)
        match = match_pairs(pairs, self.objects, self.known, who.o.index.ignore)
        right = np.flatnonzero(match.correct)
        label = who.label[right]
        count = np.append(0, (~match.ignored).cumsum())
        return Ranks(right, label, self.before[right] + count[right + 1] - count[who.own_first[label]])


class Ranks(NamedTuple):
    """The right detections at an IoU threshold, class by class."""

    contender: Ints  # [R] which they are
    label: Ints  # [R] rising
    rank: Ints  # [R] 1, 2, ... among the detections of the class that count

    def by_class(self, classes: int) -> list[Ints]:
        """The ranks of each class, rising."""
        return np.split(self.rank, np.searchsorted(self.label, np.arange(1, classes)))


def contenders(o: Overlaps) -> Contenders:
    """The contenders of a split."""
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
    return Contenders(o, order, place, label, _starts(o.label, classes), _starts(label, classes), pairs)


def _starts(label: Ints, classes: int) -> Ints:
    """Where each class begins [C], were the labels in order."""
    counts = np.bincount(label, minlength=classes)
    return counts.cumsum() - counts
