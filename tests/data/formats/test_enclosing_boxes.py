"""Enclosing boxes, against numbers worked by hand and against many points on the shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cledet.data.formats.enclosing_boxes import box_of_ellipse, box_of_points, box_of_rectangle

side, angle = st.floats(0, 1000), st.floats(-720, 720)


def test_points() -> None:
    assert box_of_points([3, 1, 2], [5, 9, 7.5]) == (1, 5, 2, 4)
    assert box_of_points([3, 3], [5, 5]) == (3, 5, 0, 0)
    with pytest.raises(ValueError, match="1 and 1 coordinates"):
        box_of_points([3], [5])


@pytest.mark.parametrize(
    ("degrees", "pivot", "box"),
    [
        (0, (0, 0), (10, 20, 40, 30)),
        (360, (7, 7), (10, 20, 40, 30)),
        (90, (10, 20), (-20, 20, 30, 40)),  # clockwise about its top left corner: it hangs down, to the left
        (180, (10, 20), (-30, -10, 40, 30)),
        (-90, (10, 20), (10, -20, 30, 40)),
        (90, (30, 35), (15, 15, 30, 40)),  # about its centre, which stays
        (45, (30, 35), (30 - 35 / 2**0.5, 35 - 35 / 2**0.5, 70 / 2**0.5, 70 / 2**0.5)),
    ],
)
def test_rectangles_turn_clockwise(degrees: float, pivot: tuple[float, float], box: tuple[float, ...]) -> None:
    assert box_of_rectangle((10, 20, 40, 30), degrees, pivot) == pytest.approx(box)


@given(side, side, side, side, angle)
def test_no_rotation_changes_no_bit(left: float, top: float, width: float, height: float, turn: float) -> None:
    box = (left, top, width, height)
    assert box_of_rectangle(box, 0, (left, top)) == box
    turned = box_of_rectangle(box, turn, (left + width / 2, top + height / 2))
    assert turned[0] + turned[2] / 2 == pytest.approx(left + width / 2, abs=1e-6)
    assert turned[2] * turned[3] >= width * height - 1e-6


@given(side, side, side, side, angle)
def test_ellipses_touch_their_boxes(x: float, y: float, a: float, b: float, degrees: float) -> None:
    t, turn = np.linspace(0, 2 * np.pi, 2001), math.radians(degrees)
    xs = x + a * np.cos(t) * math.cos(turn) - b * np.sin(t) * math.sin(turn)
    ys = y + a * np.cos(t) * math.sin(turn) + b * np.sin(t) * math.cos(turn)
    expected = (xs.min(), ys.min(), np.ptp(xs), np.ptp(ys))
    assert box_of_ellipse((x, y), (a, b), degrees) == pytest.approx(expected, abs=0.01)
    assert box_of_ellipse((x, y), (a, a)) == (x - a, y - a, 2 * a, 2 * a)
