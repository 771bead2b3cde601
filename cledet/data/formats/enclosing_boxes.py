"""Enclosing boxes, left, top, width and height, of the shapes that labelling tools draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]


def box_of_points(xs: Sequence[float], ys: Sequence[float]) -> Box:
    """Return the box of at least two points. Raises ValueError for fewer, which enclose nothing."""
    if len(xs) < 2 or len(xs) != len(ys):
        raise ValueError(f"{len(xs)} and {len(ys)} coordinates instead of two points or more")
    left, top = min(xs), min(ys)
    return left, top, max(xs) - left, max(ys) - top


def box_of_rectangle(box: Box, degrees: float, pivot: tuple[float, float]) -> Box:
    """Return the box of a rectangle that is rotated clockwise about a point; unchanged for 0 degrees."""
    if degrees % 360 == 0:
        return box
    left, top, width, height = box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x - pivot[0], y - pivot[1]) for x in (left, left + width) for y in (top, top + height)]
    return box_of_points(
        [pivot[0] + x * cos - y * sin for x, y in corners], [pivot[1] + x * sin + y * cos for x, y in corners]
    )


def box_of_ellipse(center: tuple[float, float], radii: tuple[float, float], degrees: float = 0) -> Box:
    """Return the box of an ellipse whose radii are rotated clockwise about its centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if degrees % 180 == 0:
        cos, sin = 1.0, 0.0
    half_width, half_height = math.hypot(radii[0] * cos, radii[1] * sin), math.hypot(radii[0] * sin, radii[1] * cos)
    return center[0] - half_width, center[1] - half_height, 2 * half_width, 2 * half_height
