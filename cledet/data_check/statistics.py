"""Statistics of a split: sizes and shapes of its boxes, as annotated and as resized for the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cledet.config.base import long_side
from cledet.data.index import DetectionIndex, Floats, Ints
from cledet.data.transforms import Boxes, has_extent, resized_sizes

SIDES = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Bounds of the histogram of sides (square roots of areas) in pixels."""
RATIOS = (1 / 4, 1 / 2, 1, 2, 4)
"""Bounds of the histogram of width / height."""
COCO_AREAS = (32**2, 96**2)
"""Upper bound of COCO's small objects and lower bound of its large ones, in square pixels."""
Sizes = npt.NDArray[np.int32]


class Objects(NamedTuple):
    """The G ground truths of a split that are used in training: not ignored, not degenerate, of known image size."""

    rows: Ints  # [G] box rows of the index
    boxes: Boxes  # [G, 4] xyxy pixels, clipped to the image
    sizes: Sizes  # [G, 2] width and height of each object's image

    def resized(self, imgsz: int) -> Objects:
        """Resize the objects exactly as `cledet train --imgsz` resizes the images."""
        new = resized_sizes(self.sizes, imgsz, long_side(imgsz)).astype(np.int32)
        ratio = np.tile(new / self.sizes, 2).astype(np.float32)
        edge = np.tile(new, 2).astype(np.float32)
        return Objects(self.rows, np.clip(self.boxes * ratio, 0, edge), new)

    def areas(self) -> Boxes:
        """Compute the areas [G] in square pixels."""
        width, height = (self.boxes[:, 2:] - self.boxes[:, :2]).T
        return width * height


def objects_of(index: DetectionIndex, sizes: Sizes) -> Objects:
    """Return the objects of a split; `sizes` [I, 2] is width and height of its images, 0 if unknown."""
    images = index.image_of_boxes()
    sizes = sizes[images]
    xywh = np.where(index.degenerate()[:, None], 0, index.xywh)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32)
    boxes = np.clip(boxes, 0, np.tile(sizes, 2).astype(np.float32))
    rows = np.flatnonzero(has_extent(boxes) & ~index.ignore)
    return Objects(rows, boxes[rows], sizes[rows])


def describe_split(
    name: str, index: DetectionIndex, sizes: Sizes, objects: Objects, imgsz: int, parts: Sequence[str] = ()
) -> dict[str, Any]:
    """Compute the statistics of a split from its objects and image sizes [I, 2], as plain values for JSON.

    `parts` are the splits whose union it is, if it is one. Boxes without objects count too, image_size is the most
    frequent one, and histograms count objects: their COCO sizes, the square roots of their areas, and width / height.
    """
    counts = np.diff(index.starts)
    known = sizes[(sizes > 0).all(axis=1)]
    distinct, frequency = np.unique(known, axis=0, return_counts=True)
    both = {"annotated": objects, "resized": objects.resized(imgsz)}
    width, height = (objects.boxes[:, 2:] - objects.boxes[:, :2]).T.astype(np.float64)
    kinds = ("small", "medium", "large")
    return {
        "name": name,
        "parts": tuple(parts),
        "images": len(index),
        "boxes": index.num_boxes,
        "ignored": int(index.ignore.sum()),
        "empty": int((counts == 0).sum()),
        "image_size": tuple(distinct[frequency.argmax()].tolist()) if len(known) else None,
        "image_size_count": int(frequency.max(initial=0)),
        "boxes_per_image": {"median": float(np.median(counts)), "most": int(counts.max())},
        "classes": index.class_counts(),
        "sizes": {key: dict(zip(kinds, _histogram(some.areas(), COCO_AREAS))) for key, some in both.items()},
        "sides": {"bounds": SIDES} | {key: _histogram(np.sqrt(some.areas()), SIDES) for key, some in both.items()},
        "ratios": {"bounds": RATIOS, "annotated": _histogram(width / height, RATIOS)},
    }


def _histogram(values: Floats | Boxes, bounds: Sequence[float]) -> tuple[int, ...]:
    """Count the values below the first bound, between each two, and from the last; a bound belongs to the upper bin."""
    counts = np.bincount(np.digitize(values, bounds), minlength=len(bounds) + 1)
    return tuple(counts.tolist())
