"""Fractions of an image's side that YOLO's reader turns back into the same pixels, or the nearest possible."""

from __future__ import annotations

import numpy as np

from cledet.data.index import Floats

NEIGHBOURS = 4
"""Floating-point numbers searched on either side of a quotient; the nearest result is never farther away."""


def to_fractions(start: Floats, extent: Floats, side: Floats) -> tuple[Floats, Floats]:
    """Return the centre and extent [B], in fractions of the side, that read as these pixels.

    Reading computes `extent = e * side` and `start = c * side - extent / 2` in float64. Of all numbers, `e` gives the
    nearest extent, and `c` then the nearest start. Only one in two or so extents of many digits can be reached, and a
    start has no finer steps than the box's centre has: the rest is off by a rounding error.
    """
    extents = _around(extent / side)
    error = np.abs(extents * side - extent)
    extents = np.where(error == error.min(axis=0), extents, np.nan)  # several may give the same or equally near pixels
    best_error, best = np.full(start.shape, np.inf), (np.zeros_like(start), np.zeros_like(start))
    for e in extents:
        pixels = e * side
        centres = _around((start + pixels / 2) / side)
        errors = np.abs(centres * side - pixels / 2 - start)
        rows = np.nan_to_num(errors, nan=np.inf).argmin(axis=0)
        errors, c = (np.take_along_axis(each, rows[None], axis=0)[0] for each in (errors, centres))
        better = errors < best_error  # False for NaN
        best_error = np.where(better, errors, best_error)
        best = np.where(better, c, best[0]), np.where(better, e, best[1])
    return best


def _around(values: Floats) -> Floats:
    """Return the values and their neighbours [1 + 2 * NEIGHBOURS, B], the nearest first."""
    below = above = values
    rows = [values]
    for _ in range(NEIGHBOURS):
        below, above = np.nextafter(below, -np.inf), np.nextafter(above, np.inf)
        rows += [below, above]
    return np.stack(rows)
