"""Classes by name, by id, and by position in a detector's list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.metrics.predictions.classes import Found, agreement, find_classes

PATH = Path("found.json")
NOTHING = Found(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
ANY = (("ids", "from 0", "from 1", "coco"),)


def labels(classes, index, readings=ANY, found=NOTHING):
    found_labels, how = find_classes(PATH, classes, readings, index, found)
    return found_labels.tolist(), how


def test_names_match_without_case_and_punctuation(make_index):
    index = make_index([], classes=("dining table", "tv"))
    assert labels(["TV", "diningtable", "dining_table"], index) == ([1, 0, 0], "classes by name")
    strict = make_index([], classes=("a b", "ab"))
    assert labels(["ab", "a b"], strict)[0] == [1, 0]
    with pytest.raises(UserError, match=r"names 1 of 1 classes that set/train does not have: A_B"):
        labels(["A_B"], strict)
    with pytest.raises(UserError, match=r"names the class 'a', and set/train has several of that name"):
        labels(["a"], make_index([], classes=("a", "a")))


def test_the_first_group_of_readings_that_fits_is_taken(make_index):
    index = make_index([], classes=("a", "b", "c"), category_ids=np.array([2, 3, 9]))
    groups = (("ids",), ("from 0", "from 1"))
    assert labels([3.0, 2.0], index, groups) == ([1, 0], "classes by id")
    assert labels([0.0, 2.0], index, groups) == ([0, 2], "classes numbered from 0")
    assert labels([1.0, 3.0], index, groups) == ([0, 2], "classes numbered from 1")
    assert labels([], index, groups) == ([], "")
    for numbers, words in (
        ([0.0, 9.0], r"names 1 of 2 category ids that set/train does not have: 0 \(its category ids are 2, 3, 9\)"),
        ([0.5, 2.0], r"1 of 2 .*: 0\.5"),
        ([1.0, 8.0], r"2 of 2 .*: 1, 8 \(each is 1 lower than one of the data set: is the numbering off by one\?"),
        ([10.0, 4.0], r"2 of 2 .*: 4, 10 \(each is 1 higher than one"),
        ([float("nan")], r"1 of 1 .*: nan"),
    ):
        with pytest.raises(UserError, match=words):
            labels(numbers, index, groups)


def test_coco_ids_of_a_data_set_that_numbers_its_classes(make_index):
    """80 classes from 0, as in a YOLO copy of COCO: 90, the last of 91 ids, is the last class, and 13 the twelfth."""
    index = make_index([], classes=tuple(map(str, range(80))), category_ids=np.arange(80))
    assert labels([1.0, 13.0, 90.0], index) == ([0, 11, 79], "classes by COCO's 91 ids")
    assert labels([0.0, 79.0], index) == ([0, 79], "classes by id")
    assert labels([80.0, 12.0], index) == ([79, 11], "classes numbered from 1")


def test_the_ids_of_coco_are_those_of_its_annotations(make_index, shared_data):
    real = open_source(shared_data / "coco2017_sub").index("val", need_images=False)
    copy = make_index([], classes=real.classes, category_ids=np.arange(80))
    assert labels(real.category_ids.astype(float).tolist(), copy, (("coco",),))[0] == list(range(80))


@pytest.fixture
def objects(make_index):
    """Twelve images with an object of b each; classes a, b, c with ids 0, 1, 2."""
    return make_index(*[[(1, 10, 10, 20, 20)]] * 12, classes=("a", "b", "c"), category_ids=np.arange(3))


def on_objects(count, number, offset=0.0):
    """Detections of one class number on the objects of the first images."""
    return Found(np.arange(count), np.tile([10 + offset, 10, 20, 20], (count, 1)), np.ones(count), np.zeros(count, int))


def test_objects_decide_between_readings(objects):
    """2 is c by id, and b if numbered from 1: as the boxes lie on objects of b, it is b."""
    found, how = labels([2.0], objects, found=on_objects(12, 2))
    assert found == [1]
    assert how == ("classes numbered from 1 (12 of the best detections agree with the objects, 0 if by id)")
    assert labels([1.0], objects, found=on_objects(12, 1))[0] == [1]


@pytest.mark.parametrize("found", [NOTHING, on_objects(9, 2), on_objects(12, 2, offset=15)])
def test_too_few_objects_decide_nothing(objects, found):
    """None, nine, and an IoU of 1/7."""
    with pytest.raises(UserError, match=r"category ids 2 to 2 may be read in several ways .*begin with 0, 1, 2"):
        labels([2.0], objects, found=found)


def test_agreement_counts_the_label_of_the_nearest_object(make_index):
    """Of two objects the nearer one counts; crowds and images without objects do not."""
    index = make_index([(0, 0, 0, 10, 10), (1, 0, 0, 10, 8)], [(1, 0, 0, 10, 10)], [], ignore=[2])
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 7.5], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0]], dtype=float)
    found = Found(np.array([0, 0, 1, 2, 0]), boxes, np.ones(5), np.array([0, 1, 1, 0, 0]))
    assert agreement(index, found, [np.array([0, 1]), np.array([1, 0]), np.array([0, 0])]).tolist() == [2, 0, 1]
