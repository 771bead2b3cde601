"""Precision, recall and F1 over the confidence threshold, and precision over recall, at IoU 0.5.

There is a curve per class, and one of the detections and objects of all classes. Ignored detections do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cledet.data.index import Bools, Floats, Ints
from cledet.metrics.average_precision import RECALLS, precision_at
from cledet.metrics.confidence import best_confidences
from cledet.metrics.matching import Match, Overlaps, by_class

STEPS = 1000
"""Equal steps of confidence; the confidences of highest F1 are added to them."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Curves over the confidences [S] and over COCO's 101 recalls; the last row of C + 1 is that of all classes."""

    confidence: Floats
    """[S] from 0 to 1, extended to scores outside."""
    right: Ints
    """[C + 1, S] true positives of at least this confidence."""
    shown: Ints
    """[C + 1, S] detections of at least this confidence without ignored ones."""
    objects: Ints
    """[C + 1]"""
    precision_at: Floats
    """[C + 1, 101] interpolated precision, 0 at recalls that are not reached; nan without objects."""

    @property
    def precision(self) -> Floats:
        """Compute precision [C + 1, S]; nan without detections."""
        return np.where(self.shown > 0, self.right / np.maximum(self.shown, 1), np.nan)

    @property
    def recall(self) -> Floats:
        """Compute recall [C + 1, S]; nan without objects."""
        objects = self.objects[:, None]
        return np.where(objects > 0, self.right / np.maximum(objects, 1), np.nan)

    @property
    def f1(self) -> Floats:
        """Compute F1 [C + 1, S] = 2 TP / (detections + objects); nan without objects."""
        objects = self.objects[:, None]
        return np.where(objects > 0, 2 * self.right / np.maximum(self.shown + objects, 1), np.nan)


def curves(o: Overlaps, match: Match) -> Curves:
    """Compute the curves of a split; `match` is that at IoU 0.5."""
    correct, counted = match.correct, ~match.ignored
    low, high = (float(f(o.score, initial=start)) for f, start in ((np.min, 0.0), (np.max, 1.0)))
    overall, each = best_confidences(o, match)
    exact = [best["conf"] for best in (overall, *each) if best["conf"] is not None]
    confidence = np.unique(np.append(np.linspace(low, high, STEPS + 1), exact))
    objects = o.counts(o.objects)
    objects = np.append(objects, objects.sum())
    rows = [*by_class(o.label, counted, len(objects) - 1), np.flatnonzero(counted)]
    right, shown = (
        np.stack(column) for column in zip(*(_counts(o.score[own], correct[own], confidence) for own in rows))
    )
    precision = np.full((len(rows), len(RECALLS)), np.nan)
    for k in np.flatnonzero(objects):
        precision[k] = precision_at(np.flatnonzero(correct[rows[k]]) + 1, int(objects[k]))
    return Curves(confidence, right, shown, objects, precision)


def _counts(score: Floats, correct: Bools, confidence: Floats) -> tuple[Ints, Ints]:
    """Count true positives and detections from each confidence on; scores are in falling order."""
    shown = np.searchsorted(-score, -confidence, side="right")
    return np.concatenate([[0], correct.cumsum()])[shown], shown
