"""Thumbnails of findings."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from cledet.data.images import ImageError, read_image
from cledet.data_check.findings import Box, Picture
from cledet.visualization.draw import jpeg, near, resized

SIDE = 480
"""Pixels of a thumbnail's longer side."""
ZOOM = 8.0
"""Maximum enlargement of a small image."""
MARKED, OTHER, BORDER = (236, 0, 110), (70, 190, 255), (128, 128, 128)
"""RGB of the finding's boxes, of other boxes, and of the border around the image."""
CROWDED = 60
"""Maximum number of other boxes drawn; more would hide the image."""
SMALL = 14
"""A box smaller than this many pixels is circled."""
MARGIN = 0.5
"""Maximum border, as a fraction of the image's side, for boxes that reach outside."""


def thumbnail(picture: Picture) -> bytes | None:
    """Draw an image with its boxes as JPEG; None if it cannot be read."""
    try:
        pixels = read_image(picture.path, picture.size)
    except ImageError:
        return None
    pixels, (left, top) = _add_border(pixels, picture.boxes)
    scale = min(SIDE / max(pixels.shape[:2]), ZOOM)
    canvas = resized(pixels, scale, cv2.INTER_NEAREST)
    others = picture.others if len(picture.others) <= CROWDED else ()
    for boxes, color, weight in ((others, OTHER, 1), (picture.boxes, MARKED, 2)):
        for x, y, w, h in boxes:
            if np.isfinite((x, y, w, h)).all():
                _mark(canvas, ((x + left) * scale, (y + top) * scale, w * scale, h * scale), color, weight)
    return jpeg(canvas, 80)


def _add_border(pixels: NDArray[np.uint8], boxes: tuple[Box, ...]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Add a border that shows boxes outside the image; return the image and the border's left and top widths."""
    height, width = pixels.shape[:2]
    known = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    known = known[np.isfinite(known).all(axis=1)]
    low, high = known[:, :2].min(0, initial=0), (known[:, :2] + known[:, 2:]).max(0, initial=0)
    limit = np.array([width, height]) * MARGIN
    left, top = np.clip(np.ceil(-low), 0, limit).astype(int).tolist()
    right, bottom = np.clip(np.ceil(high - (width, height)), 0, limit).astype(int).tolist()
    if not any((left, top, right, bottom)):
        return pixels, (0, 0)
    bordered = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=BORDER)
    return np.asarray(bordered, dtype=np.uint8), (left, top)


def _mark(canvas: NDArray[np.uint8], box: Box, color: tuple[int, int, int], weight: int) -> None:
    """Draw a box in place, and a circle around a small marked one."""
    x, y, w, h = box
    x1, y1, x2, y2 = (round(value) for value in near((x, y, x + w, y + h), SIDE).tolist())
    cv2.rectangle(canvas, (x1, y1), (x2, y2), color, weight, cv2.LINE_AA)
    if color == MARKED and max(abs(x2 - x1), abs(y2 - y1)) < SMALL:
        cv2.circle(canvas, ((x1 + x2) // 2, (y1 + y2) // 2), 2 * SMALL, color, weight, cv2.LINE_AA)
