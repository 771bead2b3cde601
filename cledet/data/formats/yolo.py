"""Reader of YOLO label files, one .txt per image with lines `class x y width height` in fractions of the image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cledet.data.formats.annotation_errors import ErrorLog
from cledet.data.formats.paths import (
    join_paths,
    locate,
    not_found_error,
    open_regular_file,
    read_lines,
)
from cledet.data.formats.walk import first_line, read_head, walk_folder
from cledet.data.images import IMAGE_SUFFIXES, image_size
from cledet.data.index import DetectionIndex, Floats, index_of_rows
from cledet.errors import UserError

MOST_CLASSES = 2**15
"""Limit on class numbers: a larger one is a mistake, and would cost memory for each class below it."""
SLACK = 0.5
"""Fraction of the image by which a box may reach over its edge; beyond, the numbers are not fractions."""


@dataclass(frozen=True, slots=True)
class YoloFolder:
    """A YOLO data set: each split combines folders of images, lists of images and single images."""

    splits: dict[str, tuple[Path, ...]]
    names: tuple[str, ...] = ()
    """Class names in label order; by default the class numbers."""
    root: Path | None = None
    """A folder that may hold the images of a list, besides the list's own; None: images may be anywhere."""
    keypoints: bool = False
    """Whether keypoints follow the box in a line, so that a line of more than five numbers is not a polygon."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The folder of labels of each folder of images; by default by `label_file`. If given, a split's folder is read
    without its subfolders, and images in lists are found by name."""
    format = "YOLO"

    def read(self, split: str) -> DetectionIndex:
        """Read one split; images are opened for their sizes; the index is named after the split."""
        errors = ErrorLog()
        images = self._images(split, errors)
        sizes = read_sizes(images, errors)
        files = [self._label_file(image) for image in images]
        rows = [read_labels(file, self.keypoints, errors) for file in files]
        names = self.names or self._numbers()
        rows = _with_known_classes(rows, files, names, errors)
        counts, table = list(map(len, rows)), np.concatenate([np.zeros((0, 5)), *rows])
        size = np.repeat(sizes, counts, axis=0).astype(np.float64)
        extent = table[:, 3:] * size
        columns = (table[:, :1], table[:, 1:3] * size - extent / 2, extent, np.zeros((len(table), 1)))
        index = index_of_rows(split, names, 0, images, sizes, counts, np.concatenate(columns, axis=1), errors)
        note = f"{split}: none of its {len(images)} images has a label file, the first would be {(*files, '')[0]}."
        notes = (note,) if images and not any(map(os.path.isfile, files)) else ()
        return replace(index, upright=np.ones(len(images), dtype=np.bool_), notes=notes)

    def inputs(self, split: str) -> tuple[list[Path], str]:
        """Return the label files that `read` parses, and path, size and modification time of the images as text.

        The label files are those of all splits if the classes have no names.
        """
        splits = [split] if self.names else list(self.splits)
        labels = [Path(self._label_file(image)) for name in splits for image in self._images(name, ErrorLog())]
        stats = ((image, os.stat(image)) for image in self._images(split, ErrorLog()) if os.path.isfile(image))
        return labels, "\n".join(f"{image} {stat.st_size} {stat.st_mtime_ns}" for image, stat in stats)

    def _images(self, split: str, errors: ErrorLog) -> list[str]:
        """Return the image paths of a split, each once, in order."""
        images = [image for entry in self.splits[split] for image in self._images_of(entry, errors)]
        return list(dict.fromkeys(images))

    def _images_of(self, entry: Path, errors: ErrorLog) -> list[str]:
        """Return the images below a folder, an image alone, or those of a list, relative to it or to the data set."""
        if entry.is_dir():
            return (
                [str(file) for file in sorted(entry.iterdir()) if is_image(file.name)]
                if self.labels
                else _images_below(entry)
            )
        if not entry.is_file():
            raise not_found_error("images", entry)
        if is_image(str(entry)):
            return [str(entry)]
        names, root, home = read_lines(entry), self.root or entry.parent, entry.parent
        if self.labels:
            images = walk_folder(root).images()
            names = [images.find(name, str(home)) or name for name in names]
        if names and not os.path.isfile(join_paths(home, names[:1])[0]):
            home = root if os.path.isfile(join_paths(root, names[:1])[0]) else home
        return locate(names, home, (root, entry.parent) if self.root is not None else None, entry, errors)[1]

    def _label_file(self, image: str) -> str:
        folder, name = os.path.split(image)
        if folder not in self.labels:
            return label_file(image)
        return os.path.join(self.labels[folder], f"{os.path.splitext(name)[0]}.txt")

    def _numbers(self) -> tuple[str, ...]:
        """Return class numbers as names, up to the highest class of all splits."""
        images = (image for split in self.splits for image in self._images(split, ErrorLog()))
        rows = (read_labels(self._label_file(image), self.keypoints, ErrorLog()) for image in images)
        highest = max((int(row[:, 0].max()) for row in rows if len(row)), default=-1)
        return tuple(str(number) for number in range(highest + 1))


