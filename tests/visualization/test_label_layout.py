"""Places of labels: near their boxes, inside the picture, and never over one another."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.visualization.label_layout import place_labels


def test_a_lone_label_sits_above_its_box():
    assert place_labels(np.array([[50.0, 60, 150, 120]]), [[(40, 12)]], (200, 300)) == [(50, 48, 0)]


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ([0, 0, 40, 40], (0, 40)),  # at the top: below the box
        ([0, 0, 300, 200], (0, 0)),  # the whole picture: inside
        ([290, 100, 300, 120], (260, 88)),  # at the right edge: flush with the box's right side
        ([-50, -50, -20, -20], (0, 0)),  # outside: moved in
        ([5, 5, 5, 5], (5, 5)),
    ],
)
def test_labels_at_an_edge_stay_inside(box, place):
    (found,) = place_labels(np.array([box], float), [[(40, 12)]], (200, 300))
    assert found[:2] == place


def test_a_label_that_finds_no_place_becomes_smaller_or_is_left_out():
    boxes = np.array([[10.0, 10, 20, 20]] * 40)
    places = place_labels(boxes, [[(30, 12), (22, 8)]] * 40, (40, 60))
    assert places[0] == (10, 20, 0)
    assert {place[2] for place in places if place is not None} == {0, 1}
    assert places[-1] is None
    assert place_labels(boxes[:1], [[(90, 12)]], (40, 60)) == [None]
    assert place_labels(boxes[:1], [[(90, 12), (50, 9)]], (40, 60))[0][2] == 1


@pytest.mark.parametrize("seed", range(20))
def test_labels_of_a_crowd_never_overlap(seed):
    rng = np.random.default_rng(seed)
    count = 150
    corner, side = rng.uniform(0, 400, (count, 2)), rng.uniform(2, 120, (count, 2))
    boxes = np.concatenate([corner, corner + side], axis=1)
    sizes = [[(int(w), 14), (int(w * 0.75), 11)] for w in rng.integers(30, 110, count)]
    shape = (480, 500)
    places = place_labels(boxes, sizes, shape)
    covered = np.zeros(shape, int)
    for place, one in zip(places, sizes):
        if place is not None:
            left, top, variant = place
            width, height = one[variant]
            assert left >= 0
            assert top >= 0
            assert left + width <= shape[1]
            assert top + height <= shape[0]
            covered[top : top + height, left : left + width] += 1
    assert covered.max() == 1
    assert sum(place is not None for place in places) > 60


def test_the_highest_score_has_its_place_first():
    boxes = np.array([[50.0, 60, 150, 120], [50, 60, 150, 120]])
    first, second = place_labels(boxes, [[(40, 12)]] * 2, (200, 300))
    assert first == (50, 48, 0)
    assert second == (110, 48, 0)


def test_no_boxes():
    assert place_labels(np.zeros((0, 4)), [], (10, 10)) == []
