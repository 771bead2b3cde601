"""Sliced inference: windows of a large image, and the boxes that their edges cut off.

Akyon et al., Slicing Aided Hyper Inference and Fine-tuning for Small Object Detection, arXiv 2202.06934.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cledet.models.postprocess import Detected
from cledet.ops.boxes import area, box_intersection

Window = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the image."""
EDGE = 0.01
"""A box that ends within this share of a window's side of the window's edge is cut off there."""
COVERED = 0.8
"""A box that is cut off is dropped if a whole box of its class covers more than this share of it."""
PAIRS = 2**24
"""Pairs of boxes that are compared at a time."""


def slice_windows(height: int, width: int, side: int, overlap: float) -> list[Window]:
    """Return the windows that cover an image, row by row, at most `side` pixels wide and high.

    Neighbours overlap by int(overlap * side) pixels; the last of a row or column is moved back inside the image.
    """
    return [
        (left, top, min(left + side, width), min(top + side, height))
        for top in _starts(height, side, overlap)
        for left in _starts(width, side, overlap)
    ]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where windows begin along one direction."""
    step, last = side - int(overlap * side), max(0, length - side)
    return [*range(0, last, step), last]


def cut_off(boxes: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Mark the boxes [K, 4] that end at an edge of the window inside an image of size (height, width): bool [K]."""
    left, top, right, bottom = window
    height, width = size
    dx, dy = EDGE * (right - left), EDGE * (bottom - top)
    x1, y1, x2, y2 = boxes.unbind(1)
    cut = torch.zeros_like(x1, dtype=torch.bool)
    if left > 0:
        cut |= x1 <= left + dx
    if top > 0:
        cut |= y1 <= top + dy
    if right < width:
        cut |= x2 >= right - dx
    if bottom < height:
        cut |= y2 >= bottom - dy
    return cut


def drop_covered(found: Detected, cut: Tensor, agnostic: bool = False) -> Detected:
    """Drop the boxes that are cut off and covered by a whole box of their class, of any class if `agnostic`.

    cut [K] bool marks the boxes that are cut off. NMS alone would keep them, as the part of an object and the whole
    have a low IoU.
    """
    parts, wholes = cut.nonzero().squeeze(1), (~cut).nonzero().squeeze(1)
    keep = ~cut
    if not len(parts) or not len(wholes):
        return found
    for some in parts.split(max(1, PAIRS // len(wholes))):
        shared = box_intersection(found.boxes[some], found.boxes[wholes])
        if not agnostic:
            shared = shared * (found.labels[some, None] == found.labels[wholes])
        keep[some] = shared.amax(1) <= COVERED * area(found.boxes[some])
    return Detected(*(values[keep] for values in found))
