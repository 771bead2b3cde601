"""The confidence to cut detections at: where F1 is highest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cledet.data.index import Bools, DetectionIndex, Floats
from cledet.metrics.matching import Match, Overlaps, by_class, overlaps
from cledet.metrics.results_file import Results

Operating = dict[str, float | None]
"""`conf`, and with the detections of at least that score `f1`, `precision` and `recall`; None where F1 is 0."""

NOWHERE: Operating = dict.fromkeys(("conf", "f1", "precision", "recall"))


class OperatingPoint(NamedTuple):
    """What is left of the detections whose score is over `confidence`."""

    confidence: float
    f1: float
    precision: float
    recall: float


def best_confidences(o: Overlaps, match: Match) -> tuple[Operating, list[Operating]]:
    """The confidence of highest F1 over all classes together, and of each class.

    Detections of equal score are kept or dropped together; of confidences of equal F1 the highest is taken. A
    detection on a crowd is neither correct nor a false alarm. Over all classes, detections and objects are counted,
    not classes: frequent ones decide.
    """
    objects, judged = o.counts(o.objects).tolist(), ~match.ignored
    whole, *parts = (np.flatnonzero(judged), *by_class(o.label, judged, len(objects)))
    return best_confidence(o.score[whole], match.correct[whole], sum(objects)), [
        best_confidence(o.score[rows], match.correct[rows], n) for rows, n in zip(parts, objects)
    ]


def operating_point(index: DetectionIndex, results: Results) -> OperatingPoint | None:
    """The confidence of the highest F1 over all classes together, at IoU 0.5; None where nothing is found.

    It lies half way to the next detection, so that rounding loses none.
    """
    o = overlaps(index, results)
    match = o.match()
    at, *figures = best_confidences(o, match)[0].values()
    if at is None:
        return None
    score = o.score[~match.ignored]
    return OperatingPoint((at + float(np.append(score[score < at], 0.0)[0])) / 2, *figures)  # type: ignore[arg-type]


def best_confidence(scores: Floats, correct: Bools, objects: int) -> Operating:
    """Where F1 is highest, for detections [D] of falling score of which these are correct."""
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
    found = np.cumsum(correct)[last]
    if objects == 0 or not found.any():
        return NOWHERE
    kept = last + 1
    f1 = 2 * found / (kept + objects)
    best = int(f1.argmax())
    return {
        "conf": float(scores[last[best]]),
        "f1": float(f1[best]),
        "precision": float(found[best] / kept[best]),
        "recall": float(found[best] / objects),
    }
