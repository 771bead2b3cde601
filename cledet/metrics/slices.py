"""AP by size and by aspect ratio of objects, as COCO computes AP by area.

For each bin, objects outside are ignored, and so are unmatched detections outside. Size is the square root of COCO's
`area`, or of width times height for a detection; shape is width over height. A bin includes its lower bound only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cledet.data.index import Floats
from cledet.metrics.average_precision import ap_of_classes, mean
from cledet.metrics.matching import THRESHOLDS, Overlaps
from cledet.metrics.tp_ranks import Part, matchable_detections

SIDES = (16, 32, 64, 96, 192)
"""Pixels; 32 and 96 are COCO's bounds between small, medium and large."""
SHAPES = (1 / 3, 2 / 3, 3 / 2, 3)
SIDE_NAMES = ("under 16 px", "16 to 32", "32 to 64", "64 to 96", "96 to 192", "192 and over")
SHAPE_NAMES = ("under 1:3", "1:3 to 1:1.5", "1:1.5 to 1.5:1", "1.5:1 to 3:1", "3:1 and over")


class Slice(NamedTuple):
    """Metrics of one bin."""

    name: str
    objects: int
    AP: float | None
    AP50: float | None
    found: float | None
    """Recall at IoU 0.5 over all scores."""


def by_size(o: Overlaps) -> list[Slice]:
    """Compute the metrics of objects by the square root of their area."""
    sides, own = np.sqrt(np.maximum(o.index.area, 0)), np.sqrt(o.area)
    return _slices(o, sides, own, SIDES, SIDE_NAMES)


def by_shape(o: Overlaps) -> list[Slice]:
    """Compute the metrics of objects by width over height."""
    return _slices(o, _ratio(o.index.xywh), _ratio(o.xywh), SHAPES, SHAPE_NAMES)


def _slices(o: Overlaps, gts: Floats, detections: Floats, bounds: Sequence[float], names: Sequence[str]) -> list[Slice]:
    """Compute the slice of each bin of a quantity of ground truths [B] and detections [D]."""
    of_gt, of_detection = np.digitize(gts, bounds), np.digitize(detections, bounds)
    matchable = matchable_detections(o)
    return [_slice(matchable.part(of_gt == i, of_detection == i), name) for i, name in enumerate(names)]


def _slice(part: Part, name: str) -> Slice:
    """Compute the metrics of the objects and detections of a bin."""
    counts = part.of.o.counts(part.objects)
    objects = int(counts.sum())
    if not objects:
        return Slice(name, 0, None, None, None)
    by_threshold = [part.ranks(threshold) for threshold in THRESHOLDS]
    aps = [mean(ap_of_classes(ranks.by_class(len(counts)), counts)) for ranks in by_threshold]
    return Slice(name, objects, mean(np.array(aps, dtype=np.float64)), aps[0], len(by_threshold[0].rank) / objects)


def _ratio(xywh: Floats) -> Floats:
    """Compute width over height [N]; infinite for boxes without height."""
    return np.divide(xywh[:, 2], xywh[:, 3], out=np.full(len(xywh), np.inf), where=xywh[:, 3] > 0)
