"""A sheet of pictures with detections, to see at a glance what a model does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cledet.data.images import read_image
from cledet.data.index import DetectionIndex
from cledet.engine.predictor import Detections, Predictor, write_picture

CELL = (480, 400)
"""Width and height of a picture's place on the sheet."""


def save_gallery(predictor: Predictor, index: DetectionIndex, path: Path, count: int = 12, columns: int = 4) -> None:
    """Write a sheet of `count` images of the split, evenly spaced, with their detections."""
    positions = np.unique(np.linspace(0, len(index) - 1, count).round().astype(int))
    pictures = [fit(predictor.predict(_image(index, i), None)).draw() for i in positions]
    write_picture(path, sheet(pictures, min(columns, len(pictures))))


def fit(found: Detections) -> Detections:
    """The same detections on their image resized to its place on the sheet, so that captions stay legible."""
    width, height = CELL
    rows, columns = found.image.shape[:2]
    scale = min((width - 8) / columns, (height - 8) / rows)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(found.image, (round(columns * scale), round(rows * scale)), interpolation=method)
    return replace(found, image=np.asarray(resized, dtype=np.uint8), boxes=found.boxes * scale)


def sheet(pictures: list[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """RGB pictures that fit into CELL, each in the middle of its place, row by row."""
    width, height = CELL
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top = i // columns * height + (height - picture.shape[0]) // 2
        left = i % columns * width + (width - picture.shape[1]) // 2
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def _image(index: DetectionIndex, position: int) -> NDArray[np.uint8]:
    """The image as training and evaluation see it."""
    width, height = index.sizes[position].tolist()
    return read_image(str(index.paths[position]), (width, height) if width > 0 else None)
