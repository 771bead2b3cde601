"""Sheets of pictures: detections, to see at a glance what a model does, and batches, to see what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cledet.data.dataset import Batch
from cledet.data.images import read_image
from cledet.data.index import DetectionIndex
from cledet.inference.predictor import Detections, Predictor
from cledet.visualization.draw import draw_detections, hatch, resized, write_picture

CELL = (480, 400)
"""Width and height of a picture's place on the sheet."""


def save_previews(predictor: Predictor, index: DetectionIndex, path: Path, count: int = 12, columns: int = 4) -> None:
    """Write a sheet of `count` images of the split, evenly spaced, with their detections."""
    positions = np.unique(np.linspace(0, len(index) - 1, count).round().astype(int))
    pictures = [fit(predictor.predict(_image(index, i), None)).draw() for i in positions]
    write_picture(path, sheet(pictures, min(columns, len(pictures))))


def save_batch(batch: Batch, names: Sequence[str], path: Path, most: int = 16, columns: int = 4) -> None:
    """Write a sheet of the first images of a batch as a network gets them: padded, with what it is told is there.

    Boxes bear the names of their classes; ignored regions are hatched.
    """
    pictures = []
    for i in range(min(len(batch), most)):
        image, scale = _fit(np.ascontiguousarray(batch.images[i].permute(1, 2, 0).numpy()))
        count, ignored = int(batch.counts[i]), batch.ignored[i]
        image = hatch(image, (ignored[ignored.any(dim=1)] * scale).numpy())
        labels = batch.labels[i, :count].tolist()
        boxes = (batch.boxes[i, :count] * scale).numpy()
        pictures.append(draw_detections(image, boxes, labels, [names[label] for label in labels]))
    write_picture(path, sheet(pictures, min(columns, len(pictures))))


def fit(found: Detections) -> Detections:
    """The same detections on their image resized to its place on the sheet, so that captions stay legible."""
    image, scale = _fit(found.image)
    return replace(found, image=image, boxes=found.boxes * scale)


def _fit(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """An image resized to a place on the sheet, and by what factor."""
    width, height = CELL
    rows, columns = image.shape[:2]
    scale = min((width - 8) / columns, (height - 8) / rows)
    return resized(image, scale, cv2.INTER_CUBIC), scale


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
    return read_image(str(index.paths[position]), index.size(position))
