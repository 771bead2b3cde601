"""Columnar index of one split of a data set: images, boxes and labels as flat arrays."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from cledet.data.formats.annotation_errors import AnnotationError, ErrorLog
from cledet.errors import UserError, nearest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

IMAGE_COLUMNS, BOX_COLUMNS = ("paths", "image_ids", "sizes", "upright"), ("xywh", "labels", "ignore", "area")
COLUMNS = ("category_ids", "starts", *IMAGE_COLUMNS, *BOX_COLUMNS)
"""The fields of an index that are arrays."""
METADATA = "metadata.json"
FARTHEST = 1e9
"""Limit on coordinates in pixels; a box beyond it is degenerate."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectionIndex:
    """One split: I images in columns, and B boxes in columns grouped by image.

    The boxes of image i are the rows starts[i]:starts[i + 1] of xywh, labels, ignore and area.
    """

    name: str
    """Data set and split, "bccd/test"."""
    classes: tuple[str, ...]
    """Class names, by label."""
    category_ids: Ints
    """[C] the data set's class ids, by label."""
    paths: npt.NDArray[np.str_]
    """[I] absolute image paths."""
    image_ids: Ints
    """[I] the data set's image ids."""
    sizes: npt.NDArray[np.int32]
    """[I, 2] width and height as annotated, or of the file where `upright`; 0 if unknown."""
    starts: Ints
    """[I + 1] first box row of each image."""
    xywh: Floats
    """[B, 4] left, top, width, height in pixels from 0, unrounded."""
    labels: Ints
    """[B] contiguous labels 0..C-1."""
    ignore: Bools
    """[B] crowds (COCO) and difficult or degenerate boxes (VOC): neither object nor background."""
    area: Floats
    """[B] COCO's `area` (of the mask) if the file has it, else width times height."""
    upright: Bools = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """[I] whether the size was read from the file, with the EXIF orientation applied; by default of no image."""
    notes: tuple[str, ...] = ()
    """Warnings for the caller to print."""
    annotation_errors: tuple[AnnotationError, ...] = ()
    """Invalid annotations; training and evaluation refuse a split that has any."""
    cache_folder: Path | None = None
    """The folder from which the columns are memory-mapped, if they are; see `cledet.data.index_cache`."""

    def __post_init__(self) -> None:
        if not len(self.upright):
            object.__setattr__(self, "upright", np.zeros(len(self.image_ids), dtype=np.bool_))

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickle the folder of the mapped columns, else the columns themselves."""
        if self.cache_folder is None:
            return DetectionIndex, tuple(getattr(self, column.name) for column in fields(self))
        return DetectionIndex.load, (self.cache_folder, self.name, self.notes)

    @classmethod
    def load(cls, folder: Path, name: str | None = None, notes: tuple[str, ...] | None = None) -> DetectionIndex:
        """Map the columns in a folder written by `save`; `name` and `notes` replace the stored ones.

        Raises OSError or ValueError if the folder does not hold a complete index.
        """
        metadata = json.loads((folder / METADATA).read_bytes())
        columns: dict[str, Any] = {column: open_memmap(folder / f"{column}.npy", mode="r") for column in COLUMNS}
        return cls(
            name=metadata["name"] if name is None else name,
            classes=tuple(metadata["classes"]),
            notes=tuple(metadata["notes"]) if notes is None else notes,
            cache_folder=folder,
            **columns,
        )

    def save(self, folder: Path) -> None:
        """Write the columns, name, classes and notes to a folder for `load`."""
        metadata = {"name": self.name, "classes": self.classes, "notes": self.notes}
        (folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
        for column in COLUMNS:
            np.save(folder / f"{column}.npy", getattr(self, column))

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_boxes(self) -> int:
        """Return the number of boxes, ignored ones included."""
        return len(self.labels)

    def rows(self, image: int) -> slice:
        """Return the box rows of one image."""
        return slice(int(self.starts[image]), int(self.starts[image + 1]))

    def size(self, image: int) -> tuple[int, int] | None:
        """Return width and height of an image, annotated or read from the file; None if unknown."""
        width, height = self.sizes[image].tolist()
        return (width, height) if width > 0 and height > 0 else None

    def annotated_size(self, image: int) -> tuple[int, int] | None:
        """Return width and height of an image as annotated, for `read_image`; None if its boxes are upright."""
        return None if self.upright[image] else self.size(image)

    def degenerate(self, rows: slice = slice(None)) -> Bools:
        """Mark the box rows, [B] by default, without width or height, or with coordinates beyond FARTHEST or NaN."""
        xywh = self.xywh[rows]
        return np.logical_not((np.abs(xywh) <= FARTHEST).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1))

    def objects(self) -> Bools:
        """Mark the boxes [B] that are objects: neither ignored nor degenerate."""
        return ~self.ignore & ~self.degenerate()

    def boxes(self, image: int) -> npt.NDArray[np.float32]:
        """Return the boxes of one image, [n, 4] xyxy."""
        xywh = self.xywh[self.rows(image)]
        with np.errstate(over="ignore", invalid="ignore"):  # degenerate boxes
            return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32)

    def image_of_boxes(self) -> Ints:
        """Return the image position of every box, [B]."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def class_counts(self) -> dict[str, int]:
        """Count the boxes of every class name, without ignored ones; classes of one name are summed."""
        counts = np.bincount(self.labels[~self.ignore], minlength=len(self.classes)).tolist()
        totals = dict.fromkeys(self.classes, 0)
        for name, count in zip(self.classes, counts):
            totals[name] += count
        return totals

    def digests(self) -> dict[str, str]:
        """Hash `images` (ids and sizes, in order) and `boxes` (with labels), independent of file paths."""
        boxes = (self.starts, self.xywh, self.labels, self.ignore)
        contents = {"images": (self.image_ids, self.sizes), "boxes": boxes}
        return {
            name: hashlib.blake2b(b"".join(column.tobytes() for column in columns), digest_size=16).hexdigest()
            for name, columns in contents.items()
        }

    def subset(self, images: Sequence[int] | Ints) -> DetectionIndex:
        """Return the index of these image positions, in this order."""
        chosen = np.asarray(images, dtype=np.int64)
        counts = np.diff(self.starts)[chosen]
        starts = _starts(counts)
        return self.gather(chosen, np.repeat(self.starts[chosen] - starts[:-1], counts) + np.arange(starts[-1]), counts)

    def of_classes(self, labels: Sequence[int]) -> DetectionIndex:
        """Return the index with the boxes of these labels only, on all images and with all class names."""
        rows = np.flatnonzero(np.isin(self.labels, labels))
        counts = np.bincount(self.image_of_boxes()[rows], minlength=len(self))
        return self.gather(np.arange(len(self)), rows, counts)

    def gather(self, images: Ints, rows: Ints, counts: npt.ArrayLike) -> DetectionIndex:
        """Return the index of these image positions [I] with these box rows [B], `counts` [I] per image."""
        columns = {name: getattr(self, name)[images] for name in IMAGE_COLUMNS}
        columns |= {name: getattr(self, name)[rows] for name in BOX_COLUMNS}
        return replace(self, **columns, starts=_starts(counts), cache_folder=None)


