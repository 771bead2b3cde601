"""Pure functions on an image, uint8 RGB [H, W, 3], and its boxes, float32 [n, 4] xyxy pixels.

Every function keeps the number and order of the boxes; boxes outside the image end without width or height. No
function changes an image in place.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from cledet.data.images import Pixels

Boxes = npt.NDArray[np.float32]
Window = tuple[int, int, int, int]
"""Top, left, rows and columns of a part of an image."""


def resize_short(image: Pixels, short: int, long: int) -> Pixels:
    """Resize so that the short side is `short`, or the long side `long` if that makes a smaller image."""
    scale = fit_scale(image, short, long)
    return resize(image, scaled_size(image, scale), scale)


def canvas_limits(image: Pixels, canvas: tuple[int, int]) -> tuple[int, int]:
    """Return the limits of the short and the long side by which an image fits into a canvas (height, width)."""
    height, width = canvas
    return (height, width) if image.shape[0] <= image.shape[1] else (width, height)


def fit_scale(image: Pixels, short: int, long: int) -> float:
    """Return the factor by which `resize_short` resizes."""
    height, width = image.shape[:2]
    return min(short / min(height, width), long / max(height, width))


def resized_sizes(sizes: npt.NDArray[np.int32], short: int, long: int) -> npt.NDArray[np.int64]:
    """Compute the sizes of images of these positive sizes [I, 2] after `resize_short`."""
    sides = sizes.astype(np.float64)
    scale = np.minimum(short / sides.min(axis=1), long / sides.max(axis=1))
    return np.maximum(np.round(sides * scale[:, None]), 1).astype(np.int64)


def scaled_size(image: Pixels, scale: float) -> tuple[int, int]:
    """Return height and width of the image times a factor, rounded, at least 1."""
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return height, width


def resize(image: Pixels, size: tuple[int, int], scale: float) -> Pixels:
    """Resize to (height, width), `scale` times as large: bilinear, or by area when shrinking more than twofold."""
    if size == image.shape[:2]:
        return image
    method = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), dtype=np.uint8)


def scale_boxes(boxes: Boxes, old: tuple[int, int], new: tuple[int, int]) -> Boxes:
    """Scale boxes from an image of size `old` to one of size `new`, both (height, width)."""
    ratio = np.array([new[1] / old[1], new[0] / old[0]] * 2, dtype=np.float32)
    return boxes * ratio


def flip(image: Pixels, boxes: Boxes, axis: int) -> tuple[Pixels, Boxes]:
    """Flip top and bottom (axis 0), or left and right (axis 1)."""
    low, high = 1 - axis, 3 - axis
    moved = boxes.copy()
    moved[:, [low, high]] = image.shape[axis] - boxes[:, [high, low]]
    return np.asarray(cv2.flip(image, axis), dtype=np.uint8), moved


def random_window(height: int, width: int, rows: int, columns: int, rng: np.random.Generator) -> Window:
    """Draw a window of this size anywhere in the image; at least a pixel, at most the image."""
    rows, columns = min(max(rows, 1), height), min(max(columns, 1), width)
    return int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1)), rows, columns


def window_around(box: Boxes, height: int, width: int, rows: int, columns: int, rng: np.random.Generator) -> Window:
    """Draw a window of this size, enlarged if necessary, that contains a whole box [4]."""
    (left, top), (right, bottom) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    rows, columns = min(max(rows, int(bottom - top)), height), min(max(columns, int(right - left)), width)
    first = max(0, int(bottom) - rows), max(0, int(right) - columns)
    last = min(int(top), height - rows), min(int(left), width - columns)
    return int(rng.integers(first[0], last[0] + 1)), int(rng.integers(first[1], last[1] + 1)), rows, columns


def covered_share(boxes: Boxes, window: Window) -> npt.NDArray[np.float32]:
    """Compute the share [n] of each box's area inside a window, 0 to 1; 0 for a box without width or height."""
    top, left, rows, columns = window
    near, far = np.array([[left, top], [left + columns, top + rows]], dtype=np.float32)
    overlap = np.maximum(np.minimum(boxes[:, 2:], far) - np.maximum(boxes[:, :2], near), 0)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.asarray(np.prod(overlap, axis=1) / np.where(areas > 0, areas, 1), dtype=np.float32)


def photometric(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast, saturation and hue at random, with one look-up table in HSV."""
    contrast, saturation = 1 + strength * rng.uniform((-0.4, -0.5), (0.4, 0.5))
    brightness, hue = strength * rng.uniform((-32, -9), (32, 9))
    level = np.arange(256, dtype=np.float64)
    curves = np.stack([(level + hue) % 180, level * saturation, (level - 128) * contrast + 128 + brightness], axis=1)
    table = np.clip(np.round(curves), 0, 255).astype(np.uint8)[None]
    table[..., 0] %= 180
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return np.asarray(cv2.cvtColor(cv2.LUT(hsv, table, dst=hsv), cv2.COLOR_HSV2RGB), dtype=np.uint8)


def clip_boxes(boxes: Boxes, height: int, width: int) -> Boxes:
    """Clip boxes to the image."""
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))


def has_extent(boxes: Boxes) -> npt.NDArray[np.bool_]:
    """Mark the boxes [n] with positive width and height; False for NaN."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
