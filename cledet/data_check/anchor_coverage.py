"""How many objects of a data set a model's anchors can reach, and which anchors would reach more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cledet.data_check.statistics import COCO_AREAS, Objects
from cledet.models.anchors import STRIDES, Anchors

FOREGROUND, BACKGROUND = 0.5, 0.4
"""IoU from which an anchor answers for an object, and under which it is background (Lin et al. 2017)."""
TARGET = 0.95
"""The share of objects that anchors should reach; under it others are tried."""
SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
"""Values of --anchor-scale that are tried."""
ZOOMS = (1.25, 1.6, 2.0)
"""Multiples of --imgsz that are tried where no scale is enough."""
TRIED = 20_000
"""Objects, evenly spaced, that the trials look at."""
WORTH, WORTH_RESIZING = 0.005, 0.02
"""What another scale must gain to be suggested, and a larger image, which costs time and memory."""
PADDING = 32
"""What image sides are padded to a multiple of."""
_CHUNK = 1 << 14


class Fit(NamedTuple):
    """The share of objects whose best anchor has an IoU of 0.5 or more, of all and by size, and of 0.4 or more.

    Sizes are COCO's, in pixels of the network's input; None where there is no such object.
    """

    objects: int
    reached: float | None
    small: float | None
    medium: float | None
    large: float | None
    nearly: float | None


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Settings, and the share of objects that they reach."""

    imgsz: int
    anchor_scale: float
    reached: float


def best_iou(objects: Objects, scale: float) -> Tensor:
    """The highest IoU [G] of each object, as resized, with any anchor of its image alone, to the last bit.

    What two boxes share is what they share across times what they share down, and each falls with the distance of
    their centres. So of all anchors of one shape the best is, across and down, at one of the two grid positions about
    the object's centre: 4 looks at each of 45 shapes instead of one at each of 200,000 anchors.
    """
    boxes, sizes = torch.from_numpy(objects.boxes), torch.from_numpy(objects.sizes)
    parts = zip(boxes.split(_CHUNK), sizes.split(_CHUNK))
    return torch.cat([boxes.new_zeros(0), *(_best_iou(part, size, scale) for part, size in parts)])


def fit(objects: Objects, iou: Tensor) -> Fit:
    """The shares of these objects, as resized, given the IoU [G] of their best anchors."""
    best, kind = iou.numpy(), np.digitize(objects.areas(), COCO_AREAS)
    small, medium, large = (_share(best[kind == i] >= FOREGROUND) for i in range(3))
    return Fit(len(best), _share(best >= FOREGROUND), small, medium, large, _share(best >= BACKGROUND))


def suggest(objects: Objects, imgsz: int, scale: float) -> Suggestion | None:
    """The anchor scale, or else the image size and scale, that reach most of these objects, as annotated.

    None if the given ones reach TARGET, or if none tried is worth the change.
    """
    now = reached(objects, imgsz, scale)
    if len(objects.rows) == 0 or now >= TARGET:
        return None
    step = -(-len(objects.rows) // TRIED)
    sample = Objects(objects.rows[::step], objects.boxes[::step], objects.sizes[::step])
    best = _best_scale(sample, imgsz, scale)
    if best.reached < TARGET:
        larger = [_best_scale(sample, round(imgsz * zoom / PADDING) * PADDING, scale) for zoom in ZOOMS]
        enough = min(TARGET, max(one.reached for one in larger) - WORTH)
        smallest = next(one for one in larger if one.reached >= enough)
        best = smallest if smallest.reached >= best.reached + WORTH_RESIZING else best
    found = reached(objects, best.imgsz, best.anchor_scale)
    return Suggestion(best.imgsz, best.anchor_scale, found) if found >= now + WORTH else None


def reached(objects: Objects, imgsz: int, scale: float) -> float:
    """The share of these objects, as annotated, that the anchors reach; 0 of none."""
    iou = best_iou(objects.resized(imgsz), scale).numpy()
    return _share(iou >= FOREGROUND) or 0.0


def _best_scale(objects: Objects, imgsz: int, scale: float) -> Suggestion:
    """The scale that reaches most, to a thousandth; of several the one nearest to `scale`."""
    tried = [Suggestion(imgsz, one, reached(objects, imgsz, one)) for one in SCALES]
    return max(tried, key=lambda one: (round(one.reached, 3), -abs(math.log(one.anchor_scale / scale))))


def _best_iou(boxes: Tensor, sizes: Tensor, scale: float) -> Tensor:
    """The same for boxes [G, 4] on images of these sizes [G, 2], width and height."""
    anchors = Anchors(STRIDES, scale)
    best = torch.zeros(len(boxes))
    padded = positions = -(-sizes // PADDING) * PADDING
    for stride in STRIDES:
        cells: Tensor = getattr(anchors, f"cells{stride}")
        positions = padded // stride if stride <= PADDING else -(-positions // 2)  # P6 and P7 halve the map before
        across = _shared_side(boxes[:, 0::2], cells[:, 0::2], positions[:, 0], stride)
        down = _shared_side(boxes[:, 1::2], cells[:, 1::2], positions[:, 1], stride)
        shared = across * down
        union = _areas(boxes)[:, None] + _areas(cells) - shared
        best = torch.maximum(best, (shared / union.clamp(min=torch.finfo(union.dtype).tiny)).amax(-1))
    return best


def _shared_side(sides: Tensor, cells: Tensor, positions: Tensor, stride: int) -> Tensor:
    """The most [G, R] that sides [G, 2] share with cells [R, 2] at one of `positions` [G] multiples of the stride."""
    low, high = sides[:, :1], sides[:, 1:]
    last = positions[:, None] - 1
    before = torch.minimum(((low + high) / 2 / stride).floor(), last)
    shared = torch.zeros(len(sides), len(cells))
    for position in (before, torch.minimum(before + 1, last)):
        shift = position * stride
        shared = torch.maximum(
            shared, torch.minimum(high, shift + cells[:, 1]) - torch.maximum(low, shift + cells[:, 0])
        )
    return shared


def _areas(boxes: Tensor) -> Tensor:
    """Width times height; `cledet.ops` would have it, and with it all of torchvision."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def _share(chosen: npt.NDArray[np.bool_]) -> float | None:
    return float(chosen.mean()) if len(chosen) else None
