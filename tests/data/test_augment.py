"""Scenes of coloured rectangles, varied: each box must be where its colour is found again."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cledet.data.augment import (
    MAX_COVERED,
    Augment,
    Scene,
    augment_scene,
    copy_paste,
    crop_scene,
    fit,
    mosaic,
    random_crop,
)
from cledet.data.transforms import random_window

COLOURS = [[round(255 * v) for v in colorsys.hsv_to_rgb(k / 12, 1, 1)] for k in range(12)]
"""A colour a label."""
LIMITS = (64, 107)
Rng = np.random.Generator


def scene(seed: int, labels: range = range(3), ignore: tuple[int, ...] = ()) -> Scene:
    """A black image, 60 to 120 px a side, in each of its upright stripes a rectangle of a label's colour."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(60, 121, 2))
    image = np.zeros((height, width, 3), dtype=np.uint8)
    boxes = []
    stripe = width // len(labels)
    for i, label in enumerate(labels):
        w, h = int(rng.integers(8, stripe - 2)), int(rng.integers(8, height - 1))
        x, y = i * stripe + int(rng.integers(stripe - w)), int(rng.integers(height - h))
        image[y : y + h, x : x + w] = COLOURS[label]
        boxes.append([x, y, x + w, y + h])
    return Scene(
        image=image,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(list(labels), dtype=np.int64),
        ignore=np.isin(list(labels), ignore),
    )


def found(image: np.ndarray, label: int) -> np.ndarray:
    """The box of the pixels of a label's colour."""
    rows, columns = np.nonzero(np.abs(image.astype(int) - COLOURS[label]).max(axis=2) < 60)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def assert_on_colours(varied: Scene, tolerance: float = 3) -> None:
    height, width = varied.image.shape[:2]
    assert (varied.boxes >= 0).all()
    assert (varied.boxes <= (width, height, width, height)).all()
    assert (varied.boxes[:, 2:] > varied.boxes[:, :2]).all()
    for box, label in zip(varied.boxes, varied.labels):
        if (box[2:] - box[:2]).min() > 4:
            np.testing.assert_allclose(box, found(varied.image, label), atol=tolerance)


def others(position: int) -> Scene:
    """Three scenes of colours of their own."""
    return scene(position, range(3 + 3 * position, 6 + 3 * position))


SINGLE = {
    "flip": Augment(flip=1.0),
    "vflip": Augment(flip=0.0, vflip=1.0),
    "shrink": Augment(scale_jitter=(0.4, 1.0)),
    "multi_scale": Augment(multi_scale=(40, 200)),
    "photometric": Augment(photometric=1.0),
}


@pytest.mark.parametrize("name", SINGLE)
@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_augmentations_of_the_whole_image_keep_every_box(name: str, seed: int) -> None:
    before = scene(seed, ignore=(1,))
    after = augment_scene(before, others, 3, LIMITS, SINGLE[name], np.random.default_rng(seed))
    assert after.labels.tolist() == [0, 1, 2]
    assert after.ignore.tolist() == [False, True, False]
    if name != "photometric":  # where colours are others
        assert_on_colours(after)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 60), columns=st.integers(1, 60))
def test_a_crop_keeps_the_boxes_on_their_objects(seed: int, rows: int, columns: int) -> None:
    before = scene(seed)
    cropped = crop_scene(before, random_window(*before.image.shape[:2], rows, columns, np.random.default_rng(seed)))
    assert cropped.image.shape[:2] == (rows, columns)
    assert_on_colours(cropped, tolerance=0)
    seen = [label for label in before.labels if (cropped.image == COLOURS[label]).all(axis=2).any()]
    assert cropped.labels.tolist() == seen


