"""The confusion matrix by hand."""

from __future__ import annotations

import numpy as np

from cledet.metrics.confusion import Mistaken, confusion, mistaken
from cledet.metrics.matching import overlaps

CAT, DOG, NONE = 0, 1, 2


def test_by_hand(make_index):
    a, b, c = (0, 0, 20, 20), (40, 0, 20, 20), (0, 40, 20, 20)
    index = make_index([(CAT, *a), (CAT, *b), (DOG, *c)], [(CAT, *a), (DOG, 40, 40, 40, 40)], ignore=[4])
    rows = [
        [0, *a, 0.5, 1],  # right, and just shown
        [0, *b, 0.9, 2],  # the cat is taken for a dog
        [0, 42, 0, 20, 20, 0.95, 1],  # a cat there lies worse: a false alarm, though AP counts it right
        [1, 50, 50, 10, 10, 0.9, 2],  # in a crowd of dogs: does not count
        [1, 50, 50, 10, 10, 0.9, 1],  # a cat there does
        [1, *a, 0.4, 1],  # not shown
    ]
    o = overlaps(index, np.array(rows, dtype=float))
    found = confusion(o, 0.5)
    assert found.tolist() == [[1, 0, 2], [1, 0, 0], [1, 1, 0]]
    assert mistaken(found) == [Mistaken(CAT, DOG, 1, 1 / 3)]
    assert confusion(o, 0.4).tolist() == [[2, 0, 2], [1, 0, 0], [0, 1, 0]]


def test_pairs_of_highest_iou_are_matched_first(make_index):
    """The first detection lies on both, better on the left; the second, of lower score, lies still better there."""
    index = make_index([(CAT, 0, 0, 20, 10), (DOG, 6, 0, 20, 10)])
    o = overlaps(index, np.array([[0, 2, 0, 20, 10, 0.9, 1], [0, 0, 0, 20, 10, 0.3, 1]]))
    assert confusion(o, 0).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_most_often_first(make_index):
    boxes = [(0, 0, 9, 9), (20, 0, 9, 9), (40, 0, 9, 9), (60, 0, 9, 9)]
    index = make_index([(k, *box) for k, box in zip((0, 1, 1, 2), boxes)], classes=("a", "b", "c"))
    o = overlaps(index, np.array([[0, *box, 0.9, k + 1] for k, box in zip((1, 0, 0, 0), boxes)], dtype=float))
    assert mistaken(confusion(o, 0)) == [Mistaken(1, 0, 2, 1.0), Mistaken(0, 1, 1, 1.0), Mistaken(2, 0, 1, 1.0)]
    assert len(mistaken(confusion(o, 0), most=1)) == 1


def test_nothing(make_index):
    o = overlaps(make_index([(DOG, 0, 0, 9, 9)]), np.zeros((0, 7)))
    assert confusion(o, 0.5).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
