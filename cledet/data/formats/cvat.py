"""Reader of CVAT's XML files, "CVAT for images 1.1"."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cledet.data.formats.enclosing_boxes import Box, box_of_ellipse, box_of_points, box_of_rectangle
from cledet.data.formats.image_table import ImageTable, TableFiles
from cledet.data.formats.paths import open_regular_file
from cledet.data.formats.walk import divide, read_head
from cledet.errors import UserError

DEFAULT_SUBSET = "default"
"""CVAT's name of the subset of images without one."""
WITHOUT_AREA = ("points", "polyline", "skeleton", "tag")
"""Elements of an image that have no box."""
BROKEN = (OSError, ElementTree.ParseError, LookupError, ValueError)
"""Errors of broken files; the last two are of encodings that are unknown, and that do not fit."""


@dataclass(frozen=True, slots=True)
class CvatFiles(TableFiles):
    """A data set of CVAT's files: those of each split, or several subsets in the same files.

    Coordinates are pixels from 0 at the image's left and top edges, and `xbr` and `ybr` are the box's far edges, as in
    CVAT's own export to COCO. `rotation` is clockwise, in degrees, about the centre:
    https://docs.cvat.ai/docs/other/xml_format.
    """

    subsets: bool = False
    """Whether the splits are the images' `subset` attributes."""
    format = "CVAT"

    def read_table(self, split: str) -> ImageTable:
        table = ImageTable()
        for file in self.splits[split]:
            try:
                for element in _elements(file):
                    if element.tag == "meta":
                        table.defined += _label_names(element)
                    elif not self.subsets or element.get("subset", DEFAULT_SUBSET) == split:
                        _add_image(file, element, table)
            except BROKEN as error:
                reason = error.strerror if isinstance(error, OSError) else None
                table.errors.add("annotation", f"{file}: {reason or error}")
        return table


def sniff(file: Path) -> bool:
    """Return whether an XML file is CVAT's, by its root element."""
    head = read_head(file) if file.suffix.lower() == ".xml" else b""
    return re.match(rb"(\xef\xbb\xbf)?\s*(<\?[^>]*>\s*|<!--.*?-->\s*)*<annotations[\s>]", head, re.DOTALL) is not None


def find_cvat(root: Path, files: Sequence[Path]) -> CvatFiles:
    """Return the reader of a data set's CVAT files.

    Splits are the subsets of a project's export, else those that the files' or folders' names hold.
    """
    subsets = {subset: None for file in files for subset in _subsets(file)}
    if subsets.keys() - {DEFAULT_SUBSET}:
        return CvatFiles(root, {subset: tuple(files) for subset in sorted(subsets)}, subsets=True)
    return CvatFiles(root, divide(files, root))


def _elements(file: Path) -> Iterator[ElementTree.Element]:
    """Yield the `meta` and `image` elements of a file one by one, so that memory is that of the largest.

    Raises an error of BROKEN for a file that is broken, and UserError for one of a video.
    """
    with open(file, "rb", opener=open_regular_file) as content:
        root, depth = None, 0
        for event, element in ElementTree.iterparse(content, events=("start", "end")):
            root = element if root is None else root
            depth += 1 if event == "start" else -1
            if event == "end" and depth == 1:
                if element.tag == "track":
                    raise UserError(f"{file} holds CVAT's tracks of a video", "export it as 'CVAT for images 1.1'")
                if element.tag in ("meta", "image"):
                    yield element
                root.clear()


def _subsets(file: Path) -> list[str]:
    """Return the subset of each image of a file; none of a broken file, which is logged when it is read."""
    try:
        return [element.get("subset", DEFAULT_SUBSET) for element in _elements(file) if element.tag == "image"]
    except BROKEN:
        return []


def _label_names(meta: ElementTree.Element) -> list[str]:
    """Return the names of a task's or project's labels that boxes can have; the parts of skeletons have none."""
    labels = [label for label in meta.iterfind(".//labels/label") if label.find("parent") is None]
    names = [(label.findtext("name") or "").strip() for label in labels if label.findtext("type") not in WITHOUT_AREA]
    return [name for name in names if name]


def _add_image(file: Path, element: ElementTree.Element, table: ImageTable) -> None:
    """Add an image and its shapes to a table."""
    name = element.get("name", "")
    where = f"{file}: {name[:200]}"
    try:
        size = (int(_number(element, "width")), int(_number(element, "height")))
    except (ValueError, OverflowError) as error:
        table.errors.add("entry", f"{where}: {error}")
        return
    image = table.add_image(name, str(file.parent), size, where=where)
    for shape in element:
        skipped = "outside" if shape.get("outside") == "1" else shape.tag if shape.tag in WITHOUT_AREA else ""
        if skipped:
            table.without_box[skipped] += 1
            continue
        try:
            table.add_box(image, shape.get("label", ""), box_of_shape(shape), where)
        except KeyError:
            table.errors.add("entry", f"{where}: {shape.tag[:40]} is no shape that CVAT has")
        except ValueError as error:
            table.errors.add("box", f"{where}: {shape.tag}: {error}")


def box_of_shape(shape: ElementTree.Element) -> Box:
    """Return the box of a shape; of one that is rotated, the enclosing box.

    Raises KeyError for a tag that is not in SHAPES, and ValueError for numbers that are missing or cannot be read.
    """
    return SHAPES[shape.tag](shape)


def _box(shape: ElementTree.Element) -> Box:
    left, top, right, bottom = (_number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    box = (left, top, right - left, bottom - top)
    return box_of_rectangle(box, _number(shape, "rotation", "0"), ((left + right) / 2, (top + bottom) / 2))


def _polygon(shape: ElementTree.Element) -> Box:
    points = [point.split(",") for point in shape.get("points", "").split(";")]
    if any(len(point) != 2 for point in points):
        raise ValueError("its points are not x,y;x,y;...")
    return box_of_points([float(x) for x, _ in points], [float(y) for _, y in points])


def _ellipse(shape: ElementTree.Element) -> Box:
    x, y, width, height = (_number(shape, key) for key in ("cx", "cy", "rx", "ry"))
    return box_of_ellipse((x, y), (width, height), _number(shape, "rotation", "0"))


def _mask(shape: ElementTree.Element) -> Box:
    left, top, width, height = (_number(shape, key) for key in ("left", "top", "width", "height"))
    return left, top, width, height


def _cuboid(shape: ElementTree.Element) -> Box:
    corners = [f"{corner}{face}" for face in "12" for corner in ("tl", "tr", "bl", "br")]
    return box_of_points(*([_number(shape, f"{axis}{corner}") for corner in corners] for axis in "xy"))


def _number(element: ElementTree.Element, key: str, default: str | None = None) -> float:
    text = element.get(key, default)
    if text is None:
        raise ValueError(f"{key} is missing")
    return float(text)


SHAPES = {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask, "cuboid": _cuboid}
