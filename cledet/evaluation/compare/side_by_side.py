"""Pictures of an image with its ground truth and the detections of two entries side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from cledet.data.images import read_image
from cledet.data.index import DetectionIndex
from cledet.io.atomic import write_whole
from cledet.metrics.results_file import DetectionRows
from cledet.visualization.draw import Image, draw_detections, draw_objects, draw_text, resized

HEIGHT = 420
"""Height of a panel in pixels."""
HEAD = 28
"""Height of its caption in pixels."""


def save_side_by_side(
    folder: Path, index: DetectionIndex, positions: list[int], entries: Mapping[str, DetectionRows], conf: float
) -> int:
    """Write a PNG for each image that has a file, ground truth first, and return their number.

    Detections that score below `conf` are left out.
    """
    written = 0
    for number, i in enumerate(positions, 1):
        path = Path(str(index.paths[i]))
        if path.is_file():
            _, data = cv2.imencode(".png", cv2.cvtColor(_panels(index, i, entries, conf), cv2.COLOR_RGB2BGR))
            write_whole(folder / f"{number:02d}-{path.stem}.png", data.tobytes(), sync=False)
            written += 1
    return written


def _panels(index: DetectionIndex, i: int, entries: Mapping[str, DetectionRows], conf: float) -> Image:
    image = read_image(str(index.paths[i]), index.annotated_size(i))
    scale = HEIGHT / image.shape[0]
    small = resized(image, scale)
    panels = [_with_caption(draw_objects(small, index, i, scale), "ground truth")]
    for name, results in entries.items():
        rows = results[(results[:, 0] == index.image_ids[i]) & (results[:, 5] >= conf)]
        panels.append(_with_caption(_draw_detections(small, index, rows, scale), name))
    gap = np.full((HEIGHT + HEAD, 6, 3), 255, dtype=np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def _draw_detections(image: Image, index: DetectionIndex, rows: DetectionRows, scale: float) -> Image:
    rows = rows[np.argsort(-rows[:, 5], kind="stable")]
    boxes = np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]], axis=1) * scale
    label_of = {category: label for label, category in enumerate(index.category_ids.tolist())}
    labels = [label_of[int(category)] for category in rows[:, 6]]
    captions = [f"{index.classes[label]} {score:.2f}" for label, score in zip(labels, rows[:, 5])]
    return draw_detections(image, boxes.astype(np.float32), labels, captions)


def _with_caption(image: Image, text: str) -> Image:
    head = np.full((HEAD, image.shape[1], 3), 255, dtype=np.uint8)
    draw_text(head, text, (6, 4), HEAD - 8)
    return np.concatenate([head, image])
