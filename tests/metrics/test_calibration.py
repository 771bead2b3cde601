"""The expected calibration error by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.metrics.calibration import calibration
from cledet.metrics.matching import overlaps


def split(make_index, *scores, right=()):
    """Detections of these scores, one an image; those in `right` lie on an object."""
    index = make_index(*[[(0, 0, 0, 10, 10)]] * len(scores))
    o = overlaps(index, np.array([[i, 60 * (i not in right), 0, 10, 10, s, 1] for i, s in enumerate(scores)]))
    return o, o.match()


def test_by_hand(make_index):
    """From 0.7 one of two is right at 0.75 on average, from 0.9 both are at 0.95, from 0.1 none."""
    found = calibration(*split(make_index, 0.7, 0.8 - 1e-9, 0.9, 1.0, 0.1, right=(0, 2, 3)))
    assert found.count.tolist() == [0, 1, 0, 0, 0, 0, 0, 2, 0, 2]
    assert found.precision[[1, 7, 9]].tolist() == [0, 0.5, 1]
    assert found.confidence[7] == pytest.approx(0.75)
    assert found.ece == pytest.approx((2 * 0.25 + 2 * 0.05 + 0.1) / 5)
    assert found.ece_mass == pytest.approx((0.3 + 0.8 + 0.1 + 0 + 0.1) / 5)  # each by itself
    assert found.bias == pytest.approx(3.5 / 5 - 3 / 5)
    assert found.to_dict()["bins"]["precision"][:2] == [None, 0]


def test_equal_mass(make_index):
    """20 detections: bins of two by score, whatever the scores are."""
    scores = np.linspace(0.91, 0.99, 20)
    found = calibration(*split(make_index, *scores, right=range(10)))
    assert found.count.tolist() == [0] * 9 + [20]
    assert found.ece == pytest.approx(abs(scores.mean() - 0.5))
    low, high = scores[:10].sum(), scores[10:].sum()
    assert found.ece_mass == pytest.approx((10 - low + high) / 20)


def test_only_those_from_a_confidence_on(make_index):
    assert calibration(*split(make_index, 0.2, 0.8, right=(1,)), 0.8).ece == pytest.approx(0.2)


def test_ignored_ones_do_not_count(make_index):
    index = make_index([(0, 0, 0, 40, 40)], ignore=[0])
    o = overlaps(index, np.array([[0, 0, 0, 10, 10, 0.9, 1], [0, 60, 60, 10, 10, 0.4, 1]]))
    assert calibration(o, o.match()).count.sum() == 1


def test_there_is_none(make_index):
    assert calibration(*split(make_index, 0.4, 1.5)) is None
    assert calibration(*split(make_index, 0.4, -0.5)) is None
    assert calibration(*split(make_index, 0.4), 0.5) is None
