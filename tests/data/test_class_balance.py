"""Repeat factors and class weights, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cledet.data.class_balance import class_weights, repeat_factors
from cledet.errors import UserError

CAT, DOG, BIRD = 0, 1, 2
NAMES = ("cat", "dog", "bird")


def boxes(*labels):
    return [(label, 10 * i, 10, 8, 8) for i, label in enumerate(labels)]


@pytest.fixture
def index(make_index):
    """Cats in all eight images but the last, a dog in two (in one twice), no bird; the last image is empty."""
    images = [boxes(CAT)] * 5 + [boxes(CAT, DOG), boxes(DOG, DOG, CAT), boxes()]
    return make_index(*images, classes=NAMES)


def test_repeat_factors_by_hand(index):
    """f(cat) = 7/8, f(dog) = 2/8; at t = 1: sqrt(8/7) and 2; an image has the larger one of its classes."""
    np.testing.assert_allclose(repeat_factors(index, 1.0), [math.sqrt(8 / 7)] * 5 + [2, 2, 1])
    np.testing.assert_allclose(repeat_factors(index, 0.5), [1] * 5 + [math.sqrt(2)] * 2 + [1])
    assert (repeat_factors(index, 0.25) == 1).all()  # f(dog) itself is the limit
    assert (repeat_factors(index, 0) == 1).all()


def test_repeat_factors_of_detectron2s_loop(make_index):
    """As RepeatFactorTrainingSampler defines them, image by image, on 200 random images of 20 skewed classes."""
    rng = np.random.default_rng(0)
    images = [boxes(*np.minimum(rng.geometric(0.3, size=rng.integers(6)) - 1, 19)) for _ in range(200)]
    labels = [{row[0] for row in rows} for rows in images]
    share = {label: sum(label in own for own in labels) / 200 for label in set().union(*labels)}
    factor = {label: max(1.0, math.sqrt(0.3 / share[label])) for label in share}
    expected = [max((factor[label] for label in own), default=1.0) for own in labels]
    index = make_index(*images, classes=tuple(f"c{i}" for i in range(20)))
    np.testing.assert_allclose(repeat_factors(index, 0.3), expected, rtol=1e-12)
    assert max(expected) > 5


def test_ignored_and_degenerate_boxes_are_no_objects(make_index):
    index = make_index(boxes(CAT), boxes(CAT, DOG), [(DOG, 1, 1, 0, 5)], boxes(), ignore=[2])
    assert (repeat_factors(index, 1.0) == [math.sqrt(2)] * 2 + [1, 1]).all()
    assert class_weights(index, {"dog": 9}).tolist() == [1, 9]  # no dog counts in the mean


def test_a_split_without_objects_or_images(make_index):
    empty = make_index([], [])
    assert (repeat_factors(empty, 1.0) == 1).all()
    assert class_weights(empty, {"dog": 3}).tolist() == [1, 3]
    assert class_weights(make_index(), "inverse-sqrt").tolist() == [1, 1]
    assert len(repeat_factors(make_index(), 1.0)) == 0


def test_weights_have_a_mean_of_one_over_the_objects(index):
    """7 cats, 3 dogs, no bird. Named: (7 * 1 + 3 * 5) / 10 = 2.2."""
    np.testing.assert_allclose(class_weights(index, {"dog": 5.0}), np.array([1, 5, 1]) / 2.2)
    plain = np.array([1 / math.sqrt(7), 1 / math.sqrt(3), 1])
    mean = (7 * plain[0] + 3 * plain[1]) / 10
    np.testing.assert_allclose(class_weights(index, "inverse-sqrt"), plain / mean)
    for choice in ("inverse-sqrt", {"cat": 0.1, "bird": 100.0}):
        assert class_weights(index, choice)[index.labels].mean() == pytest.approx(1)
    assert class_weights(index, "none") is None


def test_an_unknown_class_is_named_with_the_nearest(index):
    with pytest.raises(UserError, match=r"set/train has no class 'brid' \(did you mean bird\?\)"):
        class_weights(index, {"cat": 1.0, "brid": 2.0})
