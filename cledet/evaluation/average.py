"""COCO's average precision from true and false positives in order: the mean of the precision at 101 recalls."""

from __future__ import annotations

import numpy as np

from cledet.data.index import Bools, Floats, Ints
from cledet.evaluation.overlaps import by_class

RECALLS = np.linspace(0, 1, 101)


def envelope(precision: Floats) -> Floats:
    """The highest precision [P, ...] at each true positive or a later one."""
    return np.maximum.accumulate(precision[::-1], axis=0)[::-1]


def ap_of_ranks(ranks: Ints, objects: int) -> float:
    """AP of one class that has `objects` objects, from the places (1, 2, ...) of its true positives, rising."""
    found = np.arange(1, len(ranks) + 1)
    reached = np.searchsorted(RECALLS, found / max(objects, 1), side="right")
    return float(envelope(found / (ranks + np.spacing(1))) @ np.diff(reached, prepend=0)) / len(RECALLS)


def class_ap(label: Ints, correct: Bools, ignored: Bools, objects: Ints) -> Floats:
    """AP [C] of every class from detections [D], best first, and its objects [C]; nan where a class has none."""
    ap = np.full(len(objects), np.nan)
    for k, rows in enumerate(by_class(label, ~ignored, len(objects))):
        if objects[k]:
            ap[k] = ap_of_ranks(np.flatnonzero(correct[rows]) + 1, int(objects[k]))
    return ap


def mean(values: Floats) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
