"""Vectorized matching equals the loop of pycocotools for every detection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cledet.metrics.average_precision import class_ap, mean
from cledet.metrics.bootstrap import match
from cledet.metrics.coco import evaluate
from cledet.metrics.matching import THRESHOLDS, by_class, overlaps

NOTHING = np.zeros((0, 7))


@pytest.fixture
def grid(request, make_index):
    """Objects, crowds and detections of two classes on a coarse grid: ties in IoU and score, boxes without area."""
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


def check(index, results, notes, most=100):
    """Every detection at every threshold is what pycocotools' notes say."""
    o = overlaps(index, results, most)
    assert set(notes) == set(np.flatnonzero(o.counts(o.objects)).tolist())
    for t, threshold in enumerate(THRESHOLDS):
        found = o.match(threshold)
        for label, (images, correct, ignored) in notes.items():
            own = o.label == label
            np.testing.assert_array_equal(index.image_ids[o.image[own]], images)
            np.testing.assert_array_equal(found.correct[own], correct[t])
            np.testing.assert_array_equal(found.ignored[own], ignored[t])
        taken = found.gt[found.correct]
        assert len(np.unique(taken)) == len(taken)
        np.testing.assert_array_equal(found.iou >= threshold, found.correct)


@pytest.mark.parametrize(("seed", "most"), [(0, 100), (1, 100), (2, 3), (3, 100), (4, 2), (5, 100)])
def test_as_pycocotools_matches(random_split, coco_matches, seed, most):
    """Every ninth detection is larger than COCO's areas go, and one more has a negative one."""
    index, results = random_split(seed, images=6 + 3 * seed)
    results[::9, 3:5], results[1, 3] = 2e5, -4
    check(index, results, coco_matches(index, results, most=most), most)


@pytest.mark.parametrize("grid", range(20), indirect=True)
@pytest.mark.parametrize("chunk", [2**20, 1, 7])
def test_as_pycocotools_matches_with_ties_of_all_kinds(grid, coco_matches, monkeypatch, chunk):
    monkeypatch.setattr("cledet.metrics.matching.PAIRS", chunk)
    check(*grid, coco_matches(*grid))


@pytest.mark.parametrize(("figure", "area"), [("AP", "all"), ("APs", "small"), ("APm", "medium"), ("APl", "large")])
def test_by_area_as_pycocotools_matches(random_split, coco_matches, figure, area):
    """Areas of objects of their own, and one detection on each image farther than COCO's areas go."""
    for seed in range(3):
        index, results = random_split(seed, images=9)
        index = replace(index, area=index.area * np.random.default_rng(seed).choice([1, 4, 20], index.num_boxes))
        results[::7, 3:5] = 2e5
        notes = coco_matches(index, results, area)
        classes = match(index, results, figure)
        assert sorted(notes) == sorted(matches.label for matches in classes)
        for matches in classes:
            images, correct, ignored = notes[matches.label]
            np.testing.assert_array_equal(index.image_ids[matches.images], images)
            np.testing.assert_array_equal(matches.correct, correct)
            np.testing.assert_array_equal(matches.ignored, ignored)


@pytest.mark.parametrize("seed", range(3))
def test_ap_to_the_last_digit(random_split, seed):
    index, results = random_split(seed)
    o = overlaps(index, results)
    aps = [class_ap(o.label, m.correct, m.ignored, o.counts(o.objects)) for m in map(o.match, THRESHOLDS)]
    theirs = evaluate(index, results)
    assert mean(np.stack(aps)) == pytest.approx(theirs.metrics["AP"], abs=1e-15)
    assert mean(aps[0]) == pytest.approx(theirs.metrics["AP50"], abs=1e-15)


def test_a_rejected_detection_takes_the_next_best_object(make_index):
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
    assert overlaps(index, np.concatenate([many, others]), None).match().correct.sum() == 2


def test_crowds_are_never_used_up_and_objects_come_first(make_index):
    index = make_index([(0, 0, 0, 40, 40), (0, 0, 0, 10, 10)], ignore=[0])
    found = overlaps(index, np.array([(0, 0, 0, 10, 10, score, 1) for score in (0.9, 0.8, 0.7)])).match()
    assert found.correct.tolist() == [True, False, False]
    assert found.ignored.tolist() == [False, True, True]


def test_rows_of_the_results_are_kept(random_split):
    index, results = random_split(2)
    o = overlaps(index, results)
    np.testing.assert_array_equal(o.score, results[o.row, 5])
    np.testing.assert_array_equal(o.xywh, results[o.row, 1:5])
    np.testing.assert_array_equal(index.image_ids[o.image], results[o.row, 0])
    assert [o.label[rows].tolist() for rows in by_class(o.label, o.score > 0.5, 4)] == [
        [k] * int(((o.label == k) & (o.score > 0.5)).sum()) for k in range(4)
    ]


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


@pytest.mark.parametrize("shift", [2**40, -(2**40)])
def test_ids_of_any_size_are_found(random_split, shift):
    """Small ones are looked up in a table, others searched for."""
    index, results = random_split(3)
    moved = results + np.array([shift, 0, 0, 0, 0, 0, shift])
    far = replace(index, image_ids=index.image_ids + shift, category_ids=index.category_ids + shift)
    here, there = overlaps(index, results), overlaps(far, moved)
    assert len(here.row)
    np.testing.assert_array_equal(here.row, there.row)
    np.testing.assert_array_equal(here.match().gt, there.match().gt)
