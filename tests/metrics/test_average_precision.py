"""Average precision from ranks."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.metrics.average_precision import RECALLS, ap_of_ranks, precision_at


def test_worked_by_hand():
    """Two of four objects, in places 1 and 4: precision 1 up to recall 0.25, which is 26 of 101 recalls, then 1/2."""
    ranks = np.array([1, 4])
    assert ap_of_ranks(ranks, 4) == pytest.approx((26 + 25 / 2) / 101, abs=1e-15)
    assert precision_at(ranks, 4) == pytest.approx([1.0] * 26 + [0.5] * 25 + [0.0] * 50, abs=1e-15)
    assert ap_of_ranks(ranks[:0], 4) == 0
    assert precision_at(ranks[:0], 4).tolist() == [0.0] * 101


def test_both_are_the_same_area():
    rng = np.random.default_rng(0)
    for objects in rng.integers(1, 300, 50).tolist():
        ranks = np.sort(rng.choice(3 * objects, rng.integers(0, objects + 1), replace=False)) + 1
        assert precision_at(ranks, objects).mean() == pytest.approx(ap_of_ranks(ranks, objects), abs=1e-14)
        assert precision_at(ranks, objects).shape == RECALLS.shape
