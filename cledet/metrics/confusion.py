"""Confusion matrix of classes, from a matching of detections and objects that ignores the class.

Detections above a confidence and objects are matched one to one in order of falling IoU, down to 0.5. Unmatched
detections are false positives on background, unless they lie in a crowd of their class; unmatched objects are missed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cledet.data.index import Ints
from cledet.metrics.matching import FOREGROUND, Overlaps, assign


class Mistaken(NamedTuple):
    """A pair of classes that are confused."""

    true: int
    predicted: int
    times: int
    share: float
    """Share of all objects of the true class."""


def confusion(o: Overlaps, confidence: float) -> Ints:
    """Compute the confusion matrix [C + 1, C + 1] of the detections that score at least `confidence`.

    Rows are predicted classes and columns true classes; the last of each is background.
    """
    shown = o.score >= confidence
    near = o.pairs.where((o.pairs.iou >= FOREGROUND) & shown[o.pairs.detection])
    pairs = near.where(o.objects[near.gt])
    rank = np.empty(len(pairs.iou), dtype=np.int64)
    rank[np.argsort(-pairs.iou, kind="stable")] = np.arange(len(rank))
    chosen = pairs.where(assign(pairs, rank, np.zeros(o.index.num_boxes, dtype=np.bool_)))
    unmatched, missed = shown.copy(), o.objects.copy()
    unmatched[chosen.detection], missed[chosen.gt] = False, False
    crowd = o.index.ignore[near.gt] & (o.label[near.detection] == o.index.labels[near.gt])
    unmatched[near.detection[crowd]] = False
    none = len(o.index.classes)
    predicted = np.concatenate([o.label[chosen.detection], o.label[unmatched], np.full(missed.sum(), none)])
    true = np.concatenate([o.index.labels[chosen.gt], np.full(unmatched.sum(), none), o.index.labels[missed]])
    return np.bincount(predicted * (none + 1) + true, minlength=(none + 1) ** 2).reshape(none + 1, none + 1)


def mistaken(matrix: Ints, most: int = 20) -> list[Mistaken]:
    """Return the class pairs that are confused most often; of equal counts the larger share first."""
    classes = matrix[:-1, :-1] * ~np.eye(len(matrix) - 1, dtype=np.bool_)
    objects = matrix[:, :-1].sum(axis=0)
    pairs = [
        Mistaken(t, p, int(classes[p, t]), float(classes[p, t] / objects[t])) for p, t in np.argwhere(classes).tolist()
    ]
    return sorted(pairs, key=lambda pair: (-pair.times, -pair.share, pair.true, pair.predicted))[:most]
