"""Which classes are taken for which: detections and objects matched by place alone.

Of the detections from a confidence on and the objects, the two that overlap most are paired first, whatever their
classes, down to IoU 0.5; each has at most one partner. A detection without any is a false alarm on background, an
object without any is missed. A detection without partner that lies in a crowd of its class does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cledet.data.index import Ints
from cledet.metrics.matching import FOREGROUND, Overlaps, assign


class Mistaken(NamedTuple):
    """One way to take one class for another."""

    true: int
    predicted: int
    times: int
    share: float
    """Of all objects of the true class."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts from a confidence on."""

    confidence: float
    matrix: Ints
    """[C + 1, C + 1] row: predicted class, column: true class; the last of each is background."""

    def mistaken(self, most: int = 20) -> list[Mistaken]:
        """The class pairs that are mistaken most often; of equal ones the larger share first."""
        classes = self.matrix[:-1, :-1] * ~np.eye(len(self.matrix) - 1, dtype=np.bool_)
        objects = self.matrix[:, :-1].sum(axis=0)
        found = [
            Mistaken(t, p, int(classes[p, t]), float(classes[p, t] / objects[t]))
            for p, t in np.argwhere(classes).tolist()
        ]
        return sorted(found, key=lambda one: (-one.times, -one.share, one.true, one.predicted))[:most]


def confusion(o: Overlaps, confidence: float) -> Confusion:
    """The confusion matrix of the detections that score `confidence` or more."""
    shown = o.score >= confidence
    near = o.pairs.where((o.pairs.iou >= FOREGROUND) & shown[o.pairs.detection])
    pairs = near.where(o.objects[near.gt])
    rank = np.empty(len(pairs.iou), dtype=np.int64)
    rank[np.argsort(-pairs.iou, kind="stable")] = np.arange(len(rank))
    chosen = pairs.where(assign(pairs, rank, np.zeros(o.index.num_boxes, dtype=np.bool_)))
    free, lost = shown.copy(), o.objects.copy()
    free[chosen.detection], lost[chosen.gt] = False, False
    crowd = o.index.ignore[near.gt] & (o.label[near.detection] == o.index.labels[near.gt])
    free[near.detection[crowd]] = False
    none = len(o.index.classes)
    predicted = np.concatenate([o.label[chosen.detection], o.label[free], np.full(lost.sum(), none)])
    true = np.concatenate([o.index.labels[chosen.gt], np.full(free.sum(), none), o.index.labels[lost]])
    matrix = np.bincount(predicted * (none + 1) + true, minlength=(none + 1) ** 2).reshape(none + 1, none + 1)
    return Confusion(confidence, matrix)
