"""Difference in AP between two ways of training, from several runs of each, paired by seed.

The runs differ by chance twice: by the seed of the training and by the images of the split. Both variances are
estimated and added, so the interval covers another seed and other images of the same kind:

- seeds: the variance of the differences of the pairs, divided by their number,
- images: the variance of the mean difference over bootstrap resamples of the images, the same for all runs.

The sum errs on the safe side, because the second part holds a share of the interaction of seeds and images that the
first part holds too. The interval is Student's, with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from cledet.data.index import Floats

POWER = 0.8
"""Power at which `SeedDifference.detectable` and `seeds_needed` are computed."""


class SeedDifference(NamedTuple):
    """Mean difference of AP over S pairs of runs, with its interval over seeds and images."""

    pairs: list[float]
    """[S] difference of each pair, second minus first."""
    value: float
    low: float
    high: float
    seed_deviation: float
    """Standard deviation of the pairs' differences."""
    image_error: float
    """Standard error of the mean difference over resamples of the images."""
    freedom: float
    """Degrees of freedom."""
    level: float
    """Confidence level of the interval."""

    @property
    def standard_error(self) -> float:
        """Standard error of the mean difference over seeds and images."""
        return math.hypot(self.seed_deviation / math.sqrt(len(self.pairs)), self.image_error)

    @property
    def conclusion(self) -> str:
        """Return "better", "worse" or "within the noise"."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "within the noise"

    @property
    def detectable(self) -> float:
        """The smallest true difference that a repetition of this experiment detects with a power of 80 %."""
        quantiles = student_quantile((1 + self.level) / 2, self.freedom) + student_quantile(POWER, self.freedom)
        return quantiles * self.standard_error

    def seeds_needed(self, effect: float) -> int | None:
        """Return the number of pairs that detect a difference with a power of 80 % on the same images.

        None if no number does, because the images alone vary too much. Half the squared quantile is added because the
        deviation is estimated (Guenther, The American Statistician 35, 1981).
        """
        quantile = student_quantile((1 + self.level) / 2, 1e9)
        left = (effect / (quantile + student_quantile(POWER, 1e9))) ** 2 - self.image_error**2
        return None if left <= 0 else math.ceil(self.seed_deviation**2 / left + quantile**2 / 2)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return {**self._asdict(), "conclusion": self.conclusion, "detectable": self.detectable}


def seed_difference(first: Floats, second: Floats, samples: Floats, images: int, level: float = 0.95) -> SeedDifference:
    """Compare the APs [S] of runs paired by seed, second minus first, with an interval of this confidence level.

    `samples` [R] are the mean differences of the pairs on resamples of the `images`; nan ones are dropped. Raises
    ValueError for fewer than two pairs.
    """
    pairs = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    if len(pairs) < 2:
        raise ValueError("a comparison over seeds needs at least two pairs of runs")
    seeds, resampled = pairs.var(ddof=1) / len(pairs), float(np.nanvar(samples, ddof=1))
    squares = seeds**2 / (len(pairs) - 1) + resampled**2 / max(images - 1, 1)
    freedom = float((seeds + resampled) ** 2 / squares) if squares > 0 else float(len(pairs) - 1)
    mean, width = float(pairs.mean()), student_quantile((1 + level) / 2, freedom) * math.sqrt(seeds + resampled)
    deviation, error = float(pairs.std(ddof=1)), math.sqrt(resampled)
    return SeedDifference(pairs.tolist(), mean, mean - width, mean + width, deviation, error, freedom, level)


def student_quantile(probability: float, freedom: float) -> float:
    """Compute a quantile of Student's distribution for at least 1 degree of freedom, with a relative error under 1e-6.

    The density is integrated by the trapezoidal rule over u, with t = sinh(u).
    """
    u = np.linspace(-20, 20, 40_001)
    density = np.exp(-(freedom + 1) / 2 * np.log1p(np.sinh(u) ** 2 / freedom)) * np.cosh(u)
    below = np.concatenate([[0.0], ((density[1:] + density[:-1]) / 2).cumsum()])
    return float(np.sinh(np.interp(probability, below / below[-1], u)))
