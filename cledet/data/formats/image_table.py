"""Images and boxes as readers of label files collect them, and the index of a split made of them."""

from __future__ import annotations

import hashlib
import math
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cledet.data.formats.annotation_errors import ErrorLog
from cledet.data.formats.enclosing_boxes import Box
from cledet.data.formats.paths import invalid_path_reason, is_inside, join_paths
from cledet.data.formats.walk import ImageFiles, walk_folder
from cledet.data.formats.yolo import SLACK, read_sizes
from cledet.data.index import FARTHEST, DetectionIndex, Floats, group_by_image, index_of_rows
from cledet.errors import nearest

UNNAMED = "object"
"""The class of all boxes of a file that names no class."""


class ImageTable:
    """Images and boxes of the annotation files of one split; classes by name."""

    def __init__(self) -> None:
        self.errors = ErrorLog()
        self.classes: dict[str, int] = {}
        """Class names in order of occurrence, numbered."""
        self.defined: list[str] = []
        """Class names in the order that the files define, if they define any."""
        self.without_box: Counter[str] = Counter()
        """Number of shapes that have no box, by type: points, lines."""
        self._notes: list[str] = []
        self.names: list[str] = []
        """Paths or names of the images, as the files have them."""
        self._folders: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._relative: list[bool] = []
        self._boxes = array("d")

    def add_image(
        self, name: str, folder: str, size: tuple[int, int] = (0, 0), *, relative: bool = False, where: str = ""
    ) -> int:
        """Add an image as the files name it, and return its number; `relative`: its boxes are fractions of its sides.

        `folder` is that of the annotation file; `size` is width and height, 0 if unknown.
        """
        if not all(0 <= side <= FARTHEST for side in size):
            self.errors.add("entry", f"{where}: width and height are {size[0]} and {size[1]}")
            size = (0, 0)
        self.names.append(name)
        self._folders.append(folder)
        self._sizes.append(size)
        self._relative.append(relative)
        return len(self.names) - 1

    def size(self, image: int) -> tuple[int, int]:
        """Return the width and height of an image as added."""
        return self._sizes[image]

    def add_box(self, image: int, name: str, box: Box, where: str, *, ignore: bool = False) -> None:
        """Add a box of the class `name`; numbers that are not finite or too large are logged with `where`."""
        if not all(map(math.isfinite, box)) or max(map(abs, box)) > FARTHEST:
            self.errors.add("box", f"{where}: {name[:40]}: {', '.join(f'{side:g}' for side in box)}")
        elif self._relative[image] and not _is_fraction(box):
            self.errors.add("box", f"{where}: {name[:40]}: the numbers are not fractions of the image's sides")
        elif reason := _invalid_name_reason(name):
            self.errors.add("class", f"{where}: {reason}")
        else:
            label = self.classes.setdefault(name, len(self.classes))
            self._boxes.extend((image, label, *box, ignore or box[2] <= 0 or box[3] <= 0))

    def index(
        self, split: str, classes: tuple[str, ...], images: ImageFiles, root: Path, others: Iterable[ImageTable] = ()
    ) -> DetectionIndex:
        """Return the index of the split, named after it; files of images are searched for below `root`.

        Boxes of other classes, images outside `root`, and images that are listed twice are logged as annotation errors.
        Images beside those of the split that neither this table nor `others`, those of all splits, list are noted.
        """
        paths = self._paths(split, images, root)
        kept = [image for image, path in enumerate(paths) if path]
        position = np.full(len(paths), -1, dtype=np.int64)
        position[kept] = np.arange(len(kept))
        files, boxes = [paths[image] for image in kept], self._rows(classes)
        at = position[boxes[:, 0].astype(np.int64)]
        boxes, at = boxes[at >= 0], at[at >= 0]
        order, starts = group_by_image(at, len(kept))
        rows, at = boxes[order, 1:], at[order]
        relative = np.array(self._relative, dtype=np.bool_)[kept]
        sizes, upright = self._known_sizes(files, np.array(self._sizes, dtype=np.int64).reshape(-1, 2)[kept], relative)
        scale = np.where(relative[:, None], sizes, 1)[at].astype(np.float64)
        rows[:, 1:5] *= np.concatenate([scale, scale], axis=1)
        rows[:, 5] = (rows[:, 5] > 0) | (rows[:, 3:5] <= 0).any(axis=1)
        index = index_of_rows(split, classes, 1, files, sizes, np.diff(starts).tolist(), rows, self.errors)
        return replace(
            index, upright=upright, notes=(*self._all_notes(split), *_unlisted((self, *others), split, files, images))
        )

    def note(self, count: int, text: str) -> None:
        """Add a note for the caller of the index to print, if there is anything to count."""
        if count:
            self._notes.append(text)

    def _all_notes(self, split: str) -> tuple[str, ...]:
        counts = ", ".join(f"{count} {kind[:40]}" for kind, count in sorted(self.without_box.items())[:8])
        return (*self._notes, *([f"{split}: shapes without a box are skipped: {counts}."] if counts else []))

    def _paths(self, split: str, images: ImageFiles, root: Path) -> list[str]:
        """Return the file of each image; "" for one that is invalid, outside `root` or the second of the same file."""
        paths, seen = [], set[str]()
        for name, folder in zip(self.names, self._folders):
            path = self._path(name, folder, split, images, root)
            if path in seen:
                self.errors.add("entry", f"{folder}: {name[:200]} is listed twice")
                path = ""
            paths.append(path)
            seen |= {path} - {""}
        return paths

    def _path(self, name: str, folder: str, split: str, images: ImageFiles, root: Path) -> str:
        """Return an image's file: as named from the annotations' folder if it exists, else of its name below `root`.

        Paths of another machine are thus found by their names. Of several images of a name, one in a folder called as
        the split is preferred. A path to a file outside `root` is logged.
        """
        if reason := invalid_path_reason(name) if name else "it is empty":
            self.errors.add("entry", f"{folder}: {name[:40]!r}: {reason}")
            return ""
        (path,) = join_paths(Path(folder), [name])
        inside = is_inside(path, (root,))
        if inside and os.path.isfile(path):
            return path
        near = folder if split in folder.split(os.sep) else os.path.join(folder, split)
        if found := images.find(name, near):
            return found
        if not inside and os.path.exists(path):
            self.errors.add("outside", f"{folder}: {name}")
            return ""
        return path if inside else str(root.joinpath(*(part for part in re.split(r"[\\/]", name) if part != "..")))

    def _rows(self, classes: Sequence[str]) -> Floats:
        """Return image, label in `classes`, left, top, width, height and ignore of the boxes, [B, 7]."""
        rows = np.array(self._boxes, dtype=np.float64).reshape(-1, 7)
        number, own = {name: label for label, name in enumerate(classes)}, tuple(self.classes)
        label_of = np.array([number.get(name, -1) for name in own] or [-1])
        labels = label_of[rows[:, 1].astype(np.int64)]
        for image, label in rows[labels < 0, :2].astype(np.int64).tolist():
            hint = nearest(own[label], classes) if self.errors.needs_example("class") else ""
            self.errors.add("class", f"{self.names[image]}: '{own[label][:40]}' ({hint})")
        rows[:, 1] = labels
        return rows[labels >= 0]

    def _known_sizes(
        self, files: Sequence[str], sizes: npt.NDArray[np.int64], relative: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return width and height [I, 2], and those that were read from the image files [I]: needed, not annotated."""
        unknown = relative & (sizes <= 0).any(axis=1)
        sizes[unknown] = read_sizes([files[image] for image in np.flatnonzero(unknown).tolist()], self.errors)
        return sizes, unknown


@dataclass(frozen=True, slots=True)
class TableFiles:
    """A data set of annotation files that hold class names: those of each split, and the folder of its images.

    A format is a subclass with its name as `format`, and `read_table`, which reads the files of a split.
    """

    root: Path
    splits: dict[str, tuple[Path, ...]]

    def read(self, split: str) -> DetectionIndex:
        """Read one split; the index is named after it. Images are opened for sizes that are needed and missing."""
        tables = {name: self.read_table(name) for name in self.splits}
        images, classes = walk_folder(self.root).images(), self.order_classes(list(tables.values()))
        return tables[split].index(split, classes, images, self.root, tables.values())

    def inputs(self, split: str) -> tuple[list[Path], str]:
        """Return the files of all splits, since they determine the classes, and the image files as text."""
        files = dict.fromkeys(file for files in self.splits.values() for file in files)
        return list(files), _images_state(walk_folder(self.root).images(), stats=self.opens_images(split))

    def read_table(self, split: str) -> ImageTable:
        """Collect the images and boxes of a split."""
        raise NotImplementedError

    def order_classes(self, tables: Sequence[ImageTable]) -> tuple[str, ...]:
        """Return the class names in label order: as the files define them, else sorted."""
        defined = dict.fromkeys(name for table in tables for name in table.defined)
        return tuple(defined or sorted({name for table in tables for name in table.classes}))

    def opens_images(self, split: str) -> bool:
        """Return whether `read` opens image files, here never."""
        return False


def _unlisted(tables: Iterable[ImageTable], split: str, files: Sequence[str], images: ImageFiles) -> tuple[str, ...]:
    """Return a note on the images in the folders of a split's images that no annotation file lists."""
    names = {re.split(r"[\\/]", name)[-1] for table in tables for name in table.names}
    left = images.unlisted(names | {os.path.splitext(name)[0] for name in names}, files)
    note = f"{split}: {len(left)} images are in no annotation file, the first is {left[0]}: left out." if left else ""
    return (note,) if note else ()


def _images_state(images: ImageFiles, *, stats: bool) -> str:
    """Return a digest of the image files' paths; with `stats`, also of their sizes and modification times."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for paths in images.by_stem.values() for path in paths):
        stat = os.stat(path) if stats and os.path.isfile(path) else None
        digest.update(f"{path}\0{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _is_fraction(box: Box) -> bool:
    left, top, width, height = box
    return all(-SLACK <= side <= 1 + SLACK for side in (left, top, left + width, top + height))


def _invalid_name_reason(name: str) -> str:
    """Return why a class cannot have this name, or ""."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "a lone surrogate in its class name"
    return "" if name.strip() else "it has no class name"
