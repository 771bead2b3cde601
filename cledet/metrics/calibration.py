"""Calibration of confidence: of the detections with confidence 0.7, seven of ten should be true positives.

True positives are matched at IoU 0.5; ignored detections and missed objects have no effect. The expected calibration
error (ECE) is the mean over bins of |precision - mean confidence|, weighted by the detections of a bin. There are 10
bins, either of equal width from 0 to 1 or of equal count.

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
    """Reliability diagram and its error."""

    count: Ints
    """[10] detections per bin of equal width."""
    confidence: Floats
    """[10] mean confidence per bin, nan if empty."""
    precision: Floats
    """[10] precision per bin, nan if empty."""
    ece: float
    """ECE over bins of equal width."""
    ece_mass: float
    """ECE over bins of equal count."""
    bias: float
    """Mean confidence minus precision over all detections: positive for overconfident scores."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        means = [[None if v != v else v for v in values.tolist()] for values in (self.confidence, self.precision)]
        bins = {"count": self.count.tolist(), "confidence": means[0], "precision": means[1]}
        return {"ECE": self.ece, "ECE_equal_mass": self.ece_mass, "bias": self.bias, "bins": bins}


def calibration(o: Overlaps, match: Match, floor: float = 0.0) -> Calibration | None:
    """Compute the calibration of detections of at least that score; None without any or for scores outside [0, 1]."""
    chosen = ~match.ignored & (o.score >= floor)
    if not chosen.any() or o.score.min() < 0 or o.score.max() > 1:
        return None
    score, correct = o.score[chosen], match.correct[chosen]
    count, confidence, precision = _bins(np.minimum((score * BINS).astype(np.int64), BINS - 1), score, correct)
    mass = _bins(np.arange(len(score)) * BINS // len(score), score, correct)
    bias = float(score.mean() - correct.mean())
    return Calibration(count, confidence, precision, _error(count, confidence, precision), _error(*mass), bias)


def _bins(number: Ints, score: Floats, correct: Bools) -> tuple[Ints, Floats, Floats]:
    """Return count, mean score and precision of each bin; number [D] is the bin of each detection."""
    count = np.bincount(number, minlength=BINS)
    sums = (np.bincount(number, weights=values, minlength=BINS) for values in (score, correct))
    confidence, precision = (np.divide(s, count, out=np.full(BINS, np.nan), where=count > 0) for s in sums)
    return count, confidence, precision


def _error(count: Ints, confidence: Floats, precision: Floats) -> float:
    return float(np.nansum(count * np.abs(precision - confidence)) / count.sum())
