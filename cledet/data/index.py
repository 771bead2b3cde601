"""Columnar index of one split of a data set: images, boxes and labels as flat arrays."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from cledet.data.formats.annotation_errors import AnnotationError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

COLUMNS = ("category_ids", "paths", "image_ids", "sizes", "starts", "xywh", "labels", "ignore", "area")
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
    """[I, 2] width and height as annotated; 0 if unknown."""
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
    notes: tuple[str, ...] = ()
    """Warnings for the caller to print."""
    annotation_errors: tuple[AnnotationError, ...] = ()
    """Invalid annotations; training and evaluation refuse a split that has any."""
    cache_folder: Path | None = None
    """The folder from which the columns are memory-mapped, if they are; see `cledet.data.index_cache`."""

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
        """Return width and height of an image as annotated; None if unknown."""
        width, height = self.sizes[image].tolist()
        return (width, height) if width > 0 and height > 0 else None

    def degenerate(self, rows: slice = slice(None)) -> Bools:
        """Mark the box rows, [B] by default, without width or height, or with coordinates beyond FARTHEST or NaN."""
        xywh = self.xywh[rows]
        return np.logical_not((np.abs(xywh) <= FARTHEST).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1))

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
        parts = {
            "images": (self.image_ids, self.sizes),
            "boxes": (self.starts, self.xywh, self.labels, self.ignore),
        }
        return {name: _digest(columns) for name, columns in parts.items()}

    def subset(self, images: Sequence[int] | Ints) -> DetectionIndex:
        """Return the index of these image positions, in this order."""
        chosen = np.asarray(images, dtype=np.int64)
        counts = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.repeat(self.starts[chosen] - starts[:-1], counts) + np.arange(starts[-1])
        return replace(
            self,
            paths=self.paths[chosen],
            image_ids=self.image_ids[chosen],
            sizes=self.sizes[chosen],
            starts=starts,
            xywh=self.xywh[rows],
            labels=self.labels[rows],
            ignore=self.ignore[rows],
            area=self.area[rows],
            cache_folder=None,
        )

    def to_coco(self) -> dict[str, Any]:
        """The same as a COCO annotation file: original ids, unrounded boxes, iscrowd where ignored."""
        columns = zip(
            self.image_ids[self.image_of_boxes()].tolist(),
            self.category_ids[self.labels].tolist(),
            self.xywh.tolist(),
            self.area.tolist(),
            self.ignore.astype(int).tolist(),
        )
        keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
        return {
            "info": {"description": self.name},
            "images": [
                {"id": image, "file_name": path, "width": width, "height": height}
                for image, path, (width, height) in zip(
                    self.image_ids.tolist(), self.paths.tolist(), self.sizes.tolist()
                )
            ],
            "categories": [
                {"id": category, "name": name} for category, name in zip(self.category_ids.tolist(), self.classes)
            ],
            "annotations": [{"id": row, **dict(zip(keys, values))} for row, values in enumerate(columns, 1)],
        }


def _digest(columns: Sequence[npt.NDArray[Any]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def group_by_image(images: Ints, count: int) -> tuple[Ints, Ints]:
    """Return a stable order [B] that groups boxes by image, and the first row of each image [count + 1].

    `images` [B] is the image position of every box.
    """
    order = np.argsort(images.astype(np.min_scalar_type(count)), kind="stable")  # 16 bits are sorted in one pass
    starts = np.concatenate([[0], np.cumsum(np.bincount(images, minlength=count))]).astype(np.int64)
    return order, starts


def image_numbers(stems: Sequence[str]) -> Ints:
    """Return image ids from file names: their digits (2007_000027 -> 2007000027) if all differ, else 1, 2, ..."""
    digits = [re.sub(r"\D", "", stem) for stem in stems]
    if len({int(number or -1) for number in digits}) == len(stems) and all(0 < len(n) < 19 for n in digits):
        return np.array([int(number) for number in digits], dtype=np.int64)
    return np.arange(1, len(stems) + 1, dtype=np.int64)
