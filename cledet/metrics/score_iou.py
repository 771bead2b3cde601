"""Correlation of score and IoU; `cledet.evaluation.misalignment` explains its interpretation."""

from __future__ import annotations

from typing import Any

import numpy as np

from cledet.data.index import Floats
from cledet.metrics.average_precision import mean


def score_iou_correlation(matched: Floats) -> dict[str, Any]:
    """Compute `spearman` and `kept_iou` of score and IoU [n, 2]."""
    return {"spearman": spearman(matched[:, 0], matched[:, 1]), "kept_iou": mean(matched[:, 1])}


def spearman(a: Floats, b: Floats) -> float | None:
    """Compute Spearman's rank correlation of two columns [n]; None if n < 2 or a column is constant."""
    x, y = (ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread else None


def ranks(values: Floats) -> Floats:
    """Rank values [n] from 1, lowest first; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: Floats = (counts.cumsum() - (counts - 1) / 2)[place]
    return shared
