"""Matching all at once is pycocotools' matching one by one, to the last detection."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.evaluation.average import class_ap, mean
from cledet.evaluation.bootstrap import match
from cledet.evaluation.coco import evaluate
from cledet.evaluation.overlaps import THRESHOLDS, overlaps

NOTHING = np.zeros((0, 7))


@pytest.mark.parametrize("seed", range(6))
def test_as_pycocotools_matches(random_split, seed):
    index, results = random_split(seed, images=6 + 3 * seed)
    o = overlaps(index, results)
    real = o.counts(o.objects)
    known = sorted(np.flatnonzero(real).tolist(), key=lambda k: index.category_ids[k])
    for t, threshold in enumerate(THRESHOLDS):
        found = o.match(threshold)
        for k, theirs in zip(known, match(index, results)):
            own = o.label == k
            assert index.image_ids[o.image[own]].tolist() == index.image_ids[theirs.images].tolist()
            np.testing.assert_array_equal(found.ignored[own], theirs.ignored[t])
            np.testing.assert_array_equal(found.correct[own], theirs.matched[t] & ~theirs.ignored[t])
        taken = found.gt[found.correct]
        assert len(np.unique(taken)) == len(taken)


@pytest.mark.parametrize("seed", range(3))
def test_ap_to_the_last_digit(random_split, seed):
    index, results = random_split(seed)
    o = overlaps(index, results)
    aps = [class_ap(o.label, m.correct, m.ignored, o.counts(o.objects)) for m in map(o.match, THRESHOLDS)]
    theirs = evaluate(index, results)
    assert mean(np.stack(aps)) == pytest.approx(theirs.metrics["AP"], abs=1e-15)
    assert mean(aps[0]) == pytest.approx(theirs.metrics["AP50"], abs=1e-15)


def test_a_refused_detection_takes_the_next_best(make_index):
    """Both want the left object; the later one gets the right one, at IoU 0.6 instead of 0.67."""
    index = make_index([(0, 0, 0, 20, 10), (0, 7, 0, 20, 10)])
    results = np.array([[0, 1, 0, 20, 10, 0.9, 1], [0, 3, 0, 20, 10, 0.8, 1]])
    assert overlaps(index, results).match().gt.tolist() == [0, 1]
    assert overlaps(index, results[::-1]).match(0.67).gt.tolist() == [0, -1]


def test_of_equally_good_objects_the_later_is_taken(make_index):
    """The second detection lies well on the first object only: it is right as well, to pycocotools too."""
    index = make_index([(0, 10, 0, 30, 10), (0, 20, 0, 30, 10)])
    results = np.array([[0, 15, 0, 30, 10, 0.9, 1], [0, 5, 0, 30, 10, 0.8, 1]])
    assert overlaps(index, results).match().gt.tolist() == [1, 0]
    assert evaluate(index, results).metrics["AP50"] == pytest.approx(1)


def test_a_hundred_detections_of_an_image_and_class_count(make_index):
    index = make_index([(0, 0, 0, 10, 10)], [(0, 0, 0, 10, 10)])
    many = np.tile([0, 50, 50, 10, 10, 0.9, 1], (130, 1))
    others = np.array([[0, 0, 0, 10, 10, 0.1, 1], [0, 0, 0, 10, 10, 0.1, 2], [1, 0, 0, 10, 10, 0.1, 1]])
    o = overlaps(index, np.concatenate([many, others]))
    assert len(o.score) == 102
    assert o.match().correct.sum() == 1  # the one on the other image


def test_nothing_found_and_nothing_to_find(make_index, random_split):
    index, _ = random_split(0)
    assert overlaps(index, NOTHING).match().gt.tolist() == []
    empty = make_index([], [])
    o = overlaps(empty, np.array([[1, 0, 0, 5, 5, 0.5, 2], [1, 0, 0, 5, 5, 0.5, 9]]))  # 9: a class that it lacks
    assert (o.match().gt.tolist(), o.label.tolist()) == ([-1], [1])
    with pytest.raises(ValueError, match=r"image ids that set/train does not have: \[7.0\]"):
        overlaps(empty, np.array([[7, 0, 0, 5, 5, 0.5, 2]]))


def test_boxes_without_area_overlap_nothing(make_index):
    index = make_index([(0, 10, 10, 0, 0), (0, 10, 10, 20, 0)], ignore=[1])
    o = overlaps(index, np.array([[0, 10, 10, 0, 0, 0.9, 1], [0, 5, 5, 20, 20, 0.8, 1]]))
    assert len(o.pairs.iou) == 0


def test_pairs_do_not_depend_on_how_many_are_worked_on_at_once(random_split, monkeypatch):
    index, results = random_split(3)
    whole = overlaps(index, results).pairs
    monkeypatch.setattr("cledet.evaluation.overlaps.PAIRS", 7)
    for ours, theirs in zip(overlaps(index, results).pairs, whole):
        np.testing.assert_array_equal(ours, theirs)
