"""Reader of CSV files, one row per box: TensorFlow's and Roboflow's, keras-retinanet's, and Open Images'."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cledet.data.formats.enclosing_boxes import Box
from cledet.data.formats.image_table import UNNAMED, ImageTable, TableFiles
from cledet.data.formats.paths import open_regular_file
from cledet.data.formats.walk import divide, read_head
from cledet.data.images import IMAGE_SUFFIXES
from cledet.errors import UserError

SUFFIXES = (".csv", ".tsv")
HEADERS = {
    "image": ("filename", "file_name", "image", "image_name", "image_id", "imageid", "image_path", "img_path", "path"),
    "label": (
        *("class", "label", "labelname", "class_name", "label_name", "category", "category_name", "name"),
        *("class_id", "category_id", "label_id"),
    ),
    "xmin": ("xmin", "x_min", "x1", "left"),
    "ymin": ("ymin", "y_min", "y1", "top"),
    "xmax": ("xmax", "x_max", "x2", "right"),
    "ymax": ("ymax", "y_max", "y2", "bottom"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "group": ("isgroupof",),
}
"""Column titles in lower case, in order of preference."""
OPTIONAL = ("label", "width", "height", "group")
RETINANET = {"image": 0, "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4, "label": 5}
"""The columns of keras-retinanet's files, which have no header."""


class Layout(NamedTuple):
    """The columns of a CSV file by their use."""

    delimiter: str
    header: bool
    columns: dict[str, int]
    relative: bool
    """Whether coordinates are fractions of the image's sides, as in Open Images."""
    unused: tuple[str, ...] = ()
    """The titles of the other columns."""


@dataclass(frozen=True, slots=True)
class CsvFiles(TableFiles):
    """A data set of CSV files. Classes are ordered as in the classes file, else by name.

    Boxes are corners in pixels from 0, where xmax and ymax are the box's far edges: `xmin / width` is a fraction of the
    image in TensorFlow's object detection tutorial, and keras-retinanet documents "indexing for pixel values starts at
    0". Open Images has fractions: "XMin is in [0,1], where 0 is the leftmost pixel, and 1 is the rightmost pixel".
    """

    classes: Path | None = None
    """keras-retinanet's classes file, or Open Images' class descriptions."""
    format = "CSV"

    def inputs(self, split: str) -> tuple[list[Path], str]:
        """Return the files of all splits and that of the classes, and the image files as text."""
        files, state = TableFiles.inputs(self, split)
        return [*files, *([self.classes] if self.classes else [])], state

    def read_table(self, split: str) -> ImageTable:
        table, names = ImageTable(), self._names()
        for file in self.splits[split]:
            try:
                _read_csv(file, names, table)
            except (OSError, UnicodeDecodeError, csv.Error) as error:
                reason = error.strerror if isinstance(error, OSError) else None
                table.errors.add("annotation", f"{file}: {reason or error}")
        return table

    def order_classes(self, tables: Sequence[ImageTable]) -> tuple[str, ...]:
        used, names = TableFiles.order_classes(self, tables), self._names()
        described = tuple(name for name in dict.fromkeys(names.values()) if name in used)
        return used if self.classes is None else described if _is_descriptions(names) else tuple(names)

    def _names(self) -> dict[str, str]:
        return {} if self.classes is None else read_names(self.classes)

    def opens_images(self, split: str) -> bool:
        return any((layout := _layout(file)) and layout.relative for file in self.splits[split])


def sniff(file: Path) -> bool:
    """Return whether a file holds boxes in columns that are known by a header, or are those of keras-retinanet."""
    return file.suffix.lower() in SUFFIXES and _layout(file) is not None


def find_csv(root: Path, files: Sequence[Path]) -> CsvFiles:
    """Return the reader of a data set's CSV files, divided into splits by their names or folders."""
    layout, classes = _layout(files[0]), None
    if layout is not None and (layout.relative or not layout.header):
        classes = _find_names(root, files[0], descriptions=layout.relative)
    return CsvFiles(root, divide(files, root), classes)