def labels_of(classes: Sequence[str], names: Sequence[str], owner: str) -> tuple[int, ...]:
    """Return the labels of classes by name. Raises UserError for a name that is not among those of the owner."""
    for name in classes:
        if name not in names:
            raise UserError(f"{owner} has no class {name!r}", nearest(name, names))
    return tuple(label for label, name in enumerate(names) if name in classes)


def join_indices(name: str, indices: Sequence[DetectionIndex]) -> DetectionIndex:
    """Join indices of the same classes, in their order; images are numbered from 1 if their ids are not distinct."""
    columns: dict[str, Any] = {
        column: np.concatenate([getattr(index, column) for index in indices])
        for column in (*IMAGE_COLUMNS, *BOX_COLUMNS)
    }
    starts = _starts(np.concatenate([np.diff(index.starts) for index in indices]))
    if len(np.unique(columns["image_ids"])) < len(starts) - 1:
        columns["image_ids"] = np.arange(1, len(starts), dtype=np.int64)
    return replace(indices[0], name=name, **columns, starts=starts, notes=(), cache_folder=None)


def group_by_image(images: Ints, count: int) -> tuple[Ints, Ints]:
    """Return a stable order [B] that groups boxes by image, and the first row of each image [count + 1].

    `images` [B] is the image position of every box.
    """
    order = np.argsort(images.astype(np.min_scalar_type(count)), kind="stable")  # 16 bits are sorted in one pass
    return order, _starts(np.bincount(images, minlength=count))


def index_of_rows(
    name: str,
    classes: tuple[str, ...],
    first_id: int,
    paths: Sequence[str],
    sizes: npt.ArrayLike,
    counts: Sequence[int],
    rows: Floats,
    errors: ErrorLog,
) -> DetectionIndex:
    """Build an index without ids: classes are numbered from `first_id`, images by their names.

    `sizes` [I, 2]; `counts` [I] boxes per image; `rows` [B, 6] label, left, top, width, height and 1 for ignored boxes.
    """
    return DetectionIndex(
        name=name,
        classes=classes,
        category_ids=np.arange(first_id, first_id + len(classes), dtype=np.int64),
        paths=np.array(paths, dtype=np.str_),
        image_ids=image_numbers([os.path.splitext(os.path.basename(path))[0] for path in paths]),
        sizes=np.asarray(sizes, dtype=np.int32).reshape(-1, 2),
        starts=_starts(counts),
        xywh=np.ascontiguousarray(rows[:, 1:5]),
        labels=rows[:, 0].astype(np.int64),
        ignore=rows[:, 5] > 0,
        area=rows[:, 3] * rows[:, 4],
        annotation_errors=errors.records(),
    )


def _starts(counts: npt.ArrayLike) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def image_numbers(stems: Sequence[str]) -> Ints:
    """Return image ids from file names: their digits (2007_000027 -> 2007000027) if all differ, else 1, 2, ..."""
    digits = [re.sub(r"\D", "", stem) for stem in stems]
    if len({int(number or -1) for number in digits}) == len(stems) and all(0 < len(n) < 19 for n in digits):
        return np.array([int(number) for number in digits], dtype=np.int64)
    return np.arange(1, len(stems) + 1, dtype=np.int64)
