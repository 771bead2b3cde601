"""How well scores say how well boxes lie; `cledet.evaluation.misalignment` says how to read it."""

from __future__ import annotations

from typing import Any

import numpy as np

from cledet.data.index import Floats
from cledet.metrics.average_precision import mean


def agreement(matched: Floats) -> dict[str, Any]:
    """`spearman` and `kept_iou` of score and IoU [n, 2]."""
    return {"spearman": spearman(matched[:, 0], matched[:, 1]), "kept_iou": mean(matched[:, 1])}


def spearman(a: Floats, b: Floats) -> float | None:
    """Spearman's rank correlation of two columns [n]; None for fewer than two, or where all values of one are equal."""
    x, y = (ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread else None


def ranks(values: Floats) -> Floats:
    """The ranks [n] from 1, lowest first; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: Floats = (counts.cumsum() - (counts - 1) / 2)[place]
    return shared
