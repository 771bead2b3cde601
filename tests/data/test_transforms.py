"""Transforms on boxes worked by hand, and on images in which the box can be seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cledet.data.transforms import (
    clip_boxes,
    hflip,
    photometric,
    random_crop,
    rescale,
    resize_short,
    scale_boxes,
    vflip,
    visible,
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
    assert rescale(picture(), 1.0) is not None


def test_flips() -> None:
    image = picture()
    image[:, 28:30] = 0
    box = np.array([[10, 5, 28, 15]], dtype=np.float32)
    for flip in (hflip, vflip):
        flipped, moved = flip(image, box)
        assert moved[0].tolist() == seen(flipped)
        again, back = flip(flipped, moved)
        assert np.array_equal(again, image)
        assert np.array_equal(back, box)


@given(seed=st.integers(0, 1000), zoom=st.floats(1.0, 3.0))
def test_random_crop_keeps_the_box_on_the_object(seed: int, zoom: float) -> None:
    part, boxes, inside = random_crop(picture(), BOX, zoom, np.random.default_rng(seed))
    assert part.shape[:2] == (round(20 / zoom), round(40 / zoom))
    if part.any():
        assert boxes[0].tolist() == seen(part)
    else:
        assert not visible(boxes)[0]
        assert not inside[0]


def test_a_crop_tells_which_centres_are_inside() -> None:
    boxes = np.array([[0, 0, 4, 4], [36, 16, 40, 20]], dtype=np.float32)
    answers = [random_crop(picture(), boxes, 2, np.random.default_rng(s))[2].tolist() for s in range(40)]
    assert [True, True] not in answers
    assert [False, False] in answers
    assert len(random_crop(picture(), NONE, 2, np.random.default_rng(0))[2]) == 0


def test_photometric() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.abs(photometric(image, 0.0, rng).astype(int) - image).max() <= 6  # the way to HSV and back
    changed = photometric(image, 1.0, np.random.default_rng(1))
    assert changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - image).mean() > 3
    assert np.array_equal(changed, photometric(image, 1.0, np.random.default_rng(1)))


def test_clip_and_visible() -> None:
    boxes = np.array([[-5, -5, 5, 5], [50, 0, 60, 9], [1, 1, 1, 4], [np.nan] * 4], dtype=np.float32)
    clipped = clip_boxes(boxes, 20, 40)
    assert clipped[:2].tolist() == [[0, 0, 5, 5], [40, 0, 40, 9]]
    assert visible(clipped).tolist() == [True, False, False, False]


@pytest.mark.parametrize("change", [hflip, vflip])
def test_no_boxes(change: object) -> None:
    assert change(picture(), NONE)[1].shape == (0, 4)  # type: ignore[operator]
