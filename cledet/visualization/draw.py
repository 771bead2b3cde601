"""Drawing of boxes with labels on pictures; resizing and writing of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cledet.data.index import DetectionIndex, Floats
from cledet.io.atomic import write_whole
from cledet.visualization.label_layout import place_labels
from cledet.visualization.palette import BLACK, Color, class_color, ink_on
from cledet.visualization.text import text_mask

Image = NDArray[np.uint8]

LINE, TEXT = 1 / 240, 1 / 30
"""Width of a box's line and height of its label, as shares of the image's shorter side."""
LEAST_TEXT = 11
"""Height of the smallest legible label in pixels."""
SMALL = 0.75
"""Share of its height that a label has in a crowd that leaves no place for a larger one."""
JPEG_SIDE = 65_500
"""Most pixels a side that OpenCV writes as JPEG."""
EDGED = 160
"""Shorter side of the smallest image whose boxes have an edge."""


def draw_detections(
    image: Image,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    captions: Sequence[str],
) -> Image:
    """Draw boxes [K, 4], highest score first, with captions on a copy of the RGB image [H, W, 3]."""
    picture = np.ascontiguousarray(image).copy()
    side = min(picture.shape[:2])
    line = max(2, round(side * LINE)) if side >= EDGED else 1
    corners = near(boxes, max(picture.shape[:2])).reshape(-1, 4)
    colors = [class_color(label) for label in labels]
    for box, color in zip(corners[::-1], colors[::-1]):  # the highest score last, on top
        _draw_box(picture, box, color, line)
    draw_labels(picture, corners, captions, colors, max(LEAST_TEXT, round(side * TEXT)))
    return picture


def draw_objects(image: Image, index: DetectionIndex, i: int, scale: float) -> Image:
    """Draw the ground truth of the i-th image, resized by `scale`, on a copy of it, and hatch ignored regions."""
    rows, boxes = index.rows(i), index.boxes(i) * np.float32(scale)
    ignored, degenerate = index.ignore[rows], index.degenerate(rows)
    real = ~(ignored | degenerate)
    labels = index.labels[rows][real].tolist()
    image = hatch(image, boxes[ignored & ~degenerate])
    return draw_detections(image, boxes[real], labels, [index.classes[label] for label in labels])


def draw_labels(picture: Image, boxes: Floats, captions: Sequence[str], colors: Sequence[Color], height: int) -> None:
    """Draw captions of `height` pixels at boxes [K, 4] on the RGB picture, the most important first.

    No caption covers another one. In a crowd that leaves no place, one becomes smaller, or is left out.
    """
    masks = [[text_mask(text, h) for h in (height, max(LEAST_TEXT, round(SMALL * height)))] for text in captions]
    sizes = [[(mask.shape[1] + 2 * _margin(mask), mask.shape[0]) for mask in one] for one in masks]
    for place, one, color in zip(place_labels(boxes, sizes, picture.shape[:2]), masks, colors):
        if place is not None:
            left, top, variant = place
            mask = one[variant]
            margin = _margin(mask)
            picture[top : top + len(mask), left : left + mask.shape[1] + 2 * margin] = color
            _blend(picture, mask, (left + margin, top), ink_on(color))


def draw_text(picture: Image, text: str, place: tuple[int, int], height: int, color: Color = BLACK) -> None:
    """Draw text with its left and top at a place of the RGB picture; the part outside of the picture is cut off."""
    _blend(picture, text_mask(text, height), place, color)


def hatch(image: Image, boxes: NDArray[np.float32]) -> Image:
    """Hatch boxes [K, 4] with grey diagonals and a thin frame on a copy of the RGB image."""
    picture = image.copy()
    step, thick = 12, max(1, round(min(picture.shape[:2]) / 480))
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    lines = (rows + columns) % step < thick + 1
    for box in boxes:
        x1, y1, x2, y2 = (max(round(float(v)), 0) for v in box)
        part = picture[y1:y2, x1:x2]
        part[lines[y1:y2, x1:x2]] = 128
        cv2.rectangle(picture, (x1, y1), (x2, y2), (128, 128, 128), thick)
    return picture


def resized(image: Image, scale: float, enlarge: int = cv2.INTER_LINEAR) -> Image:
    """Resize the image [H, W, 3] by a factor; `enlarge` is OpenCV's interpolation for factors above 1."""
    rows, columns = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else enlarge
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=method), dtype=np.uint8)


def near(corners: ArrayLike, side: int) -> Floats:
    """Clip corners to the surroundings of a picture of that side, because OpenCV uses 32-bit coordinates."""
    return np.clip(np.asarray(corners, dtype=np.float64), -4 * side, 4 * side)


def jpeg(image: Image, quality: int) -> bytes:
    """Encode an RGB image [H, W, 3] as JPEG, which has at most JPEG_SIDE pixels a side: a larger image is shrunk."""
    if max(image.shape) > JPEG_SIDE:
        image = resized(image, JPEG_SIDE / max(image.shape))
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def write_picture(path: Path, image: Image) -> None:
    """Write an RGB image [H, W, 3] as JPEG."""
    write_whole(path, jpeg(image, 92), sync=False)


def _draw_box(picture: Image, box: Floats, color: Color, line: int) -> None:
    """Draw a rectangle; its outer edge, black or white, separates it from any background."""
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    if line > 1:
        edge = max(1, line // 4)
        out = (line + 1) // 2 + edge // 2
        cv2.rectangle(picture, (x1 - out, y1 - out), (x2 + out, y2 + out), ink_on(color), edge)
    cv2.rectangle(picture, (x1, y1), (x2, y2), color, line)


def _blend(picture: Image, mask: NDArray[np.uint8], place: tuple[int, int], color: Color) -> None:
    """Lay a colour over the picture where the mask [h, w], whose left and top are at a place, covers it."""
    left, top = place
    part = picture[top : top + mask.shape[0], left : left + mask.shape[1]]
    share = mask[: part.shape[0], : part.shape[1], None] / np.float32(255)
    part[:] = np.rint(part + share * (np.array(color, dtype=np.float32) - part))


def _margin(mask: NDArray[np.uint8]) -> int:
    """Return the space left and right of a label's text."""
    return max(2, len(mask) // 6)
