"""Reader of Pascal VOC folders: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt; one or several years."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import TypeVar

import numpy as np

from cledet.data.formats.annotation_errors import ErrorLog
from cledet.data.formats.paths import UNDIVIDED_SPLIT, locate, not_found_error, open_regular_file, read_lines
from cledet.data.images import IMAGE_SUFFIXES
from cledet.data.index import FARTHEST, DetectionIndex, Floats, index_of_rows
from cledet.errors import nearest

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
EXACT = Context(prec=800, traps=[])
"""Decimal arithmetic in which sums of any two coordinates are exact."""
DIGITS = 15
"""Digits that float64 tells apart: a shorter text that is read as a whole number is one."""
Number = TypeVar("Number", float, Decimal)


@dataclass(frozen=True, slots=True)
class VocFolder:
    """A VOC folder, or a folder of several: the image lists (ImageSets/Main) of each split.

    A list in a subfolder is named with it: VOC2007/trainval.
    """

    folder: Path
    splits: dict[str, tuple[str, ...]]
    names: tuple[str, ...] = ()
    """Class names in label order; by default the standard twenty, or those of the annotations."""
    format = "Pascal VOC"

    def read(self, split: str) -> DetectionIndex:
        """Read one split without opening its image files; the index is named after the split."""
        errors = ErrorLog()
        files = [file for name in self.splits[split] for file in _annotations(self.folder, name, errors)]
        return index_of_xml(split, files, self.names or class_names(self._all_files()), _image_paths, errors)

    def inputs(self, split: str) -> tuple[list[Path], str]:
        """Return the files that `read` parses, those of all splits since they determine the classes, and no text."""
        return [*(list_file(self.folder, name) for name in self.splits[split]), *self._all_files()], ""

    def _all_files(self) -> list[Path]:
        homes = {_home(self.folder, name) for lists in self.splits.values() for name in lists}
        return [file for home in sorted(homes) for file in sorted((home / "Annotations").glob("*.xml"))]


def is_voc(folder: Path) -> bool:
    """Return whether the folder has XML files in Annotations."""
    return next((folder / "Annotations").glob("*.xml"), None) is not None


def find_voc(folder: Path) -> dict[str, tuple[str, ...]]:
    """Find the lists of each split in a VOC folder, or in a folder of VOC2007, VOC2012 ...; empty if it is neither.

    A folder's splits are its lists except those of a single class, else one undivided split. With several years, a
    split combines the lists of the same name.
    """
    parts = [folder] if is_voc(folder) else sorted(entry for entry in folder.glob("VOC[0-9]*") if is_voc(entry))
    splits: dict[str, tuple[str, ...]] = {}
    for part in parts:
        year = "" if part == folder else f"{part.name}/"
        stems = {file.stem for file in (part / "ImageSets" / "Main").glob("*.txt") if file.is_file()}
        for split in without_classes(stems) or [UNDIVIDED_SPLIT]:
            splits[split] = (*splits.get(split, ()), f"{year}{split}")
    return splits


def without_classes(lists: Collection[str]) -> list[str]:
    """Return the sorted names of lists except those of a single class: dog_val beside val."""
    return sorted(name for name in lists if "_" not in name or name.rpartition("_")[2] not in lists)


def index_of_xml(
    split: str,
    files: Iterable[Path],
    classes: tuple[str, ...],
    image_paths: Callable[[Sequence[Path]], Sequence[str]],
    errors: ErrorLog,
) -> DetectionIndex:
    """Read XML files, each once, to the index of a split; `image_paths` returns the image of each of the valid ones."""
    parsed = {file: image for file in dict.fromkeys(files) if (image := read_xml(file, classes, errors)) is not None}
    sizes, rows = [size for size, _ in parsed.values()], [own for _, own in parsed.values()]
    table, counts = np.concatenate([np.zeros((0, 6)), *rows]), list(map(len, rows))
    return index_of_rows(split, classes, 1, image_paths(list(parsed)), sizes, counts, table, errors)


def read_xml(file: Path, classes: Sequence[str], errors: ErrorLog) -> tuple[tuple[int, int], Floats] | None:
    """Read width and height, and the objects of these classes as rows [n, 6] for `index_of_rows`.

    `difficult` and `size` are optional; difficult and degenerate objects are ignored. Returns None for a file that is
    missing or not XML. That, objects without a box and objects of other classes are logged as annotation errors.
    """
    try:
        root = parse_xml(file)
        size = root.find("size")
        sides = (0, 0) if size is None else (int(_number(size, "width")), int(_number(size, "height")))
    except ValueError as error:
        errors.add("annotation", f"{file}: {error}")
        return None
    rows = []
    for item in root.findall("object"):
        name = _name(item)
        if name not in classes:
            hint = nearest(name, classes) if errors.needs_example("class") else ""
            errors.add("class", f"{file}: '{name[:40]}' ({hint})")
            continue
        try:
            x, y, width, height = _box(item)
        except ValueError as error:
            errors.add("box", f"{file}: {name}: {error}")
            continue
        difficult = (item.findtext("difficult") or "0").strip() == "1"
        rows.append((classes.index(name), x, y, width, height, difficult or width <= 0 or height <= 0))
    return sides, np.array(rows, dtype=np.float64).reshape(-1, 6)


def pixel_box(corners: Sequence[Number]) -> tuple[Number, Number, Number, Number]:
    """Convert xmin, ymin, xmax, ymax, 1-based and inclusive, to 0-based xywh.

    Corners that coincide or cross are degenerate: that side is 0 or negative, not one pixel.
    """
    xmin, ymin, xmax, ymax = corners
    width, height = (extent + 1 if extent > 0 else extent for extent in (xmax - xmin, ymax - ymin))
    return xmin - 1, ymin - 1, width, height


def parse_xml(file: Path) -> ElementTree.Element:
    """Parse an XML file to its root element. Raises ValueError with the reason for an unreadable file."""
    try:
        with open(file, "rb", opener=open_regular_file) as content:
            return ElementTree.parse(content).getroot()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise ValueError(str(error)) from None


def _name(item: ElementTree.Element) -> str:
    return (item.findtext("name") or "").strip()


def _box(item: ElementTree.Element) -> tuple[float, float, float, float]:
    """Read the box of an object as xywh; fractions are subtracted as decimals, so nothing is rounded before the end."""
    box = item.find("bndbox")
    if box is None:
        raise ValueError("bndbox is missing")
    keys = ("xmin", "ymin", "xmax", "ymax")
    corners = [_number(box, key) for key in keys]
    texts = [(box.findtext(key) or "").strip() for key in keys]
    if all(corner.is_integer() and len(text) <= DIGITS for corner, text in zip(corners, texts)):
        return pixel_box(corners)
    with localcontext(EXACT):
        x, y, width, height = pixel_box([Decimal(text if corner else 0) for corner, text in zip(corners, texts)])
    return float(x), float(y), float(width), float(height)


def _number(element: ElementTree.Element, key: str) -> float:
    text = element.findtext(key)
    if text is None:
        raise ValueError(f"{key} is missing")
    number = float(text)
    if not abs(number) <= FARTHEST:
        raise ValueError(f"{key} is {number:g}")
    return number


def _home(folder: Path, name: str) -> Path:
    """Return the VOC folder of a list: VOC2007 for VOC2007/trainval."""
    return folder.joinpath(*name.split("/")[:-1])


def list_file(folder: Path, name: str) -> Path:
    """Return the file of a list: "VOC2007/trainval" -> VOC2007/ImageSets/Main/trainval.txt."""
    return _home(folder, name) / "ImageSets" / "Main" / f"{name.split('/')[-1]}.txt"


def _annotations(folder: Path, name: str, errors: ErrorLog) -> list[Path]:
    """Return the XML files of a list, or of the whole folder for UNDIVIDED_SPLIT."""
    home = _home(folder, name) / "Annotations"
    file = list_file(folder, name)
    if not file.is_file() and file.stem == UNDIVIDED_SPLIT:
        return sorted(home.glob("*.xml"))
    if not file.is_file():
        raise not_found_error(f"list '{name}'", file)
    known = {xml.stem for xml in home.glob("*.xml")}
    stems = [listed_stem(line, known) or line.split()[0] for line in read_lines(file)]
    return [Path(f"{path}.xml") for path in locate(stems, home, (home,), file, errors)[1]]


def listed_stem(line: str, stems: Container[str]) -> str | None:
    """Return the known file name without suffix in a list's line: alone, with folders, suffix or a second column."""
    for text in (line, *line.split()[:1]):
        name = os.path.basename(text.replace("\\", "/"))
        for stem in (name, os.path.splitext(name)[0]):
            if stem in stems:
                return stem
    return None


