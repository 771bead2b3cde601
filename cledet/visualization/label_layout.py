"""Places for labels near their boxes, such that no label covers another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cledet.data.index import Floats

Size = tuple[int, int]
"""Width and height of a label in pixels."""
Place = tuple[int, int, int]
"""Left and top of a label in pixels, and the index of its size."""
REACH = 4
"""Heights of a label by which it may be moved along its box."""


def place_labels(boxes: Floats, sizes: Sequence[Sequence[Size]], shape: tuple[int, int]) -> list[Place | None]:
    """Place a label at each box [K, 4] of an image of `shape` (height, width), the most important first.

    A label of several possible sizes takes the first for which there is a place: above its box, else below, inside,
    beside or along it. It is None if all places are covered by labels before it, or if it is larger than the image.
    """
    taken = np.empty((len(boxes), 4), dtype=np.int64)
    count, places = 0, list[Place | None]()
    for box, variants in zip(boxes, sizes):
        for number, (width, height) in enumerate(variants):
            candidates = _candidates(box, (width, height), shape)
            free = candidates[_is_free(candidates, (width, height), taken[:count])]
            if len(free):
                left, top = free[0].tolist()
                places.append((left, top, number))
                taken[count] = (left, top, left + width, top + height)
                count += 1
                break
        else:
            places.append(None)
    return places


def _candidates(box: Floats, size: Size, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return the places [P, 2] for a label, best first: those within the image, then those moved into it."""
    (width, height), (rows, columns) = size, shape
    if width > columns or height > rows:
        return np.empty((0, 2), dtype=np.int64)
    x1, y1, x2, y2 = (int(v) for v in np.round(box))
    left, right = x1, x2 - width
    shifts = [step * height for step in range(1, REACH + 1)]
    places = np.array(
        [
            *((x, y) for y in (y1 - height, y2, y1, y2 - height) for x in (left, right)),
            (x2, y1),
            (x1 - width, y1),
            *((x, y1 + shift) for shift in shifts for x in (left, right)),
            *((x, y1 - height - shift) for shift in shifts for x in (left, right)),
        ],
        dtype=np.int64,
    )
    inside = np.clip(places, 0, (columns - width, rows - height))
    return inside[np.argsort((inside != places).any(axis=1), kind="stable")]


def _is_free(places: NDArray[np.int64], size: Size, taken: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which places [P, 2] overlap none of the rectangles [T, 4]."""
    x, y = places[:, :1], places[:, 1:]
    overlap = (x < taken[:, 2]) & (x + size[0] > taken[:, 0]) & (y < taken[:, 3]) & (y + size[1] > taken[:, 1])
    return np.logical_not(overlap.any(axis=1))
