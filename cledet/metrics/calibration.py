"""Calibration: whether of the detections with confidence 0.7 seven of ten are right.

Right means matched with an object of the class at IoU 0.5; ignored detections do not count; objects that no detection
found do not show. The expected calibration error is the mean over bins of |precision - mean confidence|, weighted by
how many detections a bin has: over 10 bins of equal width from 0 to 1, or over 10 of equally many detections.

Source: Küppers et al., Multivariate Confidence Calibration for Object Detection, CVPR Workshops 2020: D-ECE for the
confidence alone, without box position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cledet.data.index import Bools, Floats, Ints
from cledet.metrics.matching import Match, Overlaps

BINS = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """The reliability diagram and its error."""

    count: Ints
    """[10] detections of each bin of equal width."""
    confidence: Floats
    """[10] their mean confidence, nan where there are none."""
    precision: Floats
    """[10] the share of them that is right, nan where there are none."""
    ece: float
    """Over the bins of equal width."""
    ece_mass: float
    """Over bins of equally many detections."""
    bias: float
    """Mean confidence less precision of all: over 0, scores promise too much."""

    def to_dict(self) -> dict[str, Any]:
        """The figures and the bins."""
        known = self.count > 0
        columns = {"count": self.count.tolist()} | {
            name: [float(v) if there else None for v, there in zip(values, known)]
            for name, values in (("confidence", self.confidence), ("precision", self.precision))
        }
        return {"ECE": self.ece, "ECE_equal_mass": self.ece_mass, "bias": self.bias, "bins": columns}


def calibration(o: Overlaps, match: Match, floor: float = 0.0) -> Calibration | None:
    """Of the detections that score `floor` or more; None where there are none or scores lie outside 0 to 1."""
    chosen = ~match.ignored & (o.score >= floor)
    if not chosen.any() or o.score.min() < 0 or o.score.max() > 1:
        return None
    score, correct = o.score[chosen], match.correct[chosen]
    count, confidence, precision = _bins(np.minimum((score * BINS).astype(np.int64), BINS - 1), score, correct)
    mass = _bins(np.arange(len(score)) * BINS // len(score), score, correct)
    bias = float(score.mean() - correct.mean())
    return Calibration(count, confidence, precision, _error(count, confidence, precision), _error(*mass), bias)


def _bins(place: Ints, score: Floats, correct: Bools) -> tuple[Ints, Floats, Floats]:
    """How many are in each bin, their mean score and precision."""
    count = np.bincount(place, minlength=BINS)
    sums = (np.bincount(place, weights=values, minlength=BINS) for values in (score, correct))
    confidence, precision = (np.divide(s, count, out=np.full(BINS, np.nan), where=count > 0) for s in sums)
    return count, confidence, precision


def _error(count: Ints, confidence: Floats, precision: Floats) -> float:
    return float(np.nansum(count * np.abs(precision - confidence)) / count.sum())
