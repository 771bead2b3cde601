"""Reads Pascal VOC folders: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt; and several of them together."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cledet.data.formats.annotation_errors import Faults
from cledet.data.formats.paths import EVERYTHING, lies_in, missing, path_fault, place, plain_file, read_lines
from cledet.data.index import FARTHEST, DetectionIndex, image_numbers
from cledet.errors import nearest

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class VocFolder:
    """A VOC folder: per split the lists of ImageSets/Main it is made of.

    A list of a folder further down is named with it: VOC2007/trainval.
    """

    folder: Path
    splits: dict[str, tuple[str, ...]]
    names: tuple[str, ...] = ()
    """The classes in order; without, the standard twenty or those found."""
    format = "Pascal VOC"

    def read(self, split: str) -> DetectionIndex:
        """The index of one split, named after the split alone; image files are not looked at."""
        faults = Faults()
        files = [file for name in self.splits[split] for file in _annotations(self.folder, name, faults)]
        classes = self.names or _classes(self._all_files())
        parsed = [read_xml(file, classes, faults) for file in dict.fromkeys(files)]
        return _build(split, [image for image in parsed if image is not None], classes, faults)

    def sources(self, split: str) -> list[Path]:
        """The files that `read` reads: all, as the classes are those of all splits."""
        return [*(_list_file(self.folder, name) for name in self.splits[split]), *self._all_files()]

    def state(self, split: str) -> str:
        """What else a split depends on: nothing."""
        return ""

    def _all_files(self) -> list[Path]:
        homes = {_home(self.folder, name) for lists in self.splits.values() for name in lists}
        return [file for home in sorted(homes) for file in sorted((home / "Annotations").glob("*.xml"))]


@dataclass(frozen=True, slots=True)
class VocImage:
    """What one XML file says; corners as written, 1-based and inclusive."""

    file: Path
    size: tuple[int, int]
    labels: list[int]
    corners: list[list[float]]
    difficult: list[bool]


def is_voc(folder: Path) -> bool:
    """Whether the folder has Annotations with XML files."""
    return next((folder / "Annotations").glob("*.xml"), None) is not None


def find_voc(folder: Path) -> dict[str, tuple[str, ...]]:
    """The splits of a VOC folder, or of one that holds VOC2007, VOC2012 ...: there a split is all lists of its name."""
    if is_voc(folder):
        return find_lists(folder)
    splits: dict[str, tuple[str, ...]] = {}
    for part in sorted(entry for entry in folder.glob("VOC[0-9]*") if is_voc(entry)):
        for split, lists in find_lists(part).items():
            splits[split] = (*splits.get(split, ()), *(f"{part.name}/{name}" for name in lists))
    return splits


def find_lists(folder: Path) -> dict[str, tuple[str, ...]]:
    """The splits of a VOC folder: its lists, without those of a single class; or one with everything."""
    stems = {file.stem for file in (folder / "ImageSets" / "Main").glob("*.txt") if file.is_file()}
    whole = sorted(stem for stem in stems if "_" not in stem or stem.rpartition("_")[2] not in stems)
    return {stem: (stem,) for stem in whole} or {EVERYTHING: (EVERYTHING,)}


def read_xml(file: Path, classes: Sequence[str], faults: Faults) -> VocImage | None:
    """What an annotation says of the classes; `difficult` and `size` may be absent.

    None where it is missing or no XML; that, objects without a box and those of other classes are faults.
    """
    try:
        root = _parse(file)
        size = _size(root)
    except ValueError as error:
        faults.add("annotation", f"{file}: {error}")
        return None
    labels, corners, difficult = [], [], []
    for item in root.findall("object"):
        name = _name(item)
        if name not in classes:
            hint = nearest(name, classes) if faults.wants("class") else ""
            faults.add("class", f"{file}: '{name[:40]}' ({hint})")
            continue
        try:
            corners.append(_corners(item))
        except ValueError as error:
            faults.add("box", f"{file}: {name}: {error}")
            continue
        labels.append(classes.index(name))
        difficult.append((item.findtext("difficult") or "0").strip() == "1")
    return VocImage(file, size, labels, corners, difficult)


def pixel_box(corners: Sequence[float]) -> tuple[float, float, float, float]:
    """xywh from 0 of a box written as xmin, ymin, xmax, ymax, 1-based and inclusive.

    Corners that coincide or cross span nothing: that side is 0 or negative, not one pixel.
    """
    xmin, ymin, xmax, ymax = corners
    width, height = (extent + 1 if extent > 0 else extent for extent in (xmax - xmin, ymax - ymin))
    return xmin - 1, ymin - 1, width, height


def _parse(file: Path) -> ElementTree.Element:
    """The root of an XML file. Raises ValueError where there is none, saying why."""
    try:
        with open(file, "rb", opener=plain_file) as content:
            return ElementTree.parse(content).getroot()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise ValueError(str(error)) from None


def _name(item: ElementTree.Element) -> str:
    return (item.findtext("name") or "").strip()


def _corners(item: ElementTree.Element) -> list[float]:
    box = item.find("bndbox")
    if box is None:
        raise ValueError("bndbox is missing")
    return [_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax")]


def _size(root: ElementTree.Element) -> tuple[int, int]:
    size = root.find("size")
    return (0, 0) if size is None else (int(_number(size, "width")), int(_number(size, "height")))


def _number(element: ElementTree.Element, key: str) -> float:
    text = element.findtext(key)
    if text is None:
        raise ValueError(f"{key} is missing")
    number = float(text)
    if not abs(number) <= FARTHEST:
        raise ValueError(f"{key} is {number:g}")
    return number


def _home(folder: Path, name: str) -> Path:
    """The VOC folder of a list: VOC2007 of VOC2007/trainval."""
    return folder.joinpath(*name.split("/")[:-1])


def _list_file(folder: Path, name: str) -> Path:
    return _home(folder, name) / "ImageSets" / "Main" / f"{name.split('/')[-1]}.txt"


def _annotations(folder: Path, name: str, faults: Faults) -> list[Path]:
    """The XML files of a list, or of the whole folder where that is EVERYTHING; a list's second column is skipped."""
    home = _home(folder, name) / "Annotations"
    file = _list_file(folder, name)
    if not file.is_file() and file.stem == EVERYTHING:
        return sorted(home.glob("*.xml"))
    if not file.is_file():
        raise missing(f"list '{name}'", file)
    stems = [line.split()[0] for line in read_lines(file)]
    found = []
    for stem, path in zip(stems, place(home, stems)):
        if fault := path_fault(f"{stem}.xml"):
            faults.add("entry", f"{file}: {stem[:40]!r}: {fault}")
        elif lies_in(path, (home,)):
            found.append(Path(f"{path}.xml"))
        else:
            faults.add("outside", f"{file}: {stem}")
    return found


