"""Anchor coverage: the share of objects that a model's anchors match, and better anchor settings."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cledet.data_check.statistics import COCO_AREAS, Objects
from cledet.models.anchors import STRIDES, Anchors

FOREGROUND, BACKGROUND = 0.5, 0.4
"""IoU from which an anchor is assigned to an object, and below which it is background (Lin et al. 2017)."""
TARGET = 0.95
"""The share of objects that anchors should cover; below, other settings are tried."""
SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
"""Values of --anchor-scale that are tried."""
ZOOMS = (1.25, 1.6, 2.0)
"""Multiples of --imgsz that are tried if no scale is sufficient."""
SAMPLES = 20_000
"""Number of evenly spaced objects used in the trials."""
MIN_GAIN, MIN_RESIZING_GAIN = 0.005, 0.02
"""Minimum gain of a suggested scale, and of a suggested image size, which costs time and memory."""
PADDING = 32
"""Image sides are padded to a multiple of this."""
_CHUNK = 1 << 14


class Coverage(NamedTuple):
    """Shares of objects whose best anchor has an IoU of 0.5 or more (all, and by size), and of 0.4 or more.

    Sizes are COCO's, in pixels of the network's input; a share is None without such objects.
    """

    objects: int
    reached: float | None
    small: float | None
    medium: float | None
    large: float | None
    nearly: float | None


class Suggestion(NamedTuple):
    """Anchor settings, and the share of objects that they cover."""

    imgsz: int
    anchor_scale: float
    reached: float


def best_iou(objects: Objects, scale: float) -> Tensor:
    """Compute the highest IoU [G] of each resized object with any anchor of its image, exactly.

    The intersection of two boxes is the product of their horizontal and vertical overlaps, and each decreases with the
    distance of the centres. So the best anchor of a shape is, in each direction, at one of the two grid positions
    around the object's centre: 4 comparisons per shape for 45 shapes, instead of 200,000 anchors.
    """
    boxes, sizes = torch.from_numpy(objects.boxes), torch.from_numpy(objects.sizes)
    parts = zip(boxes.split(_CHUNK), sizes.split(_CHUNK))
    return torch.cat([boxes.new_zeros(0), *(_best_iou(part, size, scale) for part, size in parts)])


def measure_coverage(objects: Objects, iou: Tensor) -> Coverage:
    """Compute the covered shares of resized objects from the IoU [G] of their best anchors."""
    best, kind = iou.numpy(), np.digitize(objects.areas(), COCO_AREAS)
    small, medium, large = (_share(best[kind == i] >= FOREGROUND) for i in range(3))
    return Coverage(len(best), _share(best >= FOREGROUND), small, medium, large, _share(best >= BACKGROUND))


def suggest(objects: Objects, imgsz: int, scale: float) -> Suggestion | None:
    """Find the anchor scale, or else image size and scale, that cover most of these objects.

    Returns None if the current settings reach TARGET, or if no other setting gains enough.
    """
    current = covered_share(objects, imgsz, scale)
    if len(objects.rows) == 0 or current >= TARGET:
        return None
    step = -(-len(objects.rows) // SAMPLES)
    sample = Objects(objects.rows[::step], objects.boxes[::step], objects.sizes[::step])
    best = _best_scale(sample, imgsz, scale)
    if best.reached < TARGET:
        larger = [_best_scale(sample, round(imgsz * zoom / PADDING) * PADDING, scale) for zoom in ZOOMS]
        enough = min(TARGET, max(option.reached for option in larger) - MIN_GAIN)
        smallest = next(option for option in larger if option.reached >= enough)
        best = smallest if smallest.reached >= best.reached + MIN_RESIZING_GAIN else best
    share = covered_share(objects, best.imgsz, best.anchor_scale)
    return Suggestion(best.imgsz, best.anchor_scale, share) if share >= current + MIN_GAIN else None


def covered_share(objects: Objects, imgsz: int, scale: float) -> float:
    """Compute the share of objects, resized to `imgsz`, that the anchors cover; 0 without objects."""
    iou = best_iou(objects.resized(imgsz), scale).numpy()
    return _share(iou >= FOREGROUND) or 0.0


def _best_scale(objects: Objects, imgsz: int, scale: float) -> Suggestion:
    """Return the scale of highest coverage, rounded to a thousandth; of equal ones the nearest to `scale`."""
    options = [Suggestion(imgsz, value, covered_share(objects, imgsz, value)) for value in SCALES]
    return max(options, key=lambda option: (round(option.reached, 3), -abs(math.log(option.anchor_scale / scale))))


def _best_iou(boxes: Tensor, sizes: Tensor, scale: float) -> Tensor:
    """Compute the best IoU [G] of boxes [G, 4] on images of these sizes [G, 2], width and height."""
    anchors = Anchors(STRIDES, scale)
    best = torch.zeros(len(boxes))
    padded = positions = -(-sizes // PADDING) * PADDING
    for stride in STRIDES:
        cells: Tensor = getattr(anchors, f"cells{stride}")
        positions = padded // stride if stride <= PADDING else -(-positions // 2)  # P6 and P7 halve the map before
        horizontal = _max_overlap(boxes[:, 0::2], cells[:, 0::2], positions[:, 0], stride)
        vertical = _max_overlap(boxes[:, 1::2], cells[:, 1::2], positions[:, 1], stride)
        intersection = horizontal * vertical
        union = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None] + (cells[:, 2:] - cells[:, :2]).prod(-1) - intersection
        best = torch.maximum(best, (intersection / union.clamp(min=torch.finfo(union.dtype).tiny)).amax(-1))
    return best


def _max_overlap(sides: Tensor, cells: Tensor, positions: Tensor, stride: int) -> Tensor:
    """Compute the largest overlap [G, R] of sides [G, 2] with cells [R, 2] shifted by multiples of the stride.

    `positions` [G] is the number of grid positions of each side's image.
    """
    low, high = sides[:, :1], sides[:, 1:]
    last = positions[:, None] - 1
    before = torch.minimum(((low + high) / 2 / stride).floor(), last)
    overlap = torch.zeros(len(sides), len(cells))
    for position in (before, torch.minimum(before + 1, last)):
        start, end = (position * stride + cells[:, i] for i in (0, 1))
        overlap = torch.maximum(overlap, torch.minimum(high, end) - torch.maximum(low, start))
    return overlap


def _share(chosen: npt.NDArray[np.bool_]) -> float | None:
    return float(chosen.mean()) if len(chosen) else None
