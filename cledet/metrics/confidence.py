"""Confidence threshold of the highest F1."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cledet.data.index import Bools, DetectionIndex, Floats
from cledet.metrics.matching import Match, Overlaps, by_class, overlaps
from cledet.metrics.results_file import DetectionRows

Operating = dict[str, float | None]
"""`conf`, and the `f1`, `precision` and `recall` of the detections that score at least this; None where F1 is 0."""

NOWHERE: Operating = dict.fromkeys(("conf", "f1", "precision", "recall"))


class OperatingPoint(NamedTuple):
    """Metrics of the detections that score above `confidence`."""

    confidence: float
    f1: float
    precision: float
    recall: float


def best_confidences(o: Overlaps, match: Match) -> tuple[Operating, list[Operating]]:
    """Find the confidence of the highest F1 over all classes, and of each class.

    Detections of equal score are kept or dropped together; of equal F1 the highest confidence is taken. A detection on
    a crowd is neither a true nor a false positive. Over all classes, detections and objects are counted (micro
    average).
    """
    objects, counted = o.counts(o.objects).tolist(), ~match.ignored
    rows, *parts = (np.flatnonzero(counted), *by_class(o.label, counted, len(objects)))
    return best_confidence(o.score[rows], match.correct[rows], sum(objects)), [
        best_confidence(o.score[rows], match.correct[rows], n) for rows, n in zip(parts, objects)
    ]


def operating_point(index: DetectionIndex, results: DetectionRows) -> OperatingPoint | None:
    """Find the confidence of the highest F1 over all classes at IoU 0.5; None without true positives."""
    return operating_points(index, results)[0]


def operating_points(
    index: DetectionIndex, results: DetectionRows
) -> tuple[OperatingPoint | None, list[OperatingPoint | None]]:
    """Find the confidence of the highest F1 at IoU 0.5 over all classes, and of each class of the index.

    A confidence lies midway to the next lower score, so that rounding drops no detection. None without true positives.
    """
    o = overlaps(index, results)
    match = o.match()
    overall, each = best_confidences(o, match)
    counted = ~match.ignored
    scores = [o.score[rows] for rows in by_class(o.label, counted, len(each))]
    return _midway(overall, o.score[counted]), [_midway(best, own) for best, own in zip(each, scores)]


def _midway(best: Operating, scores: Floats) -> OperatingPoint | None:
    """Move the confidence midway to the next lower of the scores [D], which are in falling order."""
    conf, *metrics = best.values()
    if conf is None:
        return None
    return OperatingPoint((conf + float(np.append(scores[scores < conf], 0.0)[0])) / 2, *metrics)  # type: ignore[arg-type]


def best_confidence(scores: Floats, correct: Bools, objects: int) -> Operating:
    """Find the threshold of the highest F1 of detections [D] in order of falling score."""
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
    true_positives = np.cumsum(correct)[last]
    if objects == 0 or not true_positives.any():
        return NOWHERE
    kept = last + 1
    f1 = 2 * true_positives / (kept + objects)
    best = int(f1.argmax())
    return {
        "conf": float(scores[last[best]]),
        "f1": float(f1[best]),
        "precision": float(true_positives[best] / kept[best]),
        "recall": float(true_positives[best] / objects),
    }
