"""Boxes of COCO annotations that have a `segmentation` and no `bbox`, by `pycocotools.mask`."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

LONGEST_OUTLINE = 10**7
"""Pixels; rasterizing takes memory in proportion to the length of an outline."""
LARGEST_SIDE = 2**16


def image_sizes(images: list[Any]) -> dict[Any, tuple[Any, Any]]:
    """Collect (height, width) of the image entries by id."""
    entries = [image for image in images if isinstance(image, dict) and isinstance(image.get("id"), int | str)]
    return {image["id"]: (image.get("height"), image.get("width")) for image in entries}


def with_mask_box(entry: Any, sizes: dict[Any, tuple[Any, Any]]) -> Any:
    """Add `bbox`, and `area` if it is missing, to an annotation that has a segmentation and no box.

    Other entries are returned unchanged. Raises msgspec.ValidationError for a segmentation that is not a mask.
    """
    if not isinstance(entry, dict) or entry.get("bbox") is not None or not entry.get("segmentation"):
        return entry
    from pycocotools import mask

    try:
        size = sizes.get(entry.get("image_id"), (None, None))
        rle = _encode(entry["segmentation"], size)
        box, area = mask.toBbox(rle).tolist(), int(mask.area(rle))
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise msgspec.ValidationError(f"segmentation is not a mask: {error}") from None
    height, width = rle["size"]
    if not 0 < area <= height * width or box[0] + box[2] > width or box[1] + box[3] > height:
        raise msgspec.ValidationError("segmentation is not a mask: it is empty or larger than its image")
    return {"area": area} | entry | {"bbox": box}


def _encode(segmentation: Any, size: tuple[Any, Any]) -> dict[str, Any]:
    """Convert polygons, uncompressed or compressed RLE to a compressed RLE. Raises ValueError or TypeError."""
    from pycocotools import mask

    if isinstance(segmentation, dict):
        size = _checked_size(segmentation["size"])
        counts = segmentation["counts"]
        if isinstance(counts, str):
            return {"size": list(size), "counts": counts.encode("ascii")}
        if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != size[0] * size[1]:
            raise ValueError("its counts do not add up to its size")
        return mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    if not isinstance(segmentation, list):
        raise TypeError("neither polygons nor RLE")
    height, width = _checked_size(size)
    polygons = [_checked_polygon(polygon, height, width) for polygon in segmentation]
    return mask.merge(mask.frPyObjects(polygons, height, width))


def _checked_size(size: Any) -> tuple[int, int]:
    if not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in size):
        raise ValueError(f"its image has no size in pixels: {size!s:.40}")
    height, width = size
    return height, width


def _checked_polygon(polygon: Any, height: int, width: int) -> list[float]:
    """Check the points of a polygon before they are passed to C code, which does not."""
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    if len(points) < 3:
        raise ValueError("a polygon has fewer than three points")
    if not (np.abs(points) <= 2 * max(height, width)).all():
        raise ValueError("a point of a polygon lies far outside of the image")
    if np.abs(np.diff(points, axis=0, append=points[:1])).sum() > LONGEST_OUTLINE:
        raise ValueError("the outline of a polygon is too long")
    return [float(value) for value in points.ravel()]
