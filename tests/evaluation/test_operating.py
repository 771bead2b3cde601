"""The best F1, by hand and against trying every confidence."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.evaluation.bootstrap import match
from cledet.evaluation.operating import best_f1


def test_by_hand(make_index):
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
    assert best_f1(match(index, results)) == pytest.approx((0.4, 2 / 3, 2 / 3, 2 / 3))
    assert best_f1(match(index, results[:1])) == pytest.approx((0.45, 0.5, 1, 1 / 3))
    assert best_f1(match(index, results[1:2])) is None
    assert best_f1(match(index, results[:0])) is None
    assert best_f1([]) is None


@pytest.mark.parametrize("seed", range(4))
def test_no_other_confidence_is_better(scattered, seed):
    """Scores in tenths, so that many are equal."""
    index, results = scattered(8, seed)
    results[:, 5] = results[:, 5].round(1)
    classes = match(index, results)
    found = best_f1(classes)
    objects = sum(matches.objects.sum() for matches in classes)

    def f1(confidence):
        left = [(matches.scores > confidence) & ~matches.ignored[0] for matches in classes]
        right = sum((kept & matches.matched[0]).sum() for kept, matches in zip(left, classes))
        return 2 * right / (sum(kept.sum() for kept in left) + objects)

    assert found.f1 == pytest.approx(f1(found.confidence))
    assert found.f1 == pytest.approx(max(f1(confidence) for confidence in np.arange(0, 1, 0.05)))