def test_an_object_whose_centre_is_cropped_is_ignored() -> None:
    boxes = np.array([[0, 0, 4, 4], [36, 16, 40, 20]], dtype=np.float32)
    corners = Scene(np.zeros((20, 40, 3), np.uint8), boxes, np.array([0, 1]), np.zeros(2, dtype=bool))
    assert crop_scene(corners, (0, 0, 10, 20)).ignore.tolist() == [False]
    assert crop_scene(corners, (2, 2, 18, 38)).ignore.tolist() == [False, False]
    assert crop_scene(corners, (3, 3, 15, 35)).ignore.tolist() == [True, True]
    assert crop_scene(corners, (10, 10, 5, 5)).labels.tolist() == []


PARTIAL = {
    "zoom": Augment(scale_jitter=(1.0, 3.0)),
    "crop": Augment(crop=1.0),
    "both": Augment(0.5, 0.5, (0.5, 2), crop=1),
}


@pytest.mark.parametrize("name", PARTIAL)
@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_cropping_augmentations_keep_boxes_on_their_objects(name: str, seed: int) -> None:
    before = scene(seed, ignore=(1,))
    after = augment_scene(before, others, 3, LIMITS, PARTIAL[name], np.random.default_rng(seed))
    assert set(after.labels) <= {0, 1, 2}
    assert after.ignore[after.labels == 1].all()
    assert min(after.image.shape[:2]) <= LIMITS[0]
    assert max(after.image.shape[:2]) <= LIMITS[1]
    assert_on_colours(after, tolerance=6)


def test_augmentations_that_are_off_change_no_pixel() -> None:
    before = scene(0)
    after = augment_scene(before, others, 3, LIMITS, Augment(flip=0.0), np.random.default_rng(0))
    plain = fit(before, LIMITS)
    assert np.array_equal(after.image, plain.image)
    assert np.array_equal(after.boxes, plain.boxes)


def test_multi_scale_draws_every_short_side_and_keeps_the_proportion_of_the_limits() -> None:
    augment = Augment(multi_scale=(32, 36))
    before = scene(1)
    sides = set()
    for seed in range(60):
        after = augment_scene(before, others, 3, LIMITS, augment, np.random.default_rng(seed))
        sides.add(min(after.image.shape[:2]))
    assert sides == {32, 33, 34, 35, 36}
    sliver = blank(20, 200, [], [])  # 32 high it would be 320 long, but 107 / 64 of 32 is 54, and of 36 it is 60
    shapes = {
        augment_scene(sliver, others, 3, LIMITS, augment, np.random.default_rng(s)).image.shape[1] for s in range(60)
    }
    assert shapes == {54, 55, 57, 59, 60}


def test_a_crop_ignores_objects_without_their_centre_and_drops_objects_outside() -> None:
    """Columns 0-9 of 30: of boxes at 0-8, 4-14 (centre 9), 6-16 (centre 11), 12-20 in rows 0-10."""
    boxes = np.array([[0, 0, 8, 10], [4, 0, 14, 10], [6, 0, 16, 10], [12, 0, 20, 10]], dtype=np.float32)
    whole = Scene(np.zeros((10, 30, 3), np.uint8), boxes, np.arange(4), np.zeros(4, dtype=np.bool_), dropped=2)
    part = crop_scene(whole, (0, 0, 10, 10))
    assert part.boxes.tolist() == [[0, 0, 8, 10], [4, 0, 10, 10], [6, 0, 10, 10]]
    assert part.labels.tolist() == [0, 1, 2]
    assert part.ignore.tolist() == [False, False, True]
    assert part.dropped == 2
    assert crop_scene(whole, (0, 0, 10, 10), min_inside=0.7).ignore.tolist() == [False, True, True]  # 6 of 10 are there


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_random_crop_holds_a_whole_object(seed: int) -> None:
    before = scene(seed, ignore=(0,))
    after = random_crop(before, np.random.default_rng(seed))
    sizes = {label: (box[2:] - box[:2]).tolist() for box, label in zip(before.boxes, before.labels)}
    kept = [label for box, label in zip(after.boxes, after.labels) if (box[2:] - box[:2]).tolist() == sizes[label]]
    assert {1, 2} & set(kept)
    assert min(a / b for a, b in zip(after.image.shape[:2], before.image.shape[:2])) >= 0.29