def sniff_yolo(file: Path) -> bool:
    """Return whether a text file begins with a class number and at least four other numbers."""
    try:
        number, *others = (float(word) for word in first_line(read_head(file)).split())
    except ValueError:
        return False
    return number.is_integer() and len(others) >= 4


def label_file(image: str) -> str:
    """Return the label file of an image: in labels/ for an image in images/, else beside the image."""
    stem = os.path.splitext(image)[0]
    before, images, behind = stem.rpartition(f"{os.sep}images{os.sep}")
    return f"{before}{os.sep}labels{os.sep}{behind}.txt" if images else f"{stem}.txt"


def read_labels(file: str, keypoints: bool, errors: ErrorLog) -> Floats:
    """Read [n, 5] class, centre, width and height in fractions; n is 0 if there is no file.

    A line may also be a polygon, class x1 y1 x2 y2 ..., or have keypoints after the box. Other lines are logged as
    annotation errors.
    """
    try:
        with open(file, encoding="utf-8-sig", opener=open_regular_file) as lines:
            rows = [_row(line, f"{file}:{number}", keypoints, errors) for number, line in enumerate(lines, 1)]
    except FileNotFoundError:
        rows = []
    except (OSError, UnicodeDecodeError) as error:
        errors.add("annotation", f"{file}: {error}")
        rows = []
    return np.array([row for row in rows if row is not None], dtype=np.float64).reshape(-1, 5)


def _images_below(folder: Path) -> list[str]:
    """Find the images in a folder and its subfolders, sorted; hidden ones are left out."""
    return sorted(path for paths in walk_folder(folder).images().by_stem.values() for path in paths)


def is_image(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES


def read_sizes(images: Sequence[str], errors: ErrorLog) -> npt.NDArray[np.int32]:
    """Read width and height [I, 2] of the images with EXIF orientation applied; 0 if there is no file."""
    chunks = [images[start : start + 64] for start in range(0, len(images), 64)]
    with ThreadPoolExecutor(8) as pool:
        results = [size for sizes in pool.map(lambda chunk: list(map(_size, chunk)), chunks) for size in sizes]
    for size in results:
        if isinstance(size, UserError):
            errors.add("image", str(size))
    sizes = [(0, 0) if isinstance(size, UserError) else size for size in results]
    return np.array(sizes, dtype=np.int32).reshape(-1, 2)


def _size(image: str) -> tuple[int, int] | UserError:
    if not os.path.isfile(image):
        return 0, 0
    try:
        return image_size(image)
    except UserError as error:
        return error


def _row(line: str, where: str, keypoints: bool, errors: ErrorLog) -> tuple[float, ...] | None:
    words = line.split()
    if not words:
        return None
    try:
        number, *values = (float(word) for word in words)
        box = _box(values, keypoints)
    except ValueError as error:
        errors.add("box", f"{where}: {error}")
        return None
    if not number.is_integer() or not 0 <= number < MOST_CLASSES:
        errors.add("class", f"{where}: class {words[0][:40]}")
        return None
    return number, *box


def _box(values: list[float], keypoints: bool) -> tuple[float, float, float, float]:
    """Return centre, width and height of a box, or of a polygon's corners x1 y1 x2 y2 ..."""
    if len(values) >= 6 and len(values) % 2 == 0 and not keypoints:
        xs, ys = values[0::2], values[1::2]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
        values = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    if len(values) != 4 and not (keypoints and len(values) > 4):
        raise ValueError(f"{len(values) + 1} numbers instead of 5: class x y width height")
    x, y, width, height = values[:4]
    if not all(
        -SLACK <= value <= 1 + SLACK for value in (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    ):
        raise ValueError("the numbers are not fractions of the image's sides")
    return x, y, width, height


def _with_known_classes(
    rows: list[Floats], files: Sequence[str], names: Sequence[str], errors: ErrorLog
) -> list[Floats]:
    """Drop and log the rows whose class has no name."""
    for file, row in zip(files, rows):
        for number in row[row[:, 0] >= len(names), 0]:
            errors.add("class", f"{file}: class {number:g}, but there are {len(names)}, from 0")
    return [row[row[:, 0] < len(names)] for row in rows]
