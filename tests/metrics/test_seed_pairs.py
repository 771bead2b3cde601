"""Differences over seeds and images, by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cledet.metrics.seed_pairs import seed_difference, student_quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [
        (0.975, 1, 12.7062047362),
        (0.975, 2, 4.3026527297),
        (0.975, 5, 2.5705818356),
        (0.975, 30, 2.0422724563),
        (0.8, 3, 0.9784723124),
        (0.8, 1e9, 0.8416212336),
        (0.5, 4, 0),
        (0.025, 2, -4.3026527297),
    ],
)
def test_quantiles_of_student(probability, freedom, quantile):
    """The values of printed tables, and both limits: Cauchy and normal."""
    assert student_quantile(probability, freedom) == pytest.approx(quantile, rel=1e-5, abs=1e-5)


def test_by_hand():
    """Variances 0.0004 / 2 of the seeds and 0.0001 of the images."""
    one = seed_difference(np.array([0.40, 0.42]), np.array([0.44, 0.43]), np.array([0.015, 0.025, np.nan, 0.035]), 50)
    assert one.pairs == pytest.approx([0.04, 0.01])
    assert one.value == pytest.approx(0.025)
    assert one.seed_deviation == pytest.approx(math.sqrt(0.00045))
    assert one.image_error == pytest.approx(0.01)
    freedom = (0.000225 + 0.0001) ** 2 / (0.000225**2 / 1 + 0.0001**2 / 49)
    assert one.freedom == pytest.approx(freedom)
    width = student_quantile(0.975, freedom) * math.sqrt(0.000325)
    assert (one.low, one.high) == pytest.approx((0.025 - width, 0.025 + width))
    assert one.conclusion == "within the noise"
    assert one.standard_error == pytest.approx(math.sqrt(0.000325))
    assert one.detectable == pytest.approx(width + student_quantile(0.8, freedom) * math.sqrt(0.000325))


def test_a_higher_level_widens_the_interval():
    """And what can be detected with it, and the seeds that it needs."""
    given = np.zeros(3), np.array([0.01, 0.02, 0.03]), np.array([0.0, 0.001, 0.002]), 100
    one, wide = seed_difference(*given), seed_difference(*given, level=0.975)
    error = math.hypot(0.01 / math.sqrt(3), 0.001)
    assert one.high - one.value == pytest.approx(student_quantile(0.975, one.freedom) * error)
    assert wide.high - wide.value == pytest.approx(student_quantile(0.9875, one.freedom) * error)
    assert wide.detectable - one.detectable == pytest.approx(wide.high - one.high)
    left = (0.01 / (2.241403 + 0.841621)) ** 2 - 0.001**2
    assert wide.seeds_needed(0.01) == math.ceil(0.0001 / left + 2.241403**2 / 2)


def test_seeds_needed():
    """Without an error over images: 7.85 (deviation / effect)^2 + 2, as in sample-size tables; then with one."""
    pairs = np.array([0.0, 0.02])  # deviation 0.01414
    one = seed_difference(np.zeros(2), pairs, np.zeros(5), 100)
    assert one.seeds_needed(0.005) == math.ceil(7.8489 * 0.0002 / 0.005**2 + 1.9207)
    noisy = one._replace(image_error=0.005)
    assert noisy.seeds_needed(0.005) is None
    assert noisy.seeds_needed(0.05) == math.ceil(0.0002 / (0.05**2 / 7.8489 - 0.005**2) + 1.9207)


def test_equal_runs():
    one = seed_difference(np.full(3, 0.5), np.full(3, 0.5), np.zeros(10), 100)
    assert (one.value, one.low, one.high, one.conclusion) == (0, 0, 0, "within the noise")


def test_one_pair_is_refused():
    with pytest.raises(ValueError, match="at least two pairs"):
        seed_difference(np.zeros(1), np.ones(1), np.zeros(5), 100)


def test_the_interval_covers_the_truth():
    """Simulated seeds and images with interaction: 95 % intervals of a true difference of 0 miss it in about 5 %."""
    rng, missed, trials = np.random.default_rng(0), 0, 400
    for _ in range(trials):
        effects = rng.normal(0, 1, (4, 1)) + rng.normal(0, 5, (1, 60)) + rng.normal(0, 8, (4, 60))  # seeds x images
        weights = rng.multinomial(60, np.full(60, 1 / 60), 200)
        one = seed_difference(np.zeros(4), effects.mean(1), weights @ effects.mean(0) / 60, 60)
        missed += one.conclusion != "within the noise"
    assert 0.01 * trials <= missed <= 0.08 * trials