def class_names(files: Iterable[Path]) -> tuple[str, ...]:
    """Return the standard twenty classes if they cover all files, else the sorted class names of all files."""
    names: set[str] = set()
    for file in files:
        try:
            names |= {_name(item) for item in parse_xml(file).findall("object")}
        except ValueError:
            continue  # logged when its own split is read
    return VOC_CLASSES if names <= set(VOC_CLASSES) else tuple(sorted(names))


def _image_paths(files: Sequence[Path]) -> list[str]:
    """Return the image path of every annotation, with any suffix; with .jpg if there is no such image.

    Of several images of one name, that of the annotation's `filename` is taken, else the JPEG.
    """
    images: dict[Path, dict[str, list[str]]] = {}
    folders = [file.parent.parent / "JPEGImages" for file in files]
    for folder in set(folders):
        if not folder.is_dir():
            raise not_found_error("image folder", folder)
        images[folder] = {}
        for entry in sorted(folder.iterdir()):
            if entry.suffix.lower() in IMAGE_SUFFIXES:
                images[folder].setdefault(entry.stem, []).append(entry.name)
    return [str(folder / _image_name(file, images[folder].get(file.stem, ()))) for folder, file in zip(folders, files)]


def _image_name(file: Path, names: Sequence[str]) -> str:
    """Return the image of an XML file among those of its stem."""
    if len(names) < 2:
        return (*names, f"{file.stem}.jpg")[0]
    own = os.path.basename(parse_xml(file).findtext("filename", "").strip().replace("\\", "/"))
    return max(names, key=lambda name: (name == own, name.lower().endswith((".jpg", ".jpeg"))))