def test_a_random_crop_may_be_anywhere_where_there_is_no_object() -> None:
    crowd = scene(0, range(1), ignore=(0,))
    parts = [random_crop(crowd, np.random.default_rng(seed)) for seed in range(60)]
    assert {len(part.boxes) for part in parts} == {0, 1}
    assert all(part.ignore.all() for part in parts)
    assert len({part.image.shape for part in parts}) > 20


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_mosaic_keeps_boxes_on_their_objects(seed: int) -> None:
    parts = [scene(seed, ignore=(0,)), *(others(k) for k in range(3))]
    joined = mosaic(parts, (80, 110), np.random.default_rng(seed))
    assert joined.image.shape == (80, 110, 3)
    assert joined.ignore[joined.labels == 0].all()
    assert_on_colours(joined, tolerance=8)  # a part may be enlarged fourfold


def test_a_mosaic_leaves_no_hole_and_uses_all_four() -> None:
    plain = [Scene(np.full((s, 70, 3), s, np.uint8), *empty(), dropped=1) for s in (40, 80, 120, 240)]
    for size in ((80, 110), (3, 3), (1, 1)):
        joined = mosaic(plain, size, np.random.default_rng(0))
        assert joined.image.shape == (*size, 3)
        assert set(np.unique(joined.image)) <= {40, 80, 120, 240}
    joined = mosaic(plain, (80, 110), np.random.default_rng(1))
    assert [joined.image[i, j, 0] for i, j in ((0, 0), (0, -1), (-1, 0), (-1, -1))] == [40, 80, 120, 240]
    assert joined.dropped == 4


def empty() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)


def test_a_mosaic_is_as_large_as_its_image_alone() -> None:
    for seed in range(5):
        before = scene(seed)
        after = augment_scene(before, others, 3, LIMITS, Augment(mosaic=1.0), np.random.default_rng(seed))
        assert after.image.shape == fit(before, LIMITS).image.shape


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), most=st.integers(1, 4))
def test_pasted_objects_bring_their_boxes_and_cover_little(seed: int, most: int) -> None:
    before = fit(scene(seed), LIMITS)
    untouched = before.image.copy()
    after = copy_paste(before, others(0), most, LIMITS, np.random.default_rng(seed))
    assert np.array_equal(before.image, untouched)
    assert after.labels[:3].tolist() == [0, 1, 2]
    pasted = after.labels[3:].tolist()
    assert len(pasted) <= most
    assert set(pasted) <= {3, 4, 5}
    assert not after.ignore.any()
    for box, label in zip(after.boxes, after.labels):
        x1, y1, x2, y2 = np.round(box).astype(int)
        part = after.image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].astype(int)  # without the blurred rim
        other = np.abs(part - COLOURS[label]).max(axis=2) >= 60
        assert other.sum() <= MAX_COVERED * (x2 - x1) * (y2 - y1) + 1


def test_at_most_the_given_number_is_pasted_and_at_least_one_if_there_is_room() -> None:
    donor = blank(64, 64, [[8 * k, 0, 8 * k + 6, 6] for k in range(8)], [False] * 8)
    pasted = [copy_paste(blank(300, 300, [], []), donor, 3, (64, 64), np.random.default_rng(s)) for s in range(40)]
    assert {len(after.boxes) for after in pasted} == {1, 2, 3}
    assert {label for after in pasted for label in after.labels} == set(range(8))


def blank(height: int, width: int, boxes: list[list[float]], ignore: list[bool], dropped: int = 0) -> Scene:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    labels = np.arange(len(boxes), dtype=np.int64)
    return Scene(np.zeros((height, width, 3), np.uint8), array, labels, np.array(ignore, dtype=np.bool_), dropped)


