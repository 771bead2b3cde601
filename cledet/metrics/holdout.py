"""Gain of the best of many settings on held-out images.

The metric of the best of many settings is biased upward on the split where it was chosen. So the setting is chosen on a
random half of the images and evaluated on the other half, in both directions, many times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cledet.data.index import Floats
from cledet.metrics.bootstrap import Weights


class HeldOut(NamedTuple):
    """Gains over the first setting on held-out halves."""

    gain: float
    """Mean gain; nan without halves."""
    better: int
    """Halves on which the chosen setting is better than the first."""
    halves: int
    """Number of halves."""


def halves(images: int, repeats: int, seed: int = 0) -> Weights:
    """Draw random halves, each followed by its complement, as masks [I, 2 * repeats] of 0 and 1."""
    rng = np.random.default_rng(seed)
    chosen = np.array([rng.permutation(images) < images // 2 for _ in range(repeats)]).reshape(repeats, images)
    return np.ascontiguousarray(np.stack([chosen, ~chosen], axis=1).reshape(2 * repeats, images).T, dtype=np.int32)


def held_out(metrics: Floats) -> HeldOut:
    """Compute the held-out gain over the first setting from the metric [S, 2 * repeats] of S settings on `halves`.

    Of equal settings the first is chosen; halves without objects are left out.
    """
    metrics = metrics[:, ~np.isnan(metrics).any(axis=0).reshape(-1, 2).any(axis=1).repeat(2)]
    columns = np.arange(metrics.shape[1])
    gains = (metrics - metrics[0])[metrics.argmax(axis=0), columns ^ 1]
    return HeldOut(float(gains.mean()) if len(gains) else np.nan, int((gains > 0).sum()), len(gains))
