"""Reads YOLO's label files, one .txt an image: `class x y width height` a line, in fractions of the image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cledet.data.formats.annotation_errors import Faults
from cledet.data.formats.paths import EVERYTHING, lies_in, missing, path_fault, place, plain_file, read_lines
from cledet.data.index import DetectionIndex, Floats, image_numbers
from cledet.errors import UserError

MOST_CLASSES = 2**15
"""More classes than any data set has: a number beyond is a mistake, and would cost memory for each class below it."""
SLACK = 0.5
"""By how much of the image a box may reach out of it; farther, and the numbers are no fractions."""


@dataclass(frozen=True, slots=True)
class YoloFolder:
    """A YOLO data set: per split the folders of images, lists of images and images that it is made of."""

    splits: dict[str, tuple[Path, ...]]
    names: tuple[str, ...] = ()
    """The classes in order; without, their numbers."""
    root: Path | None = None
    """The folder that images must lie in, if not in a folder that a split names; None: anywhere."""
    keypoints: bool = False
    """Whether lines go on with keypoints behind the box, so that more than five numbers are no polygon."""
    format = "YOLO"

    def read(self, split: str) -> DetectionIndex:
        """The index of one split, named after the split alone; images are opened for their sizes."""
        faults = Faults()
        images = self._images(split, faults)
        sizes = _sizes(images, faults)
        rows = [read_labels(label_file(image), self.keypoints, faults) for image in images]
        names = self.names or self._numbers()
        return _build(split, images, sizes, _known(rows, images, names, faults), names, faults)

    def sources(self, split: str) -> list[Path]:
        """The label files that `read` reads, those of all splits where the classes have no names."""
        splits = [split] if self.names else list(self.splits)
        return [Path(label_file(image)) for name in splits for image in self._images(name, Faults())]

    def state(self, split: str) -> str:
        """What else a split depends on: its images, in words that change when they do."""
        stats = ((image, os.stat(image)) for image in self._images(split, Faults()) if os.path.isfile(image))
        return "\n".join(f"{image} {stat.st_size} {stat.st_mtime_ns}" for image, stat in stats)

    def _images(self, split: str, faults: Faults) -> list[str]:
        """The images of a split, each once, in order."""
        found = [image for entry in self.splits[split] for image in self._images_of(entry, faults)]
        return list(dict.fromkeys(found))

    def _images_of(self, entry: Path, faults: Faults) -> list[str]:
        if entry == entry.parent:
            raise UserError(f"a split is the whole file system, {entry}", "name the folder of its images")
        if entry.is_dir():
            files = (os.path.join(folder, name) for folder, _, names in os.walk(entry) for name in names)
            return sorted(file for file in files if _is_image(file))
        if not entry.is_file():
            raise missing("images", entry)
        if _is_image(str(entry)):
            return [str(entry)]
        return self._listed(entry, faults)

    def _listed(self, file: Path, faults: Faults) -> list[str]:
        """The images in a list, relative to the list's folder, else to the data set's."""
        names = []
        for name in read_lines(file):
            if fault := path_fault(name):
                faults.add("entry", f"{file}: {name[:40]!r}: {fault}")
            else:
                names.append(name)
        homes = [file.parent, *([self.root] if self.root is not None else [])]
        home = next((home for home in homes if names and os.path.isfile(place(home, names[:1])[0])), file.parent)
        paths = place(home, names)
        if self.root is None:
            return paths
        for name, path in zip(names, paths):
            if not lies_in(path, (self.root, file.parent)):
                faults.add("outside", f"{file}: {name}")
        return [path for path in paths if lies_in(path, (self.root, file.parent))]

    def _numbers(self) -> tuple[str, ...]:
        """Numbers as names, as many as the highest class of all splits wants."""
        images = (image for split in self.splits for image in self._images(split, Faults()))
        rows = (read_labels(label_file(image), self.keypoints, Faults()) for image in images)
        highest = max((int(row[:, 0].max()) for row in rows if len(row)), default=-1)
        return tuple(str(number) for number in range(highest + 1))


def find_yolo(folder: Path) -> YoloFolder | None:
    """A folder without YAML: images/SPLIT, SPLIT/images, or images alone, with labels/ to them or labels beside them.

    Images alone are one split, EVERYTHING. None where there is no such thing.
    """
    images, labels = folder / "images", folder / "labels"
    splits = {part.name: part for part in _folders(images)}
    if not any((labels / name).is_dir() for name in splits):
        parts = [part for part in _folders(folder) if (part / "images").is_dir() and (part / "labels").is_dir()]
        splits = {part.name: part / "images" for part in parts}
    if not splits and images.is_dir() and labels.is_dir():
        splits = {EVERYTHING: images}
    if not splits and any(_is_image(str(file)) and file.with_suffix(".txt").is_file() for file in folder.iterdir()):
        splits = {EVERYTHING: folder}
    return (
        YoloFolder({name: (part,) for name, part in splits.items()}, _names_beside(folder), folder) if splits else None
    )


def label_file(image: str) -> str:
    """Where the labels of an image are: in labels/ for images/, else beside it."""
    stem = os.path.splitext(image)[0]
    before, images, behind = stem.rpartition(f"{os.sep}images{os.sep}")
    return f"{before}{os.sep}labels{os.sep}{behind}.txt" if images else f"{stem}.txt"


def read_labels(file: str, keypoints: bool, faults: Faults) -> Floats:
    """[n, 5] class, centre, width and height of a file's lines in fractions; none where there is no file.

    A line may be a polygon instead, class x1 y1 x2 y2 ..., or have keypoints behind the box. A line that is none of
    these is a fault.
    """
    try:
        with open(file, encoding="utf-8-sig", opener=plain_file) as lines:
            rows = [_row(line, f"{file}:{number}", keypoints, faults) for number, line in enumerate(lines, 1)]
    except FileNotFoundError:
        rows = []
    except (OSError, UnicodeDecodeError) as error:
        faults.add("annotation", f"{file}: {error}")
        rows = []
    return np.array([row for row in rows if row is not None], dtype=np.float64).reshape(-1, 5)


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _names_beside(folder: Path) -> tuple[str, ...]:
    """The class names in classes.txt or obj.names, as labelling tools leave them."""
    for file in (folder / "classes.txt", folder / "labels" / "classes.txt", folder / "obj.names"):
        if file.is_file():
            return tuple(read_lines(file))
    return ()


def _is_image(file: str) -> bool:
    from cledet.data.images import IMAGE_SUFFIXES  # Pillow takes a moment to import

    return os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES


def _sizes(images: Sequence[str], faults: Faults) -> npt.NDArray[np.int32]:
    """[I, 2] width and height of the images as they are seen, by their EXIF orientation; 0 where there is no file."""
    parts = [images[start : start + 64] for start in range(0, len(images), 64)]
    with ThreadPoolExecutor(8) as pool:
        found = [size for sizes in pool.map(lambda part: [_size(image) for image in part], parts) for size in sizes]
    for size in found:
        if isinstance(size, UserError):
            faults.add("image", str(size))
    known = [(0, 0) if isinstance(size, UserError) else size for size in found]
    return np.array(known, dtype=np.int32).reshape(-1, 2)


def _size(image: str) -> tuple[int, int] | UserError:
    from cledet.data.images import image_size

    if not os.path.isfile(image):
        return 0, 0
    try:
        return image_size(image)
    except UserError as error:
        return error


def _row(line: str, where: str, keypoints: bool, faults: Faults) -> tuple[float, ...] | None:
    words = line.split()
    if not words:
        return None
    try:
        number, *values = (float(word) for word in words)
        box = _box(values, keypoints)
    except ValueError as error:
        faults.add("box", f"{where}: {error}")
        return None
    if not number.is_integer() or not 0 <= number < MOST_CLASSES:
        faults.add("class", f"{where}: class {words[0][:40]}")
        return None
    return number, *box


def _box(values: list[float], keypoints: bool) -> tuple[float, float, float, float]:
    """Centre, width and height, from themselves or from a polygon's corners x1 y1 x2 y2 ..."""
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
        raise ValueError("the numbers are no fractions of the image's sides")
    return x, y, width, height


