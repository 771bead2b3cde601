"""What choosing the best of many settings gains on images that had no part in the choice.

The best of many on one split owes some of its lead to chance, and its interval there does not know that it was chosen.
So: choose on half of the images, measure on the other half, both ways round, many times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cledet.data.index import Floats
from cledet.metrics.bootstrap import Weights


class HeldOut(NamedTuple):
    """Gains over the first setting on the halves that the choice did not see."""

    gain: float
    """Their mean; nan if nothing was measured."""
    better: int
    """In how many of them the chosen setting was ahead."""
    halves: int
    """How many there are."""


def halves(images: int, repeats: int, seed: int = 0) -> Weights:
    """[I, 2 * repeats] random halves, each beside the other half: 1 for its images, 0 for the rest."""
    rng = np.random.default_rng(seed)
    chosen = np.array([rng.permutation(images) < images // 2 for _ in range(repeats)]).reshape(repeats, images)
    return np.ascontiguousarray(np.stack([chosen, ~chosen], axis=1).reshape(2 * repeats, images).T, dtype=np.int32)


def held_out(figures: Floats) -> HeldOut:
    """From each setting's figure [S, 2 * repeats] on the `halves`, the first setting being what others must beat.

    Of settings that are equal on a half, the earliest is chosen; halves without any object are left out.
    """
    figures = figures[:, ~np.isnan(figures).any(axis=0).reshape(-1, 2).any(axis=1).repeat(2)]
    columns = np.arange(figures.shape[1])
    gains = (figures - figures[0])[figures.argmax(axis=0), columns ^ 1]
    return HeldOut(float(gains.mean()) if len(gains) else np.nan, int((gains > 0).sum()), len(gains))
