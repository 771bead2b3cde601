"""Drawing of boxes on pictures; resizing and writing of pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cledet.data.index import Floats
from cledet.io.atomic import write_whole

Image = NDArray[np.uint8]


def class_color(label: int) -> tuple[int, int, int]:
    """Return a bright RGB colour per class; hues advance by the golden ratio, so adjacent labels differ."""
    hue = (0.02 + label * 0.61803398875) % 1
    r, g, b = colorsys.hls_to_rgb(hue, 0.52 + 0.1 * (label % 2), 0.95)
    return round(255 * r), round(255 * g), round(255 * b)


def draw_detections(
    image: Image,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    captions: Sequence[str],
) -> Image:
    """Draw boxes [K, 4], highest score first, with captions on a copy of the RGB image [H, W, 3]."""
    picture = image.copy()
    unit = max(min(picture.shape[:2]) / 480, 0.8)
    for box, label in zip(boxes[::-1], labels[::-1]):  # the highest score last, on top
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), class_color(label), max(1, round(2 * unit)))
    for box, label, text in zip(boxes[::-1], labels[::-1], captions[::-1]):
        caption(picture, box, class_color(label), text, unit)
    return picture


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


def caption(picture: Image, box: NDArray[np.float32], color: tuple[int, int, int], text: str, unit: float) -> None:
    """Draw text on a filled bar above the box, or inside it at the edge of the picture."""
    font, size, weight = cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit, max(1, round(unit))
    (width, height), below = cv2.getTextSize(text, font, size, weight)
    pad = max(2, round(2 * unit))
    x = int(min(max(float(box[0]), 0), max(picture.shape[1] - width - 2 * pad, 0)))
    bottom = int(float(box[1]))
    if bottom - height - below - pad < 0:
        bottom = int(max(float(box[1]), 0)) + height + below + pad
    cv2.rectangle(picture, (x, bottom - height - below - pad), (x + width + 2 * pad, bottom), color, cv2.FILLED)
    dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    ink = (0, 0, 0) if dark else (255, 255, 255)
    cv2.putText(picture, text, (x + pad, bottom - below), font, size, ink, weight, cv2.LINE_AA)


def resized(image: Image, scale: float, enlarge: int = cv2.INTER_LINEAR) -> Image:
    """Resize the image [H, W, 3] by a factor; `enlarge` is OpenCV's interpolation for factors above 1."""
    rows, columns = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else enlarge
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=method), dtype=np.uint8)


def near(corners: ArrayLike, side: int) -> Floats:
    """Clip corners to the surroundings of a picture of that side, because OpenCV uses 32-bit coordinates."""
    return np.clip(np.asarray(corners, dtype=np.float64), -4 * side, 4 * side)


def jpeg(image: Image, quality: int) -> bytes:
    """Encode an RGB image [H, W, 3] as JPEG."""
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def write_picture(path: Path, image: Image) -> None:
    """Write an RGB image [H, W, 3] as JPEG."""
    write_whole(path, jpeg(image, 92), sync=False)
