"""COCO's average precision: the mean of the interpolated precision at 101 recalls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cledet.data.index import Bools, Floats, Ints
from cledet.metrics.matching import by_class

RECALLS = np.linspace(0, 1, 101)
EPS = np.spacing(1)
"""Constant that pycocotools adds to a number of detections before dividing by it."""


def envelope(precision: Floats) -> Floats:
    """Compute the interpolated precision [P, ...]: the highest at each true positive or a later one."""
    return np.maximum.accumulate(precision[::-1], axis=0)[::-1]


def ap_of_ranks(ranks: Ints, objects: int) -> float:
    """Compute the AP of a class from its number of objects and the ranks (1, 2, ...) of its true positives."""
    return float(_envelope_of(ranks) @ _recalls_reached(objects)[: len(ranks)]) / len(RECALLS)


def precision_at(ranks: Ints, objects: int) -> Floats:
    """Compute the interpolated precision [101] of a class; 0 at recalls that are not reached."""
    precision = np.zeros(len(ranks) + 1)
    precision[:-1] = _envelope_of(ranks)
    return precision[np.minimum(_found_at(objects), len(ranks))]


def _envelope_of(ranks: Ints) -> Floats:
    """Compute the interpolated precision [P] at true positives of these ranks."""
    return envelope(np.arange(1, len(ranks) + 1) / (ranks + EPS))


@lru_cache(maxsize=8192)
def _recalls_reached(objects: int) -> Floats:
    """Count the recalls of the 101 that each further true positive reaches [objects]."""
    reached = np.searchsorted(RECALLS, np.arange(1, objects + 1) / objects, side="right")
    return np.diff(reached, prepend=0).astype(np.float64)


@lru_cache(maxsize=8192)
def _found_at(objects: int) -> Ints:
    """Return the index [101] of the true positive that reaches each recall."""
    return np.searchsorted(np.arange(1, objects + 1) / objects, RECALLS, side="left")


def class_ap(label: Ints, correct: Bools, ignored: Bools, objects: Ints) -> Floats:
    """Compute AP [C] from detections [D], highest score first, and objects [C] per class; nan without objects."""
    rows_of = by_class(label, ~ignored, len(objects))
    return ap_of_classes([np.flatnonzero(correct[rows]) + 1 for rows in rows_of], objects)


def ap_of_classes(ranks: Sequence[Ints], objects: Ints) -> Floats:
    """Compute AP [C] from the ranks of the true positives and objects [C] per class; nan without objects."""
    pairs = zip(ranks, objects.tolist())
    return np.array([ap_of_ranks(mine, count) if count else np.nan for mine, count in pairs], dtype=np.float64)


def mean(values: Floats) -> float | None:
    """Compute the mean without nan; None if nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
