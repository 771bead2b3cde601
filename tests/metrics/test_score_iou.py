"""Rank correlation by hand and by the textbook; detections whose candidates are not known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cledet.metrics.coco import centered_ranks, evaluate, ranks, spearman, spearman_by_group


def test_ranks_are_shared_by_equal_values():
    assert ranks(np.array([10.0, 20.0, 20.0, 5.0])).tolist() == [2, 3.5, 3.5, 1]
    assert ranks(np.zeros(0)).tolist() == []


def test_spearman_by_hand():
    """Ranks less their mean: -2 -1 0 1 2 and -2 -1 0.5 2 0.5; products 8, squares 10 and 9.5."""
    a, b = np.array([1.0, 2, 3, 4, 5]), np.array([5.0, 6, 7, 8, 7])
    assert spearman(a, b) == pytest.approx(8 / 95**0.5)
    assert spearman(a, a**3) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5, 0.5]])
def test_spearman_of_too_little_is_none(values):
    a = np.array(values)
    assert spearman(a, np.arange(len(a), dtype=float)) is None
    assert spearman(np.arange(len(a), dtype=float), a) is None


@given(st.permutations(range(8)))
def test_spearman_without_ties_is_the_textbook_formula(order):
    a, b = np.arange(8.0), np.array(order, dtype=float)
    assert spearman(a, b) == pytest.approx(1 - 6 * ((a - b) ** 2).sum() / (8 * 63), abs=1e-12)


def test_groups_are_ranked_and_correlated_one_by_one():
    """Groups in disorder, with ties within and across them; one is empty, one has one value, one is constant."""
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat([0, 2, 3, 4, 5], [30, 1, 9, 5, 200]))
    a, b = rng.integers(0, 6, (2, len(group))) * 0.1
    a[group == 4] = 0.3
    found = spearman_by_group(a, b, group, 6)
    wanted = [spearman(a[group == k], b[group == k]) for k in range(6)]
    assert [value is None for value in wanted] == [False, True, True, False, True, False]
    assert found == pytest.approx([np.nan if value is None else value for value in wanted], abs=1e-12, nan_ok=True)
    for k in range(6):
        own = group == k
        assert centered_ranks(a, group, 6)[own].tolist() == (ranks(a[own]) - (own.sum() + 1) / 2).tolist()


def test_no_groups():
    nothing, of = np.zeros(0), np.zeros(0, dtype=np.int64)
    assert spearman_by_group(nothing, nothing, of, 0).tolist() == []
    assert np.isnan(spearman_by_group(nothing, nothing, of, 2)).tolist() == [True, True]


def test_results_in_any_order(make_index):
    """Of the two on the object the better score is matched, though it lies worse: 0.8; the other image has 0.625."""
    index = make_index([(0, 0, 0, 10, 10)], [(0, 0, 0, 10, 10)])
    results = np.array(
        [[0.0, 0, 0, 10, 10, 0.3, 1], [1, 0, 0, 10, 6.25, 0.95, 1], [0, 0, 0, 10, 8, 0.9, 1], [0, 0, 0, 10, 10, 1, 2]]
    )
    found = evaluate(index, results, correlation=True).misalignment
    assert found == pytest.approx({"spearman": -1, "kept_iou": (0.8 + 0.625) / 2})
    assert evaluate(index, np.zeros((0, 7)), correlation=True).misalignment == {
        "spearman": None,
        "kept_iou": None,
    }
