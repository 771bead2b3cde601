"""COCO's average precision from true and false positives in order: the mean of the precision at 101 recalls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cledet.data.index import Bools, Floats, Ints
from cledet.metrics.matching import by_class

RECALLS = np.linspace(0, 1, 101)
EPS = np.spacing(1)
"""What pycocotools adds to a count of detections before it divides by it."""


def envelope(precision: Floats) -> Floats:
    """The highest precision [P, ...] at each true positive or a later one."""
    return np.maximum.accumulate(precision[::-1], axis=0)[::-1]


def ap_of_ranks(ranks: Ints, objects: int) -> float:
    """AP of one class that has `objects` objects, from the places (1, 2, ...) of its true positives, rising."""
    return float(_envelope_of(ranks) @ _recalls_reached(objects)[: len(ranks)]) / len(RECALLS)


def ap_of_columns(right: Bools, found: Ints, ranks: Ints, objects: int) -> Floats:
    """The same of columns [P, J], to the last bit: AP [J] from the rows that are `right`, how many are up to there, and
    their ranks.
    """
    precision = envelope(np.where(right, found / (ranks + EPS), 0))
    steps = np.where(right, _recalls_reached(objects)[found - 1], 0)
    total: Floats = np.append(np.zeros((1, right.shape[1])), precision * steps, axis=0).cumsum(axis=0)[-1]
    return total / len(RECALLS)


def precision_at(ranks: Ints, objects: int) -> Floats:
    """The highest precision of the class at each of the 101 recalls or a higher one, 0 where recall ends before."""
    precision = np.zeros(len(ranks) + 1)
    precision[:-1] = _envelope_of(ranks)
    return precision[np.minimum(_found_at(objects), len(ranks))]


def _envelope_of(ranks: Ints) -> Floats:
    """The envelope [P] of the precision at true positives of these ranks."""
    return envelope(np.arange(1, len(ranks) + 1) / (ranks + EPS))


@lru_cache(maxsize=8192)
def _recalls_reached(objects: int) -> Floats:
    """How many of the 101 recalls each further object that is found reaches [objects]."""
    reached = np.searchsorted(RECALLS, np.arange(1, objects + 1) / objects, side="right")
    return np.diff(reached, prepend=0).astype(np.float64)


@lru_cache(maxsize=8192)
def _found_at(objects: int) -> Ints:
    """Which of the objects found, counted from 0, reaches each of the 101 recalls."""
    return np.searchsorted(np.arange(1, objects + 1) / objects, RECALLS, side="left")


def class_ap(label: Ints, correct: Bools, ignored: Bools, objects: Ints) -> Floats:
    """AP [C] of every class from detections [D], best first, and its objects [C]; nan where a class has none."""
    rows_of = by_class(label, ~ignored, len(objects))
    return ap_of_classes([np.flatnonzero(correct[rows]) + 1 for rows in rows_of], objects)


def ap_of_classes(ranks: Sequence[Ints], objects: Ints) -> Floats:
    """AP [C] of every class from the places of its true positives; nan where it has no objects [C]."""
    pairs = zip(ranks, objects.tolist())
    return np.array([ap_of_ranks(mine, count) if count else np.nan for mine, count in pairs], dtype=np.float64)


def mean(values: Floats) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