def _known(rows: list[Floats], images: Sequence[str], names: Sequence[str], faults: Faults) -> list[Floats]:
    """The rows whose class has a name."""
    for image, row in zip(images, rows):
        for number in row[row[:, 0] >= len(names), 0]:
            faults.add("class", f"{label_file(image)}: class {number:g}, but there are {len(names)}, from 0 on")
    return [row[row[:, 0] < len(names)] for row in rows]


def _build(
    split: str,
    images: Sequence[str],
    sizes: npt.NDArray[np.int32],
    rows: list[Floats],
    names: tuple[str, ...],
    faults: Faults,
) -> DetectionIndex:
    counts = [len(row) for row in rows]
    table = np.concatenate([np.zeros((0, 5)), *rows])
    size = np.repeat(sizes, counts, axis=0).astype(np.float64)
    extent = table[:, 3:] * size
    xywh = np.concatenate([table[:, 1:3] * size - extent / 2, extent], axis=1)
    return DetectionIndex(
        name=split,
        classes=names,
        category_ids=np.arange(len(names), dtype=np.int64),
        paths=np.array(images, dtype=np.str_),
        image_ids=image_numbers([os.path.splitext(os.path.basename(image))[0] for image in images]),
        sizes=sizes,
        starts=np.cumsum([0, *counts]).astype(np.int64),
        xywh=xywh,
        labels=table[:, 0].astype(np.int64),
        ignore=np.zeros(len(table), dtype=np.bool_),
        area=extent[:, 0] * extent[:, 1],
        faults=faults.all(),
    )
