"""Pictures of suspected label errors: the label and the detection on the part of the image around them."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from cledet.data.images import ImageError, Pixels, read_image
from cledet.data.index import Floats
from cledet.evaluation.report.hardest_images import DETECTION, LABEL, OBJECT, Mark, Picture, draw_marks
from cledet.metrics.analysis import Analysis
from cledet.metrics.suspects import Suspect
from cledet.visualization.draw import jpeg, resized

MOST = 24
"""Largest number of pictures."""
SIDE, ZOOM = 400, 4.0
"""Pixels of the longer side of a picture, and the largest scale."""
MARGIN, LEAST_MARGIN = 1.0, 24
"""Space around the boxes: a share of their longer side, and at least so many pixels."""


def draw_suspects(analysis: Analysis) -> list[Picture]:
    """Draw the first suspects, with rank, kind, classes and score."""
    index, drawn = analysis.index, []
    for rank, suspect in enumerate((analysis.suspects or [])[:MOST], 1):
        text = f"{rank}. {suspect.text(analysis.overlaps)} (score {suspect.score:.2f})"
        path = str(index.paths[suspect.image])
        content = None
        with suppress(ImageError):
            pixels = read_image(path, index.annotated_size(suspect.image))
            content = jpeg(_picture(analysis, suspect, pixels), 80)
        drawn.append(Picture(path, text, content))
    return drawn


def _picture(analysis: Analysis, suspect: Suspect, pixels: Pixels) -> Pixels:
    """Draw the label, the detection and thin lines of the other labels on the part around the first two."""
    o, index = analysis.overlaps, analysis.index
    rows = np.arange(*index.rows(suspect.image).indices(index.num_boxes))
    marks = [Mark(index.xywh[row], OBJECT, "") for row in rows[rows != suspect.gt]]
    own = []
    if suspect.gt >= 0:
        own.append(Mark(index.xywh[suspect.gt], LABEL, f"label: {index.classes[index.labels[suspect.gt]]}"))
    if suspect.detection >= 0:
        name = f"{index.classes[o.label[suspect.detection]]} {o.score[suspect.detection]:.2f}"
        own.append(Mark(o.xywh[suspect.detection], DETECTION, name))
    x1, y1, x2, y2 = _surroundings(np.array([mark.box for mark in own]), pixels.shape[:2])
    scale = min(SIDE / max(x2 - x1, y2 - y1), ZOOM)
    moved = [mark._replace(box=mark.box - (x1, y1, 0, 0)) for mark in marks + own]
    return draw_marks(resized(pixels[y1:y2, x1:x2], scale), moved, scale)


def _surroundings(xywh: Floats, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the part x1, y1, x2, y2 of an image of `shape` (height, width) around boxes [K, 4]; never empty."""
    low, high = xywh[:, :2].min(axis=0), (xywh[:, :2] + xywh[:, 2:]).max(axis=0)
    margin = max(MARGIN * float((high - low).max()), LEAST_MARGIN)
    end = np.array(shape[1::-1])
    first = np.clip(np.floor(low - margin), 0, end - 1).astype(np.int64)
    last = np.clip(np.ceil(high + margin), first + 1, end).astype(np.int64)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])
