"""Anchor coverage: the share of objects that a model's anchors match, and better anchor settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cledet.config.types import format_numbers
from cledet.data_check.statistics import COCO_AREAS, Objects
from cledet.models.anchors import RATIOS, STRIDES, Anchors

FOREGROUND, BACKGROUND = 0.5, 0.4
"""IoU from which an anchor is assigned to an object, and below which it is background (Lin et al. 2017)."""
TARGET = 0.95
"""The share of objects that anchors should cover; below, other settings are tried."""
SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
"""Values of --anchor-scale that are tried."""
RATIO_SETS = (
    RATIOS,
    (0.33, 1.0, 3.0),
    (0.25, 1.0, 4.0),
    (0.33, 0.5, 1.0, 2.0, 3.0),
    (0.25, 0.5, 1.0, 2.0, 4.0),
    (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
)
"""Values of --anchor-ratios that are tried, the cheapest first: the last layers compute every ratio everywhere."""
ZOOMS = (1.25, 1.6, 2.0)
"""Multiples of --imgsz that are tried if no scale is sufficient."""
SAMPLES = 20_000
"""Number of evenly spaced objects used in the trials."""
MIN_GAIN, MIN_RESIZING_GAIN = 0.005, 0.02
"""Minimum gain of a suggested scale or set of ratios, per additional ratio, and of a suggested image size.

