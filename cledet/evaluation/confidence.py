"""The confidence to cut detections at: where F1 is highest."""

from __future__ import annotations

import numpy as np

from cledet.data.index import Bools, DetectionIndex, Floats
from cledet.evaluation.matching import Matches, Order

Operating = dict[str, float | None]
"""`conf`, and with the detections of at least that score `f1`, `precision` and `recall`; None where F1 is 0."""

NOWHERE: Operating = dict.fromkeys(("conf", "f1", "precision", "recall"))


def best_confidences(
    index: DetectionIndex, scores: Floats, order: Order, matches: Matches
) -> tuple[Operating, list[Operating]]:
    """The confidence of highest F1 over all classes together, and of each class.

    Detections of equal score are kept or dropped together; of confidences of equal F1 the highest is taken. A
    detection on a crowd is neither correct nor a false alarm. Over all classes, detections and objects are counted,
    not classes: frequent ones decide.
    """
    objects = np.bincount(index.labels[~index.ignore], minlength=len(index.classes)).tolist()
    counts = matches.counted & ~matches.ignored
    whole, *parts = (rows[counts[rows]] for rows in (order.all, *order.by_class))
    return best_confidence(scores[whole], matches.correct[whole], sum(objects)), [
        best_confidence(scores[rows], matches.correct[rows], n) for rows, n in zip(parts, objects)
    ]


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
