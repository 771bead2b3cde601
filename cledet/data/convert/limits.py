"""Limits of the formats: boxes and columns that a format cannot hold are counted, and the boxes left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cledet.data.convert.write_yolo import yolo_rows
from cledet.data.formats.yolo import SLACK
from cledet.data.index import FARTHEST, Bools, DetectionIndex, image_numbers
from cledet.errors import UserError

ROUNDING = (1e-12, 1e-9, 1e-6)
"""Bounds on rounding errors that are told apart; the first holds for images of up to 4096 pixels."""
Losses = Counter[str]
"""Number of boxes or images by the text that follows it in a sentence."""


def fit_coco(index: DetectionIndex, losses: Losses) -> DetectionIndex:
    """Return the index without boxes that JSON has no numbers for; count them in `losses`."""
    return _keep(index, _finite(index), losses, "boxes are not finite: left out")


def fit_voc(index: DetectionIndex, losses: Losses) -> DetectionIndex:
    """Return the index with the boxes and classes that VOC can hold; count the losses.

    Raises UserError for a class name with characters that XML cannot hold, or with blanks around it.
    """
    for name in index.classes:
        if not name.isprintable() or name != name.strip():
            raise UserError(f"{index.name}: VOC cannot hold the class name {name!r}", "rename it in the source")
    with np.errstate(over="ignore", invalid="ignore"):
        near = (np.abs(index.xywh[:, :2]) < FARTHEST - 1) & (np.abs(index.xywh[:, :2] + index.xywh[:, 2:]) < FARTHEST)
    index = _keep(index, near[:, 0] & near[:, 1], losses, f"boxes lie beyond {FARTHEST:,.0f} pixels: left out")
    sides = index.xywh[:, 2:]
    narrow = (sides > 0).all(axis=1) & (sides <= 1).any(axis=1)
    empty = (sides <= 0).any(axis=1) & ~index.ignore
    narrow_text = "boxes are at most one pixel wide or high: written as one pixel, which is read as empty"
    losses[narrow_text] += int(narrow.sum())
    losses["boxes without width or height are read as difficult"] += int(empty.sum())
    _count_areas(index, losses)
    return index


def fit_yolo(index: DetectionIndex, losses: Losses) -> DetectionIndex:
    """Return the index with the boxes that YOLO can hold; count the losses. Sizes must be known."""
    index = _keep(index, ~index.ignore, losses, "crowds, difficult and empty objects are left out, as YOLO has none")
    index = _keep(index, _finite(index), losses, "boxes are not finite: left out")
    rows = yolo_rows(index)
    centre, half = rows[:, :2], rows[:, 2:] / 2
    edges = np.concatenate([centre - half, centre + half], axis=1)  # as the reader checks them
    inside = ((edges >= -SLACK) & (edges <= 1 + SLACK)).sum(axis=1) == 4
    index = _keep(index, inside, losses, "boxes reach out of their image by more than half of it: left out")
    sides = index.sizes[index.image_of_boxes()].astype(np.float64)
    extent = rows[inside, 2:] * sides
    off = np.abs(np.concatenate([rows[inside, :2] * sides - extent / 2, extent], axis=1) - index.xywh)
    if off.any():
        bound = next(bound for bound in ROUNDING if off.max() < bound)
        text = f"boxes are off by a rounding error below {bound:g} pixels, as no fraction gives their numbers"
        losses[text] += int(off.any(axis=1).sum())
    _count_areas(index, losses)
    return index


def count_ids(index: DetectionIndex, names: Sequence[str], first_class: int, losses: Losses) -> None:
    """Count image and class ids that differ from those that are read from file names and the order of classes."""
    order = np.argsort(names, kind="stable") if first_class == 0 else np.arange(len(names))  # YOLO's reader sorts
    ids = image_numbers([Path(names[row]).stem for row in order])
    losses["images get other ids, which are read from the file names"] += int((ids != index.image_ids[order]).sum())
    classes = np.arange(first_class, first_class + len(index.classes))
    renumbered = int((classes != index.category_ids).sum())
    losses[f"classes get other ids, which are numbered from {first_class}"] = renumbered


def _count_areas(index: DetectionIndex, losses: Losses) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        other = index.area != index.xywh[:, 2] * index.xywh[:, 3]
    losses["areas (of masks) are not held: read as width times height"] += int(other.sum())


def _finite(index: DetectionIndex) -> Bools:
    return np.isfinite(index.xywh).sum(axis=1) == 4


def _keep(index: DetectionIndex, kept: Bools, losses: Losses, text: str) -> DetectionIndex:
    """Return the index with the boxes that are marked [B]; count the others."""
    if kept.all():
        return index
    losses[text] += int((~kept).sum())
    counts = np.bincount(index.image_of_boxes()[kept], minlength=len(index))
    return index.gather(np.arange(len(index)), np.flatnonzero(kept), counts)