Additional ratios and larger images cost time and memory.
"""
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


class AnchorSettings(NamedTuple):
    """Anchor settings, and the share of objects that they cover."""

    imgsz: int
    anchor_scale: float
    anchor_ratios: tuple[float, ...]
    reached: float

    def flags(self, imgsz: int = 0, ratios: tuple[float, ...] = RATIOS) -> str:
        """Format the settings as flags, without --imgsz and --anchor-ratios of the given values."""
        size = f"--imgsz {self.imgsz} " if self.imgsz != imgsz else ""
        shapes = f" --anchor-ratios {format_numbers(self.anchor_ratios)}" if self.anchor_ratios != ratios else ""
        return f"{size}--anchor-scale {self.anchor_scale:g}{shapes}"


def best_iou(objects: Objects, scale: float, ratios: Sequence[float] = RATIOS) -> Tensor:
    """Compute the highest IoU [G] of each resized object with any anchor of its image, exactly.

    The intersection of two boxes is the product of their horizontal and vertical overlaps, and each decreases with the
    distance of the centres. So the best anchor of a shape is, in each direction, at one of the two grid positions
    around the object's centre: 4 comparisons per shape for 45 shapes (of three ratios), instead of 200,000 anchors.
    """
    boxes, sizes = torch.from_numpy(objects.boxes), torch.from_numpy(objects.sizes)
    parts = zip(boxes.split(_CHUNK), sizes.split(_CHUNK))
    anchors = Anchors(STRIDES, scale, ratios=ratios)
    return torch.cat([boxes.new_zeros(0), *(_best_iou(part, size, anchors) for part, size in parts)])


def measure_coverage(objects: Objects, iou: Tensor) -> Coverage:
    """Compute the covered shares of resized objects from the IoU [G] of their best anchors."""
    best, kind = iou.numpy(), np.digitize(objects.areas(), COCO_AREAS)
    small, medium, large = (_share(best[kind == i] >= FOREGROUND) for i in range(3))
    return Coverage(len(best), _share(best >= FOREGROUND), small, medium, large, _share(best >= BACKGROUND))


def suggest(objects: Objects, imgsz: int, scale: float, ratios: tuple[float, ...] = RATIOS) -> AnchorSettings | None:
    """Find the anchor scale and ratios, if necessary with a larger image size, that cover most of these objects.

    Returns None if the current settings reach TARGET, or if no other setting gains enough.
    """
    current = covered_share(objects, imgsz, scale, ratios)
    if len(objects.rows) == 0 or current >= TARGET:
        return None
    now, sample = AnchorSettings(imgsz, scale, ratios, current), _sample(objects)
    best = _best(sample, now, SCALES, (ratios, *RATIO_SETS))
    if best.reached < TARGET:
        zoomed = [now._replace(imgsz=round(imgsz * zoom / PADDING) * PADDING) for zoom in ZOOMS]
        larger = [_best(sample, size, SCALES, (best.anchor_ratios,)) for size in zoomed]
        enough = min(TARGET, max(option.reached for option in larger) - MIN_GAIN)
        smallest = next(option for option in larger if option.reached >= enough)
        best = smallest if smallest.reached >= best.reached + MIN_RESIZING_GAIN else best
    return _if_better(best, objects, current)


def choose_anchors(
    objects: Objects,
    imgsz: int,
    scale: float,
    ratios: tuple[float, ...],
    *,
    scales: Sequence[float] = SCALES,
    ratio_sets: Sequence[tuple[float, ...]] = RATIO_SETS,
) -> AnchorSettings | None:
    """Find the scale and ratios of the given ones that cover most of these objects, at this image size.

    Returns None if none gains MIN_GAIN over the current settings.
    """
    now = AnchorSettings(imgsz, scale, ratios, covered_share(objects, imgsz, scale, ratios))
    return _if_better(_best(_sample(objects), now, scales, (ratios, *ratio_sets)), objects, now.reached)


def covered_share(objects: Objects, imgsz: int, scale: float, ratios: Sequence[float] = RATIOS) -> float:
    """Compute the share of objects, resized to `imgsz`, that the anchors cover; 0 without objects."""
    iou = best_iou(objects.resized(imgsz), scale, ratios).numpy()
    return _share(iou >= FOREGROUND) or 0.0


def _sample(objects: Objects) -> Objects:
    """Take at most SAMPLES evenly spaced objects."""
    step = max(1, -(-len(objects.rows) // SAMPLES))
    return Objects(objects.rows[::step], objects.boxes[::step], objects.sizes[::step])


def _best(
    objects: Objects, now: AnchorSettings, scales: Sequence[float], ratio_sets: Sequence[tuple[float, ...]]
) -> AnchorSettings:
    """Return the best of these settings at an image size; of equal ones the nearest to the current scale.

    Sets of ratios are compared one by one with the best set before. Each has to gain MIN_GAIN, and that times the
    number of additional ratios. Shares are compared in thousandths.
    """
    best = _best_scale(objects, now, scales, ratio_sets[0])
    for ratios in ratio_sets[1:]:
        option = _best_scale(objects, now, scales, ratios)
        required = MIN_GAIN * max(1, len(ratios) - len(best.anchor_ratios))
        if round(option.reached, 3) >= round(best.reached + required, 3):
            best = option
    return best


def _best_scale(
    objects: Objects, now: AnchorSettings, scales: Sequence[float], ratios: tuple[float, ...]
) -> AnchorSettings:
    """Return the scale of highest coverage, rounded to a thousandth; of equal ones the nearest to the current one."""
    options = [
        AnchorSettings(now.imgsz, scale, ratios, covered_share(objects, now.imgsz, scale, ratios)) for scale in scales
    ]
    nearness = [-abs(math.log(scale / now.anchor_scale)) for scale in scales]
    return max(zip(options, nearness), key=lambda pair: (round(pair[0].reached, 3), pair[1]))[0]


def _if_better(option: AnchorSettings, objects: Objects, current: float) -> AnchorSettings | None:
    """Return an option found on a sample with its share of all objects, or None if it gains less than MIN_GAIN."""
    share = covered_share(objects, option.imgsz, option.anchor_scale, option.anchor_ratios)
    return option._replace(reached=share) if share >= current + MIN_GAIN else None


def _best_iou(boxes: Tensor, sizes: Tensor, anchors: Anchors) -> Tensor:
    """Compute the best IoU [G] of boxes [G, 4] on images of these sizes [G, 2], width and height."""
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
