"""Detections as a file holds them, and their translation to the ids of a split."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from cledet.data.images import image_size
from cledet.data.index import DetectionIndex, Floats, Ints
from cledet.metrics.predictions.classes import Found, find_classes
from cledet.metrics.predictions.image_names import ImageRef, find_images
from cledet.metrics.results_file import DetectionRows, check_finite

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class FileColumns:
    """D detections of a file, whose images and classes are still called as in the file."""

    format: str
    """Name of the format, for messages."""
    image: Ints
    """[D] positions in `file_names` and `ids`."""
    xywh: Floats
    """[D, 4] left, top, width, height in pixels; in fractions of the image if `fractions` is set."""
    scores: Floats
    """[D]."""
    classes: Sequence[str] | Sequence[float]
    """Names or numbers of the file's classes, each once."""
    label: Ints
    """[D] positions in `classes`."""
    readings: Sequence[Sequence[str]] = ()
    """Keys of `classes.READINGS` that class numbers may have; later groups are tried if no earlier one fits."""
    file_names: Sequence[str] | None = None
    """Paths, file names or stems of the file's images; images without detections may be among them."""
    ids: Sequence[ImageRef] | None = None
    """Ids of the same images, or names in place of ids."""
    fractions: bool = False
    notes: tuple[str, ...] = ()
    """Parts of the summary."""


@dataclass(frozen=True)
class Predictions:
    """Detections of a split that were read from a file or folder."""

    rows: DetectionRows
    summary: str
    """The format, the number of detections and images, and how images and classes were identified."""
    source: Path | None = None
    """The file if it is in COCO's results format with the split's own ids, so that it can be copied."""


def to_codes(values: Sequence[T]) -> tuple[list[T], Ints]:
    """Return the distinct values in order of appearance, and the position of each value among them [D]."""
    distinct = list(dict.fromkeys(values))
    position = {value: i for i, value in enumerate(distinct)}
    return distinct, np.fromiter(map(position.__getitem__, values), np.int64, len(values))


def resolve(path: Path, columns: FileColumns, index: DetectionIndex) -> Predictions:
    """Translate the detections to a split's image and category ids.

    Raises UserError for numbers that are not finite, and for images and classes that the split does not have.
    """
    check_finite(path, np.column_stack([columns.xywh, columns.scores]))
    positions, by = find_images(path, columns.file_names, columns.ids, index)
    image = positions[columns.image]
    xywh = columns.xywh
    if columns.fractions:
        xywh = xywh * np.tile(_sizes(index, image), (1, 2))
    found = Found(image, xywh, columns.scores, columns.label)
    labels, read = find_classes(path, columns.classes, columns.readings, index, found)
    category = index.category_ids[labels[columns.label]]
    rows = np.column_stack([index.image_ids[image], xywh, columns.scores, category])
    return Predictions(rows, summarize(path, columns.format, rows, index, (f"images by {by}", read, *columns.notes)))


def summarize(path: Path, format: str, rows: DetectionRows, index: DetectionIndex, notes: Sequence[str]) -> str:
    """Describe in one line the detections that were read."""
    seen = len(np.unique(rows[:, 0].astype(np.int64)))
    without = f" ({len(index) - seen:,} without detections)" if seen < len(index) else ""
    counts = f"{len(rows):,} detections on {seen:,} of {len(index):,} images{without}"
    return "; ".join([f"{path.name}: {format}, {counts}", *filter(None, notes)])


def _sizes(index: DetectionIndex, image: Ints) -> Floats:
    """Return width and height [D, 2] of each detection's image, from the image file if the split does not say."""
    sizes = np.array(index.sizes, dtype=np.float64)
    for i in np.unique(image).tolist():
        if index.size(i) is None:
            sizes[i] = image_size(str(index.paths[i]))
    return sizes[image]