def test_other_objects_on_a_pasted_patch_are_included() -> None:
    """The donor's only object is 20x20; inside it a crowd, over its edge another, and far away a third."""
    donor = blank(64, 64, [[10, 10, 30, 30], [12, 12, 16, 16], [28, 10, 40, 30], [50, 50, 60, 60]],
                  [False, True, True, True], dropped=5)  # fmt: skip
    after = copy_paste(blank(64, 64, [], []), donor, 1, (64, 64), np.random.default_rng(0))
    x, y = after.boxes[0, :2] - 10
    assert (after.boxes - [x, y, x, y]).tolist() == [[10, 10, 30, 30], [12, 12, 16, 16], [28, 10, 30, 30]]
    assert after.labels.tolist() == [0, 1, 2]
    assert after.ignore.tolist() == [False, True, True]
    assert after.dropped == 0  # those of the donor are counted where it is trained on


def test_a_large_object_behind_a_pasted_one_is_ignored_there() -> None:
    """Its centre is on the rectangle, but only a sixteenth of it."""
    donor = blank(64, 64, [[24, 24, 40, 40], [0, 0, 64, 64]], [False, False])
    for seed in range(20):
        after = copy_paste(blank(64, 80, [], []), donor, 1, (64, 80), np.random.default_rng(seed))
        if len(after.boxes) and after.boxes[0, 2] - after.boxes[0, 0] == 16:
            assert after.ignore.tolist() == [False, True]
            return
    pytest.fail("the small one was never pasted")


def test_nothing_is_pasted_where_there_is_no_room_or_no_object() -> None:
    full = blank(32, 32, [[0, 0, 32, 32]], [False])
    donors = (
        blank(32, 32, [[0, 0, 20, 20]], [False]),  # would cover 39 %
        blank(32, 60, [[0, 0, 60, 20]], [False]),  # wider than the image
        blank(32, 32, [[0, 0, 9, 9]], [True]),  # a crowd
        blank(32, 32, [], []),
    )
    for donor in donors:
        after = copy_paste(full, donor, 3, (32, 64), np.random.default_rng(0))
        assert after.boxes.tolist() == [[0, 0, 32, 32]]


def test_several_pasted_objects_together_cover_no_more() -> None:
    """Each covers a quarter of the only object; so one is pasted, though three would be."""
    donor = blank(32, 32, [[0, 0, 16, 16]] * 3, [False] * 3)
    counts = set()
    for seed in range(20):
        after = copy_paste(blank(32, 32, [[0, 0, 32, 32]], [False]), donor, 3, (32, 32), np.random.default_rng(seed))
        counts.add(len(after.boxes))
    assert counts == {4}  # the object, and a patch with three boxes in one place


def test_an_ignored_region_is_dropped_only_if_fully_covered() -> None:
    target = blank(32, 32, [[0, 0, 32, 16], [14, 14, 18, 18]], [True, True])
    donor = blank(32, 32, [[0, 0, 32, 32]], [False])
    after = copy_paste(target, donor, 1, (32, 32), np.random.default_rng(0))
    assert after.boxes.tolist() == [[0, 0, 32, 32]]
    part = blank(32, 32, [[0, 0, 32, 31]], [False])
    kept = copy_paste(blank(32, 32, [[0, 0, 32, 32]], [True]), part, 1, (32, 32), np.random.default_rng(0))
    assert kept.ignore.tolist() == [True, False]


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_crowds_stay_ignored_through_everything(seed: int) -> None:
    def crowds(position: int) -> Scene:
        return scene(position, ignore=(0, 1, 2))

    everything = Augment(0.5, 0.5, (0.5, 2.0), 0.5, multi_scale=(40, 90), crop=0.5, mosaic=0.5, copy_paste=3)
    after = augment_scene(crowds(seed), crowds, 1000, LIMITS, everything, np.random.default_rng(seed))
    assert after.ignore.all()
