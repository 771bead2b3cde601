"""Pure functions on an image, uint8 RGB [H, W, 3], and its boxes, float32 [n, 4] xyxy pixels.

Every function keeps the number and order of the boxes; what has left the image ends without width or height.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cledet.data.images import Pixels

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Augment:
    """How training images are varied; each is off at its neutral value."""

    flip: float = 0.5
    """Chance of a mirror image."""
    vflip: float = 0.0
    """Chance of turning upside down."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Range of a random scale: below 1 the image shrinks, above 1 a random part of it fills the whole."""
    photometric: float = 0.0
    """Strength of changes of brightness, contrast, saturation and hue, 0 to 1."""


def resize_short(image: Pixels, short: int, long: int) -> Pixels:
    """Resize so that the short side is `short`, or the long side `long` if that makes a smaller image."""
    return rescale(image, fit_scale(image, short, long))


def fit_scale(image: Pixels, short: int, long: int) -> float:
    """The factor by which `resize_short` resizes."""
    height, width = image.shape[:2]
    return min(short / min(height, width), long / max(height, width))


def rescale(image: Pixels, scale: float) -> Pixels:
    """Resize by a factor, sides rounded: bilinear, by area where shrinking more than twofold."""
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    method = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def scale_boxes(boxes: Boxes, old: tuple[int, int], new: tuple[int, int]) -> Boxes:
    """The boxes after an image of size `old` was resized to `new`, both (height, width)."""
    ratio = np.array([new[1] / old[1], new[0] / old[0]] * 2, dtype=np.float32)
    return boxes * ratio


def hflip(image: Pixels, boxes: Boxes) -> tuple[Pixels, Boxes]:
    """Mirror left and right."""
    x1, y1, x2, y2 = boxes.T
    width = image.shape[1]
    return image[:, ::-1], np.stack([width - x2, y1, width - x1, y2], axis=1)


def vflip(image: Pixels, boxes: Boxes) -> tuple[Pixels, Boxes]:
    """Mirror top and bottom."""
    x1, y1, x2, y2 = boxes.T
    height = image.shape[0]
    return image[::-1], np.stack([x1, height - y2, x2, height - y1], axis=1)


def random_crop(
    image: Pixels, boxes: Boxes, zoom: float, rng: np.random.Generator
) -> tuple[Pixels, Boxes, npt.NDArray[np.bool_]]:
    """Cut a window out, 1 / zoom as long and as high, anywhere.

    Returns the window, the boxes clipped to it, and [n] whether each box's centre is inside: an object whose
    centre was cut off is neither to be found nor background.
    """
    height, width = image.shape[:2]
    rows, columns = max(1, round(height / zoom)), max(1, round(width / zoom))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    moved = boxes - np.array([left, top, left, top], dtype=np.float32)
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    inside: npt.NDArray[np.bool_] = np.all((centre >= 0) & (centre < (columns, rows)), axis=1)
    return image[top : top + rows, left : left + columns], clip_boxes(moved, rows, columns), inside


def photometric(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast, saturation and hue at random, in one look-up in HSV."""
    contrast, saturation = 1 + strength * rng.uniform((-0.4, -0.5), (0.4, 0.5))
    brightness, hue = strength * rng.uniform((-32, -9), (32, 9))
    level = np.arange(256, dtype=np.float64)
    curves = np.stack([(level + hue) % 180, level * saturation, (level - 128) * contrast + 128 + brightness], axis=1)
    table = np.clip(np.round(curves), 0, 255).astype(np.uint8)[None]
    table[..., 0] %= 180
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return np.asarray(cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB), dtype=np.uint8)


def clip_boxes(boxes: Boxes, height: int, width: int) -> Boxes:
    """The part of every box that is inside the image."""
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))


def visible(boxes: Boxes) -> npt.NDArray[np.bool_]:
    """[n] whether a box has width and height; not a number counts as not."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
