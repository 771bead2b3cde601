"""Detections in tables: supervision's sinks, and the CSV of cledet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cledet.data.index import DetectionIndex, Floats
from cledet.errors import UserError
from cledet.metrics.predictions.columns import FileColumns, Predictions, resolve, to_codes

BOXES = (("x_min", "y_min", "x_max", "y_max"), ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
SCORES = ("confidence", "score")
FILE_NAMES = ("file_name", "filename", "file", "image_name", "image_path", "path", "image")
CLASS_NAMES = ("class_name", "class", "name")
CLASS_NUMBERS = ("class_id", "category_id")
"""Column names; of several that a table has, the first is read."""
READINGS = (("ids", "from 0", "from 1", "coco"),)


def read_csv(path: Path, text: str, index: DetectionIndex) -> Predictions:
    """Read a table of detections with a header. Raises UserError for a table without the columns that are needed."""
    try:
        header, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise UserError(f"{path} is not a table: {error}") from None
    ragged = next((i for i, row in enumerate(rows, 2) if len(row) != len(header)), None)
    if ragged is not None:
        raise UserError(f"{path}: row {ragged} has {len(rows[ragged - 2])} columns and the header {len(header)}")
    columns = {name.strip(): column for name, column in zip(header, zip(*rows))} if rows else dict.fromkeys(header, ())
    return resolve(path, from_table(path, columns, len(rows)), index)


def is_table(header: str) -> bool:
    """Return whether a line of text is the header of a table of boxes."""
    names = {name.strip().strip('"') for name in header.split(",")}
    return any(names >= {*box} for box in BOXES)


def from_table(path: Path, columns: Mapping[str, Sequence[Any]], count: int) -> FileColumns:
    """Convert columns of `count` rows. Raises UserError if the image, the class or the score is missing."""
    box = next((names for names in BOXES if columns.keys() >= {*names}), None)
    if box is None:
        raise UserError(f"{path} has no boxes: columns called {', '.join(BOXES[0])}")
    format = "supervision" if box == BOXES[0] else "a table"
    score = _first(columns, SCORES)
    if score is None:
        raise UserError(f"{path} has no scores: a column called {SCORES[0]} or {SCORES[1]}")
    corners = np.stack([_numbers(path, name, columns[name]) for name in box], axis=1)
    corners[:, 2:] -= corners[:, :2]
    names, image = to_codes(_images(path, columns))
    classes, label = to_codes(_classes(path, columns))
    by_id = _first(columns, FILE_NAMES) is None
    return FileColumns(
        format,
        *(image, corners, _numbers(path, score, columns[score]), classes, label, READINGS),
        file_names=None if by_id else names,
        ids=names if by_id else None,
    )


def _first(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _images(path: Path, columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the file name, or else the id, of each row's image."""
    name = _first(columns, (*FILE_NAMES, "image_id"))
    if name is None:
        raise UserError(
            f"{path} does not say to which image a detection belongs: its columns are {', '.join(columns)[:300]}",
            'with supervision: sink.append(detections, custom_data={"file_name": path})',
        )
    return [str(value) for value in columns[name]]


def _classes(path: Path, columns: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Return the class name of each row or, if there are none or they are numbers, the class number."""
    name, number = _first(columns, CLASS_NAMES), _first(columns, CLASS_NUMBERS)
    texts = [str(value) for value in columns[name]] if name is not None else []
    if texts and not all(text == "" or text.isdecimal() for text in set(texts)):
        return texts
    column = number or name
    if column is None:
        raise UserError(f"{path} has no classes: a column called {CLASS_NAMES[0]} or {CLASS_NUMBERS[0]}")
    return _numbers(path, column, columns[column]).tolist()


def _numbers(path: Path, name: str, values: Sequence[Any]) -> Floats:
    """Convert a column to numbers [D]. Raises UserError with the first row that has none."""
    numbers = np.empty(len(values))
    for row, value in enumerate(values):
        try:
            numbers[row] = float(value)
        except (ValueError, TypeError, OverflowError):
            message = f"{path}: {name} of detection {row + 1} is {str(value)[:40]!r}, not a number"
            raise UserError(message) from None
    return numbers