def _classes(files: Iterable[Path]) -> tuple[str, ...]:
    """The standard twenty if they cover all files, else the sorted names of all."""
    found: set[str] = set()
    for file in files:
        try:
            found |= {_name(item) for item in _parse(file).findall("object")}
        except ValueError:
            continue  # a fault of the split that it belongs to
    return VOC_CLASSES if found <= set(VOC_CLASSES) else tuple(sorted(found))


def _build(split: str, parsed: list[VocImage], classes: tuple[str, ...], faults: Faults) -> DetectionIndex:
    xywh = [pixel_box(corners) for image in parsed for corners in image.corners]
    boxes = np.array(xywh, dtype=np.float64).reshape(-1, 4)
    difficult = np.array([flag for image in parsed for flag in image.difficult], dtype=np.bool_)
    labels = np.array([label for image in parsed for label in image.labels], dtype=np.int64)
    return DetectionIndex(
        name=split,
        classes=classes,
        category_ids=np.arange(1, len(classes) + 1, dtype=np.int64),
        paths=np.array(_image_paths([image.file for image in parsed]), dtype=np.str_),
        image_ids=image_numbers([image.file.stem for image in parsed]),
        sizes=np.array([image.size for image in parsed], dtype=np.int32).reshape(-1, 2),
        starts=np.cumsum([0, *(len(image.labels) for image in parsed)]).astype(np.int64),
        xywh=boxes,
        labels=labels,
        ignore=difficult | (boxes[:, 2:] <= 0).any(axis=1),
        area=boxes[:, 2] * boxes[:, 3],
        faults=faults.all(),
    )


def _image_paths(files: Sequence[Path]) -> list[str]:
    """The image of every annotation, whatever its ending; .jpg where there is none."""
    images: dict[Path, dict[str, str]] = {}
    for folder in {file.parent.parent / "JPEGImages" for file in files}:
        if not folder.is_dir():
            raise missing("image folder", folder)
        images[folder] = {entry.stem: str(entry) for entry in sorted(folder.iterdir())}
    folders = [file.parent.parent / "JPEGImages" for file in files]
    return [images[folder].get(file.stem, str(folder / f"{file.stem}.jpg")) for folder, file in zip(folders, files)]
