"""The worst images with what was found, what was not, and what is there."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cledet.data.images import ImageError, read_image
from cledet.data.index import DetectionIndex, Floats
from cledet.metrics.analysis import Analysis
from cledet.metrics.hardest_images import LostAP
from cledet.metrics.tide import KINDS
from cledet.visualization.draw import Image, caption, hatch, jpeg, near, resized

SIDE, ZOOM = 640, 3.0
"""Pixels of a picture's longer side, and how much a small one is enlarged at most."""
FEW, NAMED = 12, 30
"""Of more boxes names are shorter and right ones have none; and so many boxes are named at most."""


class Style(NamedTuple):
    """How a box is drawn."""

    color: tuple[int, int, int]
    """RGB, of Okabe and Ito's colours."""
    dash: int
    """Pixels of a dash; 0 for a whole line."""
    weight: int


OBJECT, RIGHT, MISSED = "object", "right", "missed"
WRONG = Style((213, 94, 0), 10, 2)
STYLES = {
    OBJECT: Style((255, 255, 255), 0, 1),
    RIGHT: Style((0, 114, 178), 0, 2),
    **dict.fromkeys(KINDS, WRONG),
    MISSED: Style((240, 228, 66), 3, 2),
}


class Shown(NamedTuple):
    """One of the worst images."""

    path: str
    text: str
    """What it costs, and what was right and wrong there."""
    content: bytes | None
    """JPEG; None where there is no file that can be read."""


class Mark(NamedTuple):
    """A box on a picture."""

    box: Floats
    """[4] left, top, width, height."""
    kind: str
    """Of STYLES: an object that is found, a right detection, a missed object, or a kind of wrong detection."""
    name: str


def worst_pictures(analysis: Analysis) -> list[Shown]:
    """The worst images, the worst first."""
    return [_shown(analysis, one) for one in analysis.worst]


def _shown(analysis: Analysis, one: LostAP) -> Shown:
    marks = _marks(analysis, one.image)
    counts = Counter(mark.kind for mark in marks)
    text = ", ".join(f"{counts[kind]} {kind}" for kind in (RIGHT, MISSED, *KINDS[:-1]) if counts[kind])
    path = str(analysis.index.paths[one.image])
    return Shown(path, f"costs {one.ap:.4f} AP: {text or 'nothing shown'}", _picture(analysis.index, one.image, marks))


def _marks(analysis: Analysis, image: int) -> list[Mark]:
    """What is to be drawn of an image: objects that are found, right detections, wrong ones, missed objects."""
    o, index = analysis.overlaps, analysis.index
    shown = np.flatnonzero((o.image == image) & (o.score >= analysis.confidence))
    rows = index.rows(image)
    real = np.arange(rows.start, rows.stop)[o.objects[rows]]
    found = np.isin(real, analysis.match.gt[shown])
    marks = [Mark(index.xywh[gt], OBJECT, "") for gt in real[found]]
    for i in shown[~analysis.match.ignored[shown]][::-1]:
        kind = RIGHT if analysis.match.correct[i] else KINDS[analysis.errors.kind[i]]
        marks.append(Mark(o.xywh[i], kind, f"{index.classes[o.label[i]]} {o.score[i]:.2f}"))
    marks = sorted(marks, key=lambda mark: mark.kind != RIGHT and mark.kind != OBJECT)
    return marks + [Mark(index.xywh[gt], MISSED, index.classes[index.labels[gt]]) for gt in real[~found]]


def _picture(index: DetectionIndex, image: int, marks: list[Mark]) -> bytes | None:
    """The image with the marks as JPEG, crowds hatched."""
    try:
        pixels = read_image(str(index.paths[image]), index.size(image))
    except ImageError:
        return None
    scale = min(SIDE / max(pixels.shape[:2]), ZOOM)
    rows = index.rows(image)
    crowds = index.boxes(image)[index.ignore[rows] & ~index.degenerate(rows)] * scale
    return jpeg(draw_marks(hatch(resized(pixels, scale), crowds), marks, scale), 80)


def draw_marks(picture: Image, marks: list[Mark], scale: float) -> Image:
    """A copy of the RGB picture [H, W, 3] with the marks, whose boxes are scaled; right ones below, names on top."""
    canvas = picture.copy()
    marks = [mark for mark in marks if np.isfinite(mark.box).all()]
    boxes = np.array([mark.box for mark in marks], dtype=np.float64).reshape(-1, 4) * scale
    boxes[:, 2:] += boxes[:, :2]
    corners = near(boxes, SIDE).astype(np.float32)
    for mark, box in zip(marks, corners):
        style = STYLES[mark.kind]
        _outline(canvas, box, style._replace(color=(0, 0, 0), weight=style.weight + 2))
        _outline(canvas, box, style)
    many = sum(mark.kind != OBJECT for mark in marks) > FEW
    named = [i for i, m in enumerate(marks) if m.kind != OBJECT and not (many and m.kind == RIGHT)]
    for i in named[-NAMED:]:
        kind, name = marks[i].kind, marks[i].name
        text = name if kind == RIGHT or (many and kind == MISSED) else f"{kind}: {name}"
        caption(canvas, corners[i], STYLES[kind].color, text, 0.65 if many else 0.8)
    return canvas


def _outline(canvas: Image, box: NDArray[np.float32], style: Style) -> None:
    """A rectangle, in dashes with gaps between, or whole."""
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    color, dash, weight = style
    if not dash:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, weight)
        return
    step = dash + max(dash, 7)
    for y in (y1, y2):
        for x in range(x1, x2, step):
            cv2.line(canvas, (x, y), (min(x + dash, x2), y), color, weight)
    for x in (x1, x2):
        for y in range(y1, y2, step):
            cv2.line(canvas, (x, y), (x, min(y + dash, y2)), color, weight)
