"""What a split holds, in figures: sizes and shapes of its boxes as annotated and as the network would see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cledet.config.base import long_side
from cledet.data.index import DetectionIndex, Floats, Ints
from cledet.data.transforms import Boxes
from cledet.data_check.classes import count_classes

SIDES = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Bounds of the histogram of sides, the square roots of areas, in pixels."""
RATIOS = (1 / 4, 1 / 2, 1, 2, 4)
"""Bounds of the histogram of shapes, width / height."""
COCO_AREAS = (32**2, 96**2)
"""Where COCO's small objects end and its large ones begin, in square pixels."""
Sizes = npt.NDArray[np.int32]


class Objects(NamedTuple):
    """The G ground truths of a split that a network can learn: neither ignored nor degenerate, of known image size."""

    rows: Ints  # [G] box rows of the index
    boxes: Boxes  # [G, 4] xyxy pixels, clipped to the image
    sizes: Sizes  # [G, 2] width and height of each one's image

    def resized(self, imgsz: int) -> Objects:
        """The same after `cledet train --imgsz` has resized the images, to the last bit."""
        sides = self.sizes.astype(np.float64)
        scale = np.minimum(imgsz / sides.min(axis=1), long_side(imgsz) / sides.max(axis=1))
        new = np.maximum(np.round(sides * scale[:, None]), 1).astype(np.int32)
        ratio = np.tile(new / sides, 2).astype(np.float32)
        edge = np.tile(new, 2).astype(np.float32)
        return Objects(self.rows, np.clip(self.boxes * ratio, 0, edge), new)

    def areas(self) -> Boxes:
        """[G] width times height in square pixels."""
        width, height = (self.boxes[:, 2:] - self.boxes[:, :2]).T
        return width * height


@dataclass(frozen=True, slots=True)
class SplitStatistics:
    """What one split holds; histograms are counts of objects."""

    name: str
    parts: tuple[str, ...]
    """The splits that it is made of, if it is others together."""
    images: int
    boxes: int
    ignored: int
    empty: int
    """Images without boxes."""
    image_size: tuple[int, int] | None
    """The most frequent width and height, and how many images have it."""
    image_size_count: int
    boxes_per_image: tuple[float, int]
    """Median and most."""
    classes: dict[str, int]
    sizes: tuple[int, int, int]
    """COCO's small, medium and large, by width times height as annotated."""
    sizes_resized: tuple[int, int, int]
    """The same as the network sees them."""
    sides: tuple[int, ...]
    """By the square root of the area, between the bounds SIDES, as annotated."""
    sides_resized: tuple[int, ...]
    ratios: tuple[int, ...]
    """By width / height as annotated, between the bounds RATIOS."""

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values, histograms with their bounds."""
        kinds = ("small", "medium", "large")
        plain = {name: getattr(self, name) for name in ("name", "parts", "images", "boxes", "ignored", "empty")}
        return {
            **plain,
            "image_size": self.image_size,
            "image_size_count": self.image_size_count,
            "boxes_per_image": dict(zip(("median", "most"), self.boxes_per_image)),
            "classes": self.classes,
            "sizes": {"annotated": dict(zip(kinds, self.sizes)), "resized": dict(zip(kinds, self.sizes_resized))},
            "sides": {"bounds": SIDES, "annotated": self.sides, "resized": self.sides_resized},
            "ratios": {"bounds": RATIOS, "annotated": self.ratios},
        }


def objects_of(index: DetectionIndex, sizes: Sizes) -> Objects:
    """The objects of a split whose images are of these sizes [I, 2], width and height; 0 where nobody knows."""
    images = index.image_of_boxes()
    sizes = sizes[images]
    xywh = np.where(index.degenerate()[:, None], 0, index.xywh)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32)
    boxes = np.clip(boxes, 0, np.tile(sizes, 2).astype(np.float32))
    seen = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & ~index.ignore
    rows = np.flatnonzero(seen)
    return Objects(rows, boxes[rows], sizes[rows])


def describe_split(
    name: str, index: DetectionIndex, sizes: Sizes, objects: Objects, imgsz: int, parts: Sequence[str] = ()
) -> SplitStatistics:
    """The figures of one split with these objects, images being of these sizes [I, 2]."""
    counts = np.diff(index.starts)
    known = sizes[(sizes > 0).all(axis=1)]
    kinds, frequency = np.unique(known, axis=0, return_counts=True)
    resized = objects.resized(imgsz)
    width, height = (objects.boxes[:, 2:] - objects.boxes[:, :2]).T.astype(np.float64)
    most = int(frequency.argmax()) if len(frequency) else -1
    return SplitStatistics(
        name=name,
        parts=tuple(parts),
        images=len(index),
        boxes=index.num_boxes,
        ignored=int(index.ignore.sum()),
        empty=int((counts == 0).sum()),
        image_size=(int(kinds[most, 0]), int(kinds[most, 1])) if most >= 0 else None,
        image_size_count=int(frequency[most]) if most >= 0 else 0,
        boxes_per_image=(float(np.median(counts)), int(counts.max())),
        classes=count_classes(index),
        sizes=_small_medium_large(objects),
        sizes_resized=_small_medium_large(resized),
        sides=_histogram(np.sqrt(objects.areas()), SIDES),
        sides_resized=_histogram(np.sqrt(resized.areas()), SIDES),
        ratios=_histogram(width / height, RATIOS),
    )


def _small_medium_large(objects: Objects) -> tuple[int, int, int]:
    small, medium, large = _histogram(objects.areas(), COCO_AREAS)
    return small, medium, large


def _histogram(values: Floats | Boxes, bounds: Sequence[float]) -> tuple[int, ...]:
    """How many values lie under the first bound, between each two, and from the last on; a bound counts upwards."""
    counts = np.bincount(np.digitize(values, bounds), minlength=len(bounds) + 1)
    return tuple(int(count) for count in counts)
