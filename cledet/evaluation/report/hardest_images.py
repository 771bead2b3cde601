"""Pictures of the hardest images with true positives, false positives and missed objects."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import cv2
import numpy as np

from cledet.data.images import ImageError, read_image
from cledet.data.index import DetectionIndex, Floats
from cledet.metrics.analysis import Analysis
from cledet.metrics.tide import KINDS
from cledet.visualization.draw import Image, draw_labels, hatch, jpeg, near, resized

SIDE, ZOOM = 640, 3.0
"""Pixels of the longer side of a picture, and the largest scale of a small image."""
FEW, NAMED = 12, 30
"""With more boxes, captions are short and true positives have none; and the largest number of captions."""


OBJECT, RIGHT, MISSED = "object", "right", "missed"
LABEL, DETECTION = "label", "detection"
COLORS = {
    OBJECT: (255, 255, 255),
    RIGHT: (0, 114, 178),
    **dict.fromkeys(KINDS, (213, 94, 0)),
    MISSED: (240, 228, 66),
    LABEL: (240, 228, 66),
    DETECTION: (213, 94, 0),
}
"""RGB colours of Okabe and Ito, which colour-blind people can tell apart."""


class Picture(NamedTuple):
    """A picture of the report: one of the hardest images, or a suspected label error."""

    path: str
    text: str
    """Caption."""
    content: bytes | None
    """JPEG; None without a readable file."""


class Mark(NamedTuple):
    """A box on a picture."""

    box: Floats
    """[4] left, top, width, height."""
    kind: str
    """A key of COLORS: detected object, true positive, missed object, kind of false positive, label or detection."""
    name: str


def draw_hardest_images(analysis: Analysis) -> list[Picture]:
    """Draw the hardest images, the hardest first, with the numbers of right, missed and wrong boxes."""
    drawn = []
    for image, ap in analysis.hardest:
        marks = _marks(analysis, image)
        counts = Counter(mark.kind for mark in marks)
        text = ", ".join(f"{counts[kind]} {kind}" for kind in (RIGHT, MISSED, *KINDS[:-1]) if counts[kind])
        content = _picture(analysis.index, image, marks)
        caption = f"costs {ap:.4f} AP: {text or 'nothing shown'}"
        drawn.append(Picture(str(analysis.index.paths[image]), caption, content))
    return drawn


def _marks(analysis: Analysis, image: int) -> list[Mark]:
    """Collect the boxes to draw: detected objects, true positives, false positives, missed objects."""
    o, index = analysis.overlaps, analysis.index
    shown = np.flatnonzero((o.image == image) & (o.score >= analysis.confidence))
    rows = index.rows(image)
    real = np.arange(rows.start, rows.stop)[o.objects[rows]]
    detected = np.isin(real, analysis.match.gt[shown])
    marks = [Mark(index.xywh[gt], OBJECT, "") for gt in real[detected]]
    for i in shown[~analysis.match.ignored[shown]][::-1]:
        kind = RIGHT if analysis.match.correct[i] else KINDS[analysis.errors.kind[i]]
        marks.append(Mark(o.xywh[i], kind, f"{index.classes[o.label[i]]} {o.score[i]:.2f}"))
    marks = sorted(marks, key=lambda mark: mark.kind != RIGHT and mark.kind != OBJECT)
    return marks + [Mark(index.xywh[gt], MISSED, index.classes[index.labels[gt]]) for gt in real[~detected]]


def _picture(index: DetectionIndex, image: int, marks: list[Mark]) -> bytes | None:
    """Draw the marks on the image and hatch crowds; returns JPEG."""
    try:
        pixels = read_image(str(index.paths[image]), index.annotated_size(image))
    except ImageError:
        return None
    scale = min(SIDE / max(pixels.shape[:2]), ZOOM)
    rows = index.rows(image)
    crowds = index.boxes(image)[index.ignore[rows] & ~index.degenerate(rows)] * scale
    return jpeg(draw_marks(hatch(resized(pixels, scale), crowds), marks, scale), 80)


def draw_marks(picture: Image, marks: list[Mark], scale: float) -> Image:
    """Draw marks with scaled boxes on a copy of the RGB picture [H, W, 3]; captions are on top."""
    canvas = picture.copy()
    marks = [mark for mark in marks if np.isfinite(mark.box).all()]
    boxes = np.array([mark.box for mark in marks], dtype=np.float64).reshape(-1, 4) * scale
    boxes[:, 2:] += boxes[:, :2]
    corners = near(boxes, SIDE)
    for mark, box in zip(marks, corners):
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        weight = 1 if mark.kind == OBJECT else 2
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (0, 0, 0), weight + 2)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), COLORS[mark.kind], weight)
    many = sum(mark.kind != OBJECT for mark in marks) > FEW
    named = [i for i, m in enumerate(marks) if m.kind != OBJECT and not (many and m.kind == RIGHT)]
    named = named[: -NAMED - 1 : -1]  # the last ones are the most important
    short = (RIGHT, LABEL, DETECTION, *((MISSED,) if many else ()))
    captions = [marks[i].name if marks[i].kind in short else f"{marks[i].kind}: {marks[i].name}" for i in named]
    draw_labels(canvas, corners[named], captions, [COLORS[marks[i].kind] for i in named], 15 if many else 18)
    return canvas
