"""Precision, recall and F1 over the confidence threshold, and precision over recall, at IoU 0.5.

There is a curve per class, and one of the detections and objects of all classes. Ignored detections do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cledet.data.index import Bools, Floats, Ints
from cledet.metrics.average_precision import RECALLS, envelope
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

    def best(self, row: int = -1) -> int:
        """Return the step of the highest F1 of a row, of equal F1 the last; the first where F1 is 0 everywhere."""
        f1 = np.nan_to_num(self.f1[row])
        return int(np.flatnonzero(f1 == f1.max())[-1]) if f1.any() else 0


def curves(o: Overlaps, match: Match) -> Curves:
    """Compute the curves of a split; `match` is that at IoU 0.5."""
    correct, counted = match.correct, ~match.ignored
    low, high = (float(f(o.score, initial=start)) for f, start in ((np.min, 0.0), (np.max, 1.0)))
    overall, each = best_confidences(o, match)
    exact = [best["conf"] for best in (overall, *each) if best["conf"] is not None]
    confidence = np.unique(np.append(np.linspace(low, high, STEPS + 1), exact))
    objects = o.counts(o.objects)
    rows = []
    precisions = []
    groups = (*by_class(o.label, counted, len(objects)), np.flatnonzero(counted))
    for own, count in zip(groups, (*objects.tolist(), int(objects.sum()))):
        rows.append(_counts(o.score[own], correct[own], confidence))
        precisions.append(_precision_at(correct[own], count))
    right, shown = (np.stack(column) for column in zip(*rows))
    return Curves(confidence, right, shown, np.append(objects, objects.sum()), np.stack(precisions))


def _counts(score: Floats, correct: Bools, confidence: Floats) -> tuple[Ints, Ints]:
    """Count true positives and detections from each confidence on; scores are in falling order."""
    shown = np.searchsorted(-score, -confidence, side="right")
    return np.concatenate([[0], correct.cumsum()])[shown], shown


def _precision_at(correct: Bools, objects: int) -> Floats:
    """Compute the interpolated precision [101]; nan without objects."""
    if not objects:
        return np.full(len(RECALLS), np.nan)
    ranks = np.flatnonzero(correct) + 1
    true_positives = np.arange(1, len(ranks) + 1)
    at = np.searchsorted(true_positives / objects, RECALLS, side="left")
    return np.append(envelope(true_positives / ranks), 0.0)[at]
