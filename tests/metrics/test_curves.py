"""Precision, recall and F1 by hand; the area under precision over recall is AP50."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.metrics.average_precision import class_ap
from cledet.metrics.confidence import best_confidences
from cledet.metrics.curves import curves
from cledet.metrics.matching import overlaps


def at(found, confidence):
    return int(np.argmin(np.abs(found.confidence - confidence)))


def test_by_hand(make_index):
    """Two cats and a dog; right at 0.9, wrong at 0.6, right at 0.3; and a wrong dog at 0.5."""
    a, b = (0, 0, 20, 20), (40, 0, 20, 20)
    index = make_index([(0, *a), (0, *b), (1, 0, 50, 20, 20)], classes=("cat", "dog", "cow"))
    rows = [[0, *a, 0.9, 1], [0, 70, 50, 9, 9, 0.6, 1], [0, *b, 0.3, 1], [0, 70, 50, 9, 9, 0.5, 2]]
    o = overlaps(index, np.array(rows))
    found = curves(o, o.match())
    cat, dog, cow, whole = range(4)
    step = at(found, 0.6)  # a detection of just that confidence is shown
    assert (found.precision[cat, step], found.recall[cat, step], found.f1[cat, step]) == (0.5, 0.5, 0.5)
    assert found.f1[cat, at(found, 0.61)] == pytest.approx(2 / 3)
    assert found.f1[cat, at(found, 0.3)] == pytest.approx(4 / 5)
    assert found.recall[dog].max() == 0
    assert np.isnan(found.precision[cat, at(found, 0.95)])
    assert np.isnan(found.f1[cow]).all()
    assert found.f1[whole, at(found, 0.3)] == pytest.approx(4 / 7)
    step = at(found, 0.3)
    assert 0.3 in found.confidence
    assert (found.precision[whole, step], found.recall[whole, step], found.f1[whole, step]) == (0.5, 2 / 3, 4 / 7)
    assert found.objects.tolist() == [2, 1, 0, 3]


@pytest.mark.parametrize("seed", range(3))
def test_area_is_ap50(random_split, seed):
    index, results = random_split(seed)
    o = overlaps(index, results)
    match = o.match()
    found = curves(o, match)
    ap = class_ap(o.label, match.correct, match.ignored, o.counts(o.objects))
    np.testing.assert_allclose(found.precision_at[:-1].mean(axis=1), ap, atol=1e-12)
    counted = ~match.ignored
    for step in (0, 250, 500):
        shown = counted & (o.score >= found.confidence[step])
        assert found.shown[-1, step] == shown.sum() == found.shown[:-1, step].sum()
        assert found.right[-1, step] == (shown & match.correct).sum()


def test_scores_outside_0_to_1_widen_the_axis(make_index):
    o = overlaps(make_index([(0, 0, 0, 9, 9)]), np.array([[0, 0, 0, 9, 9, 7.5, 1], [0, 0, 0, 9, 9, -2, 1]]))
    found = curves(o, o.match())
    assert (found.confidence[0], found.confidence[-1]) == (-2, 7.5)
    assert found.f1[0].max() == 1


def test_nothing(make_index):
    o = overlaps(make_index([]), np.zeros((0, 7)))
    found = curves(o, o.match())
    assert (found.confidence[0], found.confidence[-1]) == (0, 1)
    assert np.isnan([found.precision[-1], found.recall[-1], found.f1[-1]]).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_best_is_that_of_the_tables(random_split, seed):
    """As `best_confidences` finds it, to the bit, of all together and of each class."""
    o = overlaps(*random_split(seed))
    found, (whole, each) = curves(o, o.match()), best_confidences(o, o.match())
    assert whole["f1"] > 0
    for row, wanted in enumerate((*each, whole)):
        f1 = np.nan_to_num(found.f1[row])
        if wanted["conf"] is None:
            assert not f1.any()
            continue
        step = int(np.flatnonzero(f1 == f1.max())[-1])
        assert found.confidence[step] == wanted["conf"]
        assert (found.f1[row, step], found.precision[row, step], found.recall[row, step]) == (
            wanted["f1"], wanted["precision"], wanted["recall"],
        )  # fmt: skip
