"""All images at once match as pycocotools does one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cledet.evaluation import matching
from cledet.evaluation.bootstrap import match
from cledet.evaluation.matching import best_of_group, groups_of, match_coco, order_of, overlapping


@pytest.fixture
def case(request, make_index):
    """Objects, crowds and detections of two classes, most of them near an object, many of equal score."""
    rng = np.random.default_rng(request.param)

    def box():
        return [*rng.integers(0, 20, 2), *rng.integers(0, 12, 2)]

    images = [[(rng.integers(0, 2), *box()) for _ in range(rng.integers(0, 6))] for _ in range(5)]
    count = sum(map(len, images))
    index = make_index(*images, ignore=np.flatnonzero(rng.random(count) < 0.3))
    index = replace(index, category_ids=np.array([9, 4]), image_ids=rng.permutation(np.arange(5) * 7 + 2))
    home = index.image_ids[index.image_of_boxes()]
    ids = index.category_ids[index.labels]
    near = [(i, *(box + rng.integers(-1, 2, 4)), 0, k) for i, box, k in zip(home, index.xywh, ids)]
    stray = [(rng.choice(index.image_ids), *box(), 0, rng.choice([9, 4])) for _ in range(20)]
    results = rng.permutation(np.array(near * 4 + stray, dtype=float))
    results[:, 5] = rng.integers(0, 5, len(results)) / 4
    return index, results


def matched(index, results, max_det=100):
    group = groups_of(index, results)
    pairs = overlapping(index, results, group, 0.5)
    return match_coco(index, results, group, pairs, 0.5, max_det)


@pytest.mark.parametrize("case", range(30), indirect=True)
@pytest.mark.parametrize(("chunk", "table"), [(2**20, 2**24), (1, 0), (7, 10)])
def test_matches_are_those_of_pycocotools(case, monkeypatch, chunk, table):
    monkeypatch.setattr(matching, "CHUNK", chunk)
    monkeypatch.setattr(matching, "TABLE", table)
    index, results = case
    ours, theirs = matched(index, results), match(index, results)
    objects = np.bincount(index.labels[~index.ignore], minlength=2)
    assert len(theirs) == np.count_nonzero(objects)
    for label, wanted in zip((label for label in (1, 0) if objects[label]), theirs):  # by category id
        rows = np.flatnonzero(results[:, 6] == index.category_ids[label])
        rows = rows[np.lexsort((results[rows, 0], -results[rows, 5]))]  # as pycocotools puts images together
        np.testing.assert_array_equal(ours.ignored[rows], wanted.ignored[0])
        np.testing.assert_array_equal(ours.correct[rows], wanted.matched[0] & ~wanted.ignored[0])


def test_the_best_of_each_image_and_class_count_and_of_equals_the_first():
    group, scores = np.array([5, 5, 2, 5, 5, 2]), np.array([0.5, 0.9, 0.1, 0.5, 0.5, 0.2])
    assert best_of_group(group, scores, 2).tolist() == [True, True, True, False, False, True]
    assert best_of_group(group, scores, 1).tolist() == [False, True, False, False, False, True]
    assert best_of_group(group[:0], scores[:0], 1).tolist() == []


def test_a_detection_beyond_the_limit_takes_no_object(make_index):
    index = make_index([(0, 0, 0, 10, 10)])
    results = np.array([(0, 50, 50, 10, 10, 0.9, 1), (0, 0, 0, 10, 10, 0.8, 1)], dtype=float)
    assert matched(index, results, 1).correct.tolist() == [False, False]
    assert matched(index, results, 2).iou.tolist() == [0, 1]


def test_crowds_are_never_used_up_and_objects_come_first(make_index):
    index = make_index([(0, 0, 0, 40, 40), (0, 0, 0, 10, 10)], ignore=[0])
    inside = [(0, 0, 0, 10, 10, score, 1) for score in (0.9, 0.8, 0.7)]
    found = matched(index, np.array(inside, dtype=float))
    assert found.correct.tolist() == [True, False, False]
    assert found.ignored.tolist() == [False, True, True]


def test_of_objects_of_equal_iou_the_last_is_taken(make_index):
    """So the first is left for the second detection, which lies on it."""
    index = make_index([(0, 0, 0, 10, 10), (0, 2, 0, 10, 10)])
    found = matched(index, np.array([(0, 1, 0, 10, 10, 0.9, 1), (0, 0, 0, 10, 10, 0.8, 1)], dtype=float))
    assert found.iou.tolist() == [90 / 110, 1]


def test_order_is_by_score_and_then_as_given():
    order = order_of(np.array([0.1, 0.5, 0.5, 0.9]), np.array([2, 0, 2, 0]), 3)
    assert order.all.tolist() == [3, 1, 2, 0]
    assert [rows.tolist() for rows in order.by_class] == [[3, 1], [], [2, 0]]
