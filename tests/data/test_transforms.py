"""Transforms on boxes worked by hand, and on images in which the box can be seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cledet.data.transforms import (
    clip_boxes,
    covered_share,
    flip,
    has_extent,
    photometric,
    random_window,
    resize_short,
    scale_boxes,
    window_around,
)

BOX = np.array([[10, 5, 30, 15]], dtype=np.float32)
NONE = np.zeros((0, 4), dtype=np.float32)


def picture() -> np.ndarray:
    """40 wide, 20 high, white where BOX is."""
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    image[5:15, 10:30] = 255
    return image


def seen(image: np.ndarray) -> list[int]:
    """The box of what is white."""
    rows, columns = np.nonzero(image[:, :, 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    ("short", "long", "shape"), [(10, 100, (10, 20)), (40, 50, (25, 50)), (20, 40, (20, 40)), (5, 10, (5, 10))]
)
def test_resize_short(short: int, long: int, shape: tuple[int, int]) -> None:
    image = resize_short(picture(), short, long)
    assert image.shape[:2] == shape
    assert np.allclose(scale_boxes(BOX, (20, 40), shape)[0], seen(image), atol=1)


def test_a_one_pixel_image_and_a_sliver() -> None:
    assert resize_short(np.zeros((1, 1, 3), np.uint8), 32, 64).shape == (32, 32, 3)
    assert resize_short(np.zeros((1, 1000, 3), np.uint8), 32, 64).shape == (1, 64, 3)
    assert resize_short(picture(), 20, 40).shape == (20, 40, 3)


def test_flips() -> None:
    image = picture()
    image[:, 28:30] = 0
    box = np.array([[10, 5, 28, 15]], dtype=np.float32)
    for axis in (0, 1):
        flipped, moved = flip(image, box, axis)
        assert moved[0].tolist() == seen(flipped)
        again, back = flip(flipped, moved, axis)
        assert np.array_equal(again, image)
        assert np.array_equal(back, box)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(0, 25), columns=st.integers(0, 45))
def test_a_random_window_is_inside(seed: int, rows: int, columns: int) -> None:
    top, left, height, width = random_window(20, 40, rows, columns, np.random.default_rng(seed))
    assert (height, width) == (min(max(rows, 1), 20), min(max(columns, 1), 40))
    assert 0 <= top <= 20 - height
    assert 0 <= left <= 40 - width


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(0, 25),
    columns=st.integers(0, 45),
    box=st.tuples(st.floats(0, 39), st.floats(0, 19), st.floats(0.5, 40), st.floats(0.5, 20)),
)
def test_a_window_around_a_box_holds_it(seed: int, rows: int, columns: int, box: tuple[float, ...]) -> None:
    x, y, w, h = box
    wanted = np.array([x, y, min(x + w, 40), min(y + h, 20)], dtype=np.float32)
    top, left, height, width = window_around(wanted, 20, 40, rows, columns, np.random.default_rng(seed))
    assert height >= min(max(rows, 1), 20)
    assert width >= min(max(columns, 1), 40)
    assert (wanted[:2] >= (left, top)).all()
    assert (wanted[2:] <= (left + width, top + height)).all()
    assert 0 <= left <= 40 - width
    assert 0 <= top <= 20 - height


def test_a_window_around_a_box_is_no_larger_than_it_must_be_and_anywhere() -> None:
    windows = [window_around(BOX[0], 20, 40, 1, 30, np.random.default_rng(seed)) for seed in range(200)]
    assert {window[2:] for window in windows} == {(10, 30)}
    assert {window[0] for window in windows} == {5}
    assert {window[1] for window in windows} == set(range(11))


def test_covered_share() -> None:
    """Of 20x10 at (10, 5): nothing, all, the left half, and 5x5 in a corner."""
    windows = [(0, 0, 5, 40), (0, 0, 4, 5), (0, 0, 20, 40), (0, 0, 20, 20), (10, 25, 5, 5)]
    assert [covered_share(BOX, window)[0] for window in windows] == [0, 0, 1, 0.5, 0.125]
    assert covered_share(np.array([[3, 3, 3, 9]], dtype=np.float32), (0, 0, 20, 40)).tolist() == [0]
    assert covered_share(NONE, (0, 0, 20, 40)).shape == (0,)


def test_photometric() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.abs(photometric(image, 0.0, rng).astype(int) - image).max() <= 6  # the way to HSV and back
    changed = photometric(image, 1.0, np.random.default_rng(1))
    assert changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - image).mean() > 3
    assert np.array_equal(changed, photometric(image, 1.0, np.random.default_rng(1)))


def test_clip_and_extent() -> None:
    boxes = np.array([[-5, -5, 5, 5], [50, 0, 60, 9], [1, 1, 1, 4], [np.nan] * 4], dtype=np.float32)
    clipped = clip_boxes(boxes, 20, 40)
    assert clipped[:2].tolist() == [[0, 0, 5, 5], [40, 0, 40, 9]]
    assert has_extent(clipped).tolist() == [True, False, False, False]


@pytest.mark.parametrize("axis", [0, 1])
def test_no_boxes(axis: int) -> None:
    assert flip(picture(), NONE, axis)[1].shape == (0, 4)
