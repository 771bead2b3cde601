"""Boxes and labels on pictures of any size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cledet.visualization.draw import draw_detections, draw_labels, draw_text, jpeg
from cledet.visualization.palette import class_color


def test_a_picture_that_is_too_large_for_jpeg_is_shrunk():
    data = np.frombuffer(jpeg(np.full((40, 131_000, 3), 90, dtype=np.uint8), 92), dtype=np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (20, 65_500, 3)


def test_a_box_is_drawn_on_a_copy_of_the_image():
    image = np.full((200, 300, 3), 90, dtype=np.uint8)
    picture = draw_detections(image, np.array([[50, 60, 250, 180]], dtype=np.float32), [4], ["bar 0.87"])
    assert (image == 90).all()
    assert tuple(picture[120, 50]) == class_color(4)
    assert tuple(picture[180, 150]) == class_color(4)
    assert (picture[120, 150] == 90).all()  # inside
    assert (picture[:30] == 90).all()  # the caption sits right above the box
    assert (picture[45:59, 52:80] != 90).any()


@pytest.mark.parametrize("box", [[0, 0, 40, 40], [290, 190, 300, 200], [-20, -30, 500, 400], [5, 5, 5, 5]])
def test_captions_stay_inside_the_picture(box):
    """A caption at an edge is as large as one in the middle."""
    image = np.zeros((200, 300, 3), dtype=np.uint8)
    at, middle = (
        draw_detections(image, np.array([b], dtype=np.float32), [1], ["a name 0.50"])
        for b in (box, [120, 100, 121, 101])
    )
    color = np.array(class_color(1))
    assert (at == color).all(-1).sum() >= 0.95 * (middle == color).all(-1).sum()


@pytest.mark.parametrize("shape", [(100, 67), (64, 64), (32, 32), (3000, 8000)])
def test_a_label_is_legible_at_any_size(shape):
    """The label is at least 11 pixels high, and at least a fortieth of the shorter side; tiny icons have none."""
    image = np.zeros((*shape, 3), dtype=np.uint8)
    height, width = shape
    box = np.array([[0.1 * width, 0.4 * height, 0.9 * width, 0.9 * height]], np.float32)
    picture = draw_detections(image, box, [3], ["cat 0.9"])
    filled = (picture == class_color(3)).all(-1)
    rows = np.flatnonzero(filled[: int(0.4 * height)].any(axis=1))  # above the box
    if shape == (32, 32):
        assert len(rows) == 0
        return
    label = filled[rows[0] : rows[-1] + 1]
    assert len(label) >= max(9, min(shape) / 40)
    assert label.any(axis=0).sum() >= 2 * len(label)


def test_no_label_covers_another_one_in_a_crowd():
    """All boxes are the same: labels of distinct colours have their full area."""
    image = np.zeros((300, 400, 3), dtype=np.uint8)
    boxes = np.array([[150, 140, 250, 160]] * 6, dtype=np.float64)
    colors = [class_color(label) for label in range(6)]
    draw_labels(image, boxes, ["name 0.50"] * 6, colors, 16)
    areas = [(image == color).all(-1).sum() for color in colors]
    assert min(areas) > 0.9 * max(areas)


def test_thousands_of_boxes_end_soon():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 500, (2000, 2))
    boxes = np.concatenate([corner, corner + 20], axis=1).astype(np.float32)
    picture = draw_detections(np.zeros((520, 520, 3), np.uint8), boxes, [0] * 2000, ["a 0.5"] * 2000)
    assert picture.any()


@pytest.mark.parametrize("box", [[-1e9, -1e9, 1e9, 1e9], [1e30, 1e30, 1e31, 1e31], [50, 50, 10, 10]])
def test_boxes_of_any_size_are_drawn(box):
    assert draw_detections(np.zeros((40, 60, 3), np.uint8), np.array([box], np.float32), [0], ["a"]).shape == (
        40,
        60,
        3,
    )


def test_text_is_cut_off_at_the_picture():
    picture = np.full((20, 30, 3), 255, np.uint8)
    draw_text(picture, "a very long name", (4, 4), 14)
    assert (picture[:4] == 255).all()
    assert picture[4:18, 4:].min() < 50
