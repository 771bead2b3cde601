"""Fractions of an image's side, read as YOLO's reader does, compared with an exhaustive search of neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cledet.data.convert.fractions import to_fractions

WINDOW = 40
sides = st.integers(1, 20_000)
pixels = st.one_of(
    st.integers(-500, 20_000).map(float),
    st.integers(-50_000, 2_000_000).map(lambda hundredths: hundredths / 100),
    st.floats(-1e4, 1e5, allow_nan=False),
)


def read(centre: float, extent: float, side: int) -> tuple[float, float]:
    """As `YoloFolder.read`: centre * side - extent / 2 of the extent in pixels."""
    return centre * side - extent * side / 2, extent * side


def around(value: float) -> list[float]:
    below = above = value
    values = [value]
    for _ in range(WINDOW):
        below, above = np.nextafter(below, -np.inf), np.nextafter(above, np.inf)
        values += [below, above]
    return values


def write(start: float, extent: float, side: int) -> tuple[float, float]:
    centre, fraction = to_fractions(np.array([start]), np.array([extent]), np.array([float(side)]))
    return float(centre[0]), float(fraction[0])


@given(pixels, pixels, sides)
def test_no_neighbour_is_nearer(start: float, extent: float, side: int) -> None:
    left, width = read(*write(start, extent, side), side)
    errors = [abs(e * side - extent) for e in around(extent / side)]
    assert abs(width - extent) == min(errors)
    best = [e for e, error in zip(around(extent / side), errors) if error == min(errors)]
    centres = around((start + extent / 2) / side)
    assert abs(left - start) <= min(abs(c * side - e * side / 2 - start) for e in best for c in centres)


@given(st.floats(0, 1), st.floats(0, 1), sides)
def test_pixels_that_were_read_are_read_again(centre: float, extent: float, side: int) -> None:
    box = read(centre, extent, side)
    assert read(*write(*box, side), side) == box


@pytest.mark.parametrize("side", [1, 2, 64, 320, 640, 1024, 1280])
def test_whole_pixels_are_exact_where_the_side_is_a_sum_of_two_powers_of_two(side: int) -> None:
    starts, extents = (each.ravel().astype(float) for each in np.mgrid[0:side:7, 1 : side + 1 : 5])
    centre, extent = to_fractions(starts, extents, np.full(len(starts), float(side)))
    assert (extent * side == extents).all()
    assert (centre * side - extent * side / 2 == starts).all()


def test_eleven_whole_extents_of_480_pixels_have_no_fraction() -> None:
    reached = {extent for extent in range(1, 481) if extent in [e * 480 for e in around(extent / 480)]}
    lost = sorted({*range(1, 481)} - reached)
    assert lost == [31, 62, 123, 124, 125, 245, 246, 247, 248, 249, 250]
    assert 0 < abs(read(*write(0.0, 31.0, 480), 480)[1] - 31) < 1e-14


def test_no_boxes() -> None:
    empty = np.zeros(0)
    assert [len(each) for each in to_fractions(empty, empty, empty)] == [0, 0]
