"""Reader of LabelMe's JSON files, one per image."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cledet.data.formats.enclosing_boxes import Box, box_of_ellipse, box_of_points
from cledet.data.formats.image_table import ImageTable, TableFiles
from cledet.data.formats.paths import read_bytes
from cledet.data.formats.walk import divide, read_head

WITHOUT_AREA = ("point", "points", "line", "linestrip")
"""Shapes that have no box."""


class Shape(msgspec.Struct, gc=False):
    """The fields read from a shape."""

    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = None
    """None in the first versions of LabelMe: a polygon."""
    difficult: bool | None = None
    """Written by AnyLabeling."""


class Content(msgspec.Struct, rename="camel"):
    """A LabelMe file; its pixels, `imageData`, are not read."""

    shapes: list[msgspec.Raw]
    image_path: str | None = None
    image_width: float | None = None
    image_height: float | None = None


FILE, SHAPE = msgspec.json.Decoder(Content, strict=False), msgspec.json.Decoder(Shape, strict=False)


@dataclass(frozen=True, slots=True)
class LabelMeFiles(TableFiles):
    """A data set of LabelMe files.

    Points are pixels from 0 at the image's left and top edges, so the box of two corners spans their difference. A
    circle is its centre and a point on its edge.
    """

    format = "LabelMe"

    def read_table(self, split: str) -> ImageTable:
        table = ImageTable()
        for file in self.splits[split]:
            try:
                content = FILE.decode(read_bytes(file).removeprefix(b"\xef\xbb\xbf"))
            except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                table.errors.add("annotation", f"{file}: {error}")
            else:
                _add_image(file, content, table)
        return table


def sniff(file: Path) -> bool:
    """Return whether a JSON file is LabelMe's, by the keys at its beginning."""
    head = read_head(file) if file.suffix.lower() == ".json" else b""
    return re.match(rb'(\xef\xbb\xbf)?\s*\{[^\[]*"(shapes|imageData)"\s*:', head) is not None


def find_labelme(root: Path, files: Sequence[Path]) -> LabelMeFiles:
    """Return the reader of a data set's LabelMe files, divided into splits by their folders."""
    folders = divide(dict.fromkeys(file.parent for file in files), root)
    splits = {name: tuple(file for file in files if file.parent in parts) for name, parts in folders.items()}
    return LabelMeFiles(root, splits)


def _add_image(file: Path, content: Content, table: ImageTable) -> None:
    """Add an image and its shapes to a table."""
    size = int(content.image_width or 0), int(content.image_height or 0)
    image = table.add_image(content.image_path or file.stem, str(file.parent), size, where=str(file))
    for number, raw in enumerate(content.shapes):
        where = f"{file}: shapes[{number}]"
        try:
            shape = SHAPE.decode(raw)
            if shape.shape_type in WITHOUT_AREA:
                table.without_box[shape.shape_type] += 1
            else:
                table.add_box(image, shape.label, box_of_shape(shape), where, ignore=bool(shape.difficult))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            kind = "box" if "$.points" in str(error) else "entry"
            table.errors.add(kind, f"{where}: {str(error).lower().replace('`', '')}")
        except ValueError as error:
            table.errors.add("box", f"{where}: {error}")


def box_of_shape(shape: Shape) -> Box:
    """Return the box of a rectangle, polygon, mask or circle. Raises ValueError for too few points."""
    if shape.shape_type == "circle":
        if len(shape.points) != 2:
            raise ValueError(f"a circle of {len(shape.points)} points instead of its centre and a point on its edge")
        center, edge = shape.points
        radius = math.dist(center, edge)
        return box_of_ellipse(center, (radius, radius))
    return box_of_points([x for x, _ in shape.points], [y for _, y in shape.points])
