"""The best F1 is that of a search through all thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.metrics.coco import evaluate
from cledet.metrics.confidence import NOWHERE, best_confidence, operating_point, operating_points
from cledet.metrics.matching import overlaps


def searched(scores, correct, objects):
    """The highest threshold of the best F1, one after the other."""
    best = (0.0, None)
    for threshold in sorted(set(scores.tolist()), reverse=True):
        hits, kept = correct[scores >= threshold].sum(), (scores >= threshold).sum()
        f1 = 2 * hits / (kept + objects)
        if f1 > best[0]:
            best = (f1, threshold, hits / kept, hits / objects)
    return best


@pytest.mark.parametrize("seed", range(40))
def test_the_threshold_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.integers(0, 6, rng.integers(1, 30)) / 5)
    correct = rng.random(len(scores)) < 0.3
    objects = int(correct.sum() + rng.integers(1, 5))
    found = best_confidence(scores, correct, objects)
    wanted = searched(scores, correct, objects)
    if wanted[1] is None:
        assert found == NOWHERE
    else:
        assert (found["f1"], found["conf"], found["precision"], found["recall"]) == wanted


def test_equal_scores_are_kept_together_and_of_equal_f1_the_highest_score_is_taken():
    scores, correct = np.array([0.9, 0.5, 0.5, 0.2]), np.array([True, False, True, False])
    assert best_confidence(scores, correct, 2) == {"conf": 0.5, "f1": 0.8, "precision": 2 / 3, "recall": 1.0}
    equal = best_confidence(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, False, True]), 2)
    assert (equal["conf"], equal["f1"]) == (0.9, 2 / 3)
    assert best_confidence(scores, correct, 0) == best_confidence(scores[:0], correct[:0], 3) == NOWHERE


def test_all_classes_are_counted_together_and_crowds_not(make_index):
    """Class 1: one of one found at 0.9. Class 2: one of two at 0.3, beside two on a crowd and two false alarms."""
    boxes = [(0, 0, 0, 10, 10), (1, 20, 0, 10, 10), (1, 40, 0, 10, 10), (1, 60, 0, 20, 20)]
    index = make_index(boxes, ignore=[3])
    rows = [(0, 0.9, 1), (20, 0.3, 2), (60, 0.8, 2), (60, 0.7, 2), (85, 0.2, 2), (85, 0.6, 1)]
    found = evaluate(index, np.array([(0, x, 0, 10, 10, score, category) for x, score, category in rows]))
    assert found.per_class["cat"]["conf"] == 0.9
    assert [found.per_class["dog"][key] for key in ("conf", "f1", "precision", "recall")] == [0.3, 2 / 3, 1.0, 0.5]
    assert found.best == {"conf": 0.3, "f1": 4 / 6, "precision": 2 / 3, "recall": 2 / 3}


def test_the_operating_point_by_hand(make_index):
    """Three objects; found at 0.9 and 0.5, false at 0.8 and 0.3: F1 is 2/4, 2/5, 4/6, 4/7."""
    index = make_index([(0, 0, 0, 10, 10), (0, 50, 50, 10, 10)], [(1, 0, 0, 10, 10)], image_ids=np.array([1, 2]))
    cat, dog = index.category_ids
    results = np.array(
        [
            (1, 0, 0, 10, 10, 0.9, cat),
            (1, 20, 20, 10, 10, 0.8, cat),
            (2, 0, 0, 10, 10, 0.5, dog),
            (2, 30, 30, 10, 10, 0.3, dog),
        ]
    )
    assert operating_point(index, results) == pytest.approx((0.4, 2 / 3, 2 / 3, 2 / 3))
    assert operating_point(index, results[:1]) == pytest.approx((0.45, 0.5, 1, 1 / 3))
    assert operating_point(index, results[1:2]) is operating_point(index, results[:0]) is None
    without_dogs = index.subset([0])
    of_dogs = np.array([(1, 0, 0, 10, 10, 0.95, dog)] * 3)
    found = operating_point(without_dogs, np.concatenate([of_dogs, results[:1]]))  # dogs: false alarms
    assert found == pytest.approx((0.45, 2 / 6, 1 / 4, 1 / 2))


@pytest.mark.parametrize("seed", range(4))
def test_no_other_operating_point_is_better(scattered, seed):
    """Scores in tenths, so that many are equal."""
    index, results = scattered(8, seed)
    results[:, 5] = results[:, 5].round(1)
    found = operating_point(index, results)
    o = overlaps(index, results)
    match = o.match()

    def f1(confidence):
        left = (o.score > confidence) & ~match.ignored
        return 2 * (left & match.correct).sum() / (left.sum() + o.objects.sum())

    assert found.f1 == pytest.approx(f1(found.confidence))
    assert found.f1 == pytest.approx(max(f1(confidence) for confidence in np.arange(0, 1, 0.05)))


def test_the_operating_points_of_the_classes_by_hand(make_index):
    """Cat: one of one at 0.9, false at 0.4. Dog: one of two at 0.6, nothing below."""
    boxes = [(0, 0, 0, 10, 10), (1, 20, 0, 10, 10), (1, 40, 0, 10, 10)]
    index = make_index(boxes)
    cat, dog = index.category_ids
    rows = [(0, 0.9, cat), (70, 0.4, cat), (20, 0.6, dog)]
    results = np.array([(0, x, 0, 10, 10, score, category) for x, score, category in rows])
    overall, each = operating_points(index, results)
    assert overall == operating_point(index, results) == pytest.approx((0.5, 0.8, 1.0, 2 / 3))
    assert each == [pytest.approx((0.65, 1.0, 1.0, 1.0)), pytest.approx((0.3, 2 / 3, 1.0, 0.5))]
    assert operating_points(index, results[1:2]) == (None, [None, None])
