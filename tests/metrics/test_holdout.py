"""Held-out gains by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.metrics.bootstrap import halves, held_out


@pytest.mark.parametrize("images", [0, 1, 7, 10])
def test_each_half_is_followed_by_its_complement(images):
    weights = halves(images, 4, seed=3)
    assert weights.shape == (images, 8)
    np.testing.assert_array_equal(weights[:, ::2] + weights[:, 1::2], 1)
    np.testing.assert_array_equal(weights[:, ::2].sum(axis=0), images // 2)
    np.testing.assert_array_equal(weights, halves(images, 4, seed=3))


def test_halves_differ():
    assert len(np.unique(halves(20, 5), axis=1).T) == 10


def test_the_choice_is_evaluated_on_the_other_half():
    """Halves a and b: on a the second setting leads and loses 2 on b, there the third leads and gains 1 on a."""
    figures = np.array([[1.0, 5.0], [9.0, 3.0], [2.0, 6.0]])
    found = held_out(figures)
    assert found.gain == pytest.approx((-2 + 1) / 2)
    assert (found.better, found.halves) == (1, 2)


def test_equal_settings_gain_nothing():
    assert held_out(np.full((3, 4), 0.5)) == (0.0, 0, 4)


def test_a_pair_with_a_half_without_objects_is_left_out():
    figures = np.array([[1.0, np.nan, 1.0, 1.0], [2.0, np.nan, 3.0, 2.0]])
    assert held_out(figures) == (1.5, 2, 2)
    assert np.isnan(held_out(np.full((2, 2), np.nan)).gain)


def test_the_best_of_many_random_settings_gains_nothing_held_out():
    """Two hundred settings of pure noise: the best has a lead of two and more, held out it is nothing."""
    noise = np.random.default_rng(0).normal(size=(200, 400))
    noise[0] = 0
    found = held_out(noise)
    assert (noise.max(axis=0)).mean() > 2
    assert abs(found.gain) < 0.15
