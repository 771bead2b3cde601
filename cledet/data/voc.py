"""Reads Pascal VOC folders: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cledet.data.index import DetectionIndex, Ints
from cledet.data.paths import missing
from cledet.errors import UserError, nearest

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
EVERYTHING = "all"
"""The one split of a folder without lists."""


@dataclass(frozen=True, slots=True)
class VocFolder:
    """A VOC folder: per split the lists of ImageSets/Main it is made of."""

    folder: Path
    splits: dict[str, tuple[str, ...]]
    names: tuple[str, ...] = ()
    """The classes in order; without, the standard twenty or those found."""

    def read(self, split: str) -> DetectionIndex:
        """The index of one split, named after the split alone; image files are not looked at."""
        stems = self._stems(split)
        files = {stem: self.folder / "Annotations" / f"{stem}.xml" for stem in stems}
        parsed = [read_xml(file) for file in files.values()]
        classes = self.names or _classes(self.folder)
        return _build(split, list(files), parsed, classes, self.folder)

    def _stems(self, split: str) -> list[str]:
        """The images of a split, each once, in the order of the lists."""
        lists = self.splits[split]
        if not lists:
            return sorted(file.stem for file in (self.folder / "Annotations").glob("*.xml"))
        stems = [stem for name in lists for stem in _read_list(self.folder, name)]
        return list(dict.fromkeys(stems))


@dataclass(frozen=True, slots=True)
class VocImage:
    """What one XML file says; corners as written, 1-based and inclusive."""

    file: Path
    size: tuple[int, int]
    names: list[str]
    corners: list[list[float]]
    difficult: list[bool]


def is_voc(folder: Path) -> bool:
    """Whether the folder has Annotations with XML files."""
    return next((folder / "Annotations").glob("*.xml"), None) is not None


def find_lists(folder: Path) -> dict[str, tuple[str, ...]]:
    """The splits of a VOC folder: its lists, without those of a single class; or one with everything."""
    stems = {file.stem for file in (folder / "ImageSets" / "Main").glob("*.txt")}
    whole = sorted(stem for stem in stems if "_" not in stem or stem.rpartition("_")[2] not in stems)
    return {stem: (stem,) for stem in whole} or {EVERYTHING: ()}


def read_xml(file: Path) -> VocImage:
    """Read one annotation; `difficult` and `size` may be absent.

    Raises UserError where the file is missing, no XML, or has an object without name or box.
    """
    if not file.is_file():
        raise missing("annotation", file)
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is not valid XML: {error}") from error
    objects = root.findall("object")
    size = root.find("size")
    try:
        return VocImage(
            file=file,
            size=(0, 0) if size is None else (int(_number(size, "width")), int(_number(size, "height"))),
            names=[(item.findtext("name") or "").strip() for item in objects],
            corners=[_corners(item) for item in objects],
            difficult=[(item.findtext("difficult") or "0").strip() == "1" for item in objects],
        )
    except ValueError as error:
        raise UserError(f"{file} has an object without a proper box or size", str(error)) from error


def pixel_box(corners: Sequence[float]) -> tuple[float, float, float, float]:
    """xywh from 0 of a box written as xmin, ymin, xmax, ymax, 1-based and inclusive.

    Corners that coincide or cross span nothing: that side is 0 or negative, not one pixel.
    """
    xmin, ymin, xmax, ymax = corners
    width, height = (extent + 1 if extent > 0 else extent for extent in (xmax - xmin, ymax - ymin))
    return xmin - 1, ymin - 1, width, height


def _corners(item: ElementTree.Element) -> list[float]:
    box = item.find("bndbox")
    if box is None:
        raise ValueError("bndbox is missing")
    return [_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax")]


def _number(element: ElementTree.Element, key: str) -> float:
    text = element.findtext(key)
    if text is None:
        raise ValueError(f"{key} is missing")
    return float(text)


def _read_list(folder: Path, name: str) -> list[str]:
    """The image names of one list; a second column, as lists of a class have it, is not read."""
    file = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not file.is_file():
        raise missing(f"list '{name}'", file)
    return [line.split()[0] for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def _classes(folder: Path) -> tuple[str, ...]:
    """The standard twenty if they cover the whole folder, else the sorted names of the whole folder."""
    pattern = re.compile(r"<object>.*?<name>\s*(.*?)\s*</name>", re.DOTALL)
    files = sorted((folder / "Annotations").glob("*.xml"))
    found = {name for file in files for name in pattern.findall(file.read_text(encoding="utf-8"))}
    return VOC_CLASSES if found <= set(VOC_CLASSES) else tuple(sorted(found))


def _build(
    split: str, stems: list[str], parsed: list[VocImage], classes: tuple[str, ...], folder: Path
) -> DetectionIndex:
    xywh = [pixel_box(corners) for image in parsed for corners in image.corners]
    boxes = np.array(xywh, dtype=np.float64).reshape(-1, 4)
    difficult = np.array([flag for image in parsed for flag in image.difficult], dtype=np.bool_)
    return DetectionIndex(
        name=split,
        classes=classes,
        category_ids=np.arange(1, len(classes) + 1, dtype=np.int64),
        paths=np.array(_image_paths(folder / "JPEGImages", stems), dtype=np.str_),
        image_ids=image_numbers(stems),
        sizes=np.array([image.size for image in parsed], dtype=np.int32).reshape(-1, 2),
        starts=np.cumsum([0, *(len(image.names) for image in parsed)]).astype(np.int64),
        xywh=boxes,
        labels=_labels(parsed, classes),
        ignore=difficult | (boxes[:, 2:] <= 0).any(axis=1),
        area=boxes[:, 2] * boxes[:, 3],
    )


def _image_paths(folder: Path, stems: Sequence[str]) -> list[str]:
    """The image of every name, whatever its ending; .jpg where there is none."""
    if not folder.is_dir():
        raise missing("image folder", folder)
    files = {entry.stem: entry for entry in sorted(folder.iterdir())}
    return [str(files.get(stem, folder / f"{stem}.jpg")) for stem in stems]


def image_numbers(stems: Sequence[str]) -> Ints:
    """Image ids: the digits of every name (2007_000027 -> 2007000027) if they differ, else 1, 2, ..."""
    digits = [re.sub(r"\D", "", stem) for stem in stems]
    if len({int(number or -1) for number in digits}) == len(stems) and all(0 < len(n) < 19 for n in digits):
        return np.array([int(number) for number in digits], dtype=np.int64)
    return np.arange(1, len(stems) + 1, dtype=np.int64)


def _labels(parsed: Sequence[VocImage], classes: tuple[str, ...]) -> Ints:
    label_of = {name: label for label, name in enumerate(classes)}
    for image in parsed:
        unknown = next((name for name in image.names if name not in label_of), None)
        if unknown is not None:
            raise UserError(f"{image.file} has an unknown class '{unknown}'", nearest(unknown, classes))
    return np.array([label_of[name] for image in parsed for name in image.names], dtype=np.int64)