def read_names(file: Path) -> dict[str, str]:
    """Read the class names by their labels in label order: rows `name,number`, or Open Images' `/m/id,name`.

    Raises UserError if the file is neither.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="", opener=open_regular_file) as lines:
            rows = [[field.strip() for field in row] for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"classes file {file} cannot be read: {error}") from None
    rows = rows[1:] if rows and rows[0][0] in ("LabelName", "name", "class_name", "class") else rows
    if rows and all(len(row) == 2 and row[0].startswith("/") for row in rows):
        return dict(rows)
    if rows and all(len(row) == 2 and row[1].isdecimal() for row in rows):
        names = {name: name for name, number in sorted(rows, key=lambda row: int(row[1][:9]))}
        if len(names) == len(rows) == len({int(number[:9]) for _, number in rows}):
            return names
    raise UserError(f"{file} is no list of classes", "expected rows like cow,0 with distinct names and numbers")


def _is_descriptions(names: dict[str, str]) -> bool:
    return all(label.startswith("/") for label in names)


def _find_names(root: Path, file: Path, *, descriptions: bool) -> Path | None:
    """Find the file of the class names near an annotation file. Raises UserError if several fit."""
    folders = dict.fromkeys((file.parent, root, file.parent.parent / "metadata", root / "metadata"))
    for folder in folders:
        found = [path for path in sorted(folder.glob("*.csv")) if _holds_names(path, descriptions)]
        if len(found) > 1 and not descriptions:
            names = " and ".join(path.name for path in found[:2])
            raise UserError(
                f"{folder} holds several lists of classes, {names}", "keep the one that belongs to the boxes"
            )
        if found:
            return found[0]
    return None


def _holds_names(file: Path, descriptions: bool) -> bool:
    try:
        return len(_first_row(file)[1]) == 2 and _is_descriptions(read_names(file)) == descriptions
    except UserError:
        return False


def _layout(file: Path) -> Layout | None:
    """Recognise the columns of a CSV file by its first line; None if they are of another kind."""
    delimiter, row = _first_row(file)
    titles = {title.lower(): column for column, title in reversed(list(enumerate(row)))}
    columns = {
        use: next(titles[name] for name in names if name in titles)
        for use, names in HEADERS.items()
        if not titles.keys().isdisjoint(names)
    }
    if columns.keys() | set(OPTIONAL) == set(HEADERS):
        unused = tuple(title for column, title in enumerate(row) if title and column not in columns.values())
        return Layout(delimiter, True, columns, "imageid" in titles and "labelname" in titles, unused)
    is_image = len(row) == 6 and os.path.splitext(row[0])[1].lower() in IMAGE_SUFFIXES
    if is_image and (_are_numbers(row[1:5]) or not any(row[1:])):
        return Layout(delimiter, False, RETINANET, relative=False)
    return None


def _first_row(file: Path) -> tuple[str, list[str]]:
    """Return the delimiter and the fields of a file's first line; no fields if it is not CSV."""
    line = re.split(r"[\r\n]", read_head(file).decode("utf-8-sig", "replace"), maxsplit=1)[0]
    delimiter = max(",;\t", key=line.count)
    try:
        return delimiter, [field.strip() for field in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return delimiter, []


def _are_numbers(words: Sequence[str]) -> bool:
    try:
        return bool([float(word) for word in words])
    except ValueError:
        return False


def _read_csv(file: Path, names: dict[str, str], table: ImageTable) -> None:
    """Read the rows of a file into a table. Raises OSError, UnicodeDecodeError or csv.Error for one that is broken."""
    layout, images = _layout(file), dict[str, int]()
    if layout is None:
        raise csv.Error("it has no columns of images and boxes")
    columns = layout.columns
    if "label" not in columns:
        titles = ", ".join(title[:40] for title in layout.unused[:8])
        table.note(len(layout.unused), f"{file}: no class column among {titles}: all boxes are '{UNNAMED}'.")
    for where, row in _rows(file, layout):
        if len(row) <= max(columns.values()):
            table.errors.add("entry", f"{where}: {len(row)} columns instead of {max(columns.values()) + 1}")
            continue
        name, size = row[columns["image"]], _size(row, columns, where, table)
        if name not in images:
            images[name] = table.add_image(name, str(file.parent), size, relative=layout.relative, where=where)
        elif size != table.size(images[name]):
            table.errors.add("entry", f"{where}: {name[:200]} has another size than above: {size[0]}x{size[1]}")
        label = row[columns["label"]] if "label" in columns else UNNAMED
        corners = [row[columns[key]] for key in ("xmin", "ymin", "xmax", "ymax")]
        if any(corners) and (box := _box(corners, where, table)):
            ignore = "group" in columns and row[columns["group"]] == "1"
            table.add_box(images[name], names.get(label, label), box, where, ignore=ignore)


def _rows(file: Path, layout: Layout) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows that hold anything, each with its place."""
    with open(file, encoding="utf-8-sig", newline="", opener=open_regular_file) as lines:
        rows = csv.reader(lines, delimiter=layout.delimiter)
        if layout.header:
            next(rows, None)
        for row in rows:
            fields = [field.strip() for field in row]
            if any(fields):
                yield f"{file}:{rows.line_num}", fields


def _size(row: Sequence[str], columns: dict[str, int], where: str, table: ImageTable) -> tuple[int, int]:
    """Return the annotated width and height of the row's image; 0 if there are none."""
    words = [row[columns[key]] if key in columns else "" for key in ("width", "height")]
    try:
        width, height = (int(float(word or 0)) for word in words)
    except (ValueError, OverflowError):
        table.errors.add("entry", f"{where}: width and height are '{words[0][:40]}' and '{words[1][:40]}'")
        return 0, 0
    return width, height


def _box(corners: Sequence[str], where: str, table: ImageTable) -> Box | None:
    try:
        xmin, ymin, xmax, ymax = map(float, corners)
    except ValueError:
        table.errors.add("box", f"{where}: {', '.join(corners)[:80]}")
        return None
    return xmin, ymin, xmax - xmin, ymax - ymin
