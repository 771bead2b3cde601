"""At which score to cut detections off where they are used: the confidence of the best F1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cledet.evaluation.bootstrap import Matches


class OperatingPoint(NamedTuple):
    """What is left of the detections whose score is over `confidence`."""

    confidence: float
    f1: float
    precision: float
    recall: float


def best_f1(classes: Sequence[Matches]) -> OperatingPoint | None:
    """The confidence of the highest F1 over all classes together, at the first IoU threshold of the matches.

    Detections of classes without objects do not count. The confidence lies half way to the next detection, so that
    rounding loses none. None where nothing is found.
    """
    objects = sum(int(matches.objects.sum()) for matches in classes)
    scores = np.concatenate([matches.scores[~matches.ignored[0]] for matches in classes] or [np.zeros(0)])
    correct = np.concatenate([matches.matched[0][~matches.ignored[0]] for matches in classes] or [np.zeros(0, bool)])
    if not objects or not correct.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], correct[order].cumsum()
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of equal scores all or none are over a confidence
    f1 = 2 * found[last] / (last + 1 + objects)
    best = int(f1.argmax())
    at = last[best]
    below = scores[at + 1] if at + 1 < len(scores) else 0.0
    count = int(found[at])
    return OperatingPoint(float(scores[at] + below) / 2, float(f1[best]), count / (at + 1), count / objects)
