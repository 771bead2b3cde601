"""Detections in JSON: COCO's results format, and the files of Ultralytics, supervision and cledet."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from cledet.data.index import DetectionIndex, Floats
from cledet.errors import UserError
from cledet.metrics.predictions.columns import (
    FileColumns,
    Predictions,
    resolve,
    summarize,
    to_codes,
)
from cledet.metrics.predictions.tables import from_table
from cledet.metrics.results_file import (
    DetectionRows,
    FormatError,
    decode_entries,
    decode_results,
    format_error,
    unknown_ids,
)

BEGIN = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\[\s*)?(?=\{)")
"""Everything before the first object of a list, or before an object."""
LONGEST_ENTRY = 2**20
"""Bytes within which the first object has to end for its keys to be known."""
ID_READINGS = (("ids",), ("from 0", "from 1", "coco"))
"""Readings of COCO's category ids: others only if they are not the data set's."""


class NamedDetection(msgspec.Struct, gc=False):
    """An entry in COCO's results format whose image may be a name."""

    image_id: int | float | str
    category_id: float
    bbox: tuple[float, float, float, float]
    score: float
    file_name: str | None = None


class CledetDetection(msgspec.Struct, gc=False):
    """A detection in the predictions.json of `cledet predict`."""

    name: str
    score: float
    box: tuple[float, float, float, float]


class CledetImage(msgspec.Struct, gc=False):
    """An image in the predictions.json of `cledet predict`."""

    file: str
    detections: list[CledetDetection]


class _Part(NamedTuple):
    """Columns of some entries: image ids and file names, and x, y, w, h, score, category [n, 6]."""

    images: list[tuple[int | float | str, str | None]]
    numbers: Floats


NAMED = msgspec.json.Decoder(list[NamedDetection])
ROWS = msgspec.json.Decoder(list[dict[str, Any]])
IMAGES, IMAGE = msgspec.json.Decoder(list[CledetImage]), msgspec.json.Decoder(CledetImage)


def read_json(path: Path, content: bytes, index: DetectionIndex) -> Predictions:
    """Read detections in any of the formats. Raises UserError for another content."""
    first = _first_entry(content)
    if {"detections", "file"} <= first.keys():
        return resolve(path, _cledet(path, content), index)
    if {"x_min", "x_max"} <= first.keys():
        return resolve(path, _supervision(path, content), index)
    if {"images", "categories"} <= first.keys():
        raise UserError(f"{path} is a COCO annotation file, not a file of detections", "pass it to --data")
    if {"box", "confidence"} <= first.keys() or {"bboxes", "scores"} <= first.keys():
        raise UserError(f"{path} holds the detections of one image and not its name", "write a file for all images")
    refused: UserError | None = None
    if "file_name" not in first and not isinstance(first.get("image_id"), str):
        try:
            return _coco(path, decode_results(path, content), index)
        except FormatError as error:
            refused = error
    try:
        columns = _named(content)  # an image after the first may be a name
    except (ValueError, RecursionError) as error:
        raise refused or format_error(path, error) from None
    return resolve(path, columns, index)


def _first_entry(content: bytes) -> dict[str, Any]:
    """Return the first object of a list or of a file of JSON lines; empty if there is none."""
    begin = BEGIN.match(content)
    if begin is None:
        return {}
    try:
        text = content[begin.end() : begin.end() + LONGEST_ENTRY].decode("utf-8", "ignore")
        return dict(json.JSONDecoder().raw_decode(text)[0])
    except (ValueError, RecursionError):
        return {}


def _coco(path: Path, rows: DetectionRows, index: DetectionIndex) -> Predictions:
    """Check the ids of COCO's results format; those that the split does not have may be file names or class numbers."""
    if not (unknown_ids(rows[:, 0], index.image_ids) | unknown_ids(rows[:, 6], index.category_ids)).any():
        notes = ("images by id", "classes by id") if len(rows) else ()
        return Predictions(rows, summarize(path, "COCO results", rows, index, notes), path)
    ids, image = np.unique(rows[:, 0], return_inverse=True)
    classes, label = np.unique(rows[:, 6], return_inverse=True)
    columns = FileColumns(
        "COCO results", image, rows[:, 1:5], rows[:, 5], classes.tolist(), label, ID_READINGS, ids=ids.tolist()
    )
    return resolve(path, columns, index)


def _named(content: bytes) -> FileColumns:
    """Decode COCO's results format with image names; that of Ultralytics if the ids are the names' stems."""
    parts = decode_entries(content, NAMED, _to_part)
    distinct, image = to_codes(list(chain.from_iterable(part.images for part in parts)))
    numbers = np.concatenate([part.numbers for part in parts])
    classes, label = np.unique(numbers[:, 5], return_inverse=True)
    ids, names = [number for number, _ in distinct], [name for _, name in distinct if name is not None]
    named = len(names) == len(ids)
    stems = named and all(_is_stem(number, name) for number, name in zip(ids, names))
    if stems:
        readings: Sequence[Sequence[str]] = (("ids", "from 1", "coco"),)
    else:  # without file names, versions of 2024 and earlier number classes from 0
        strings = any(isinstance(number, str) for number in ids)
        readings = (("ids", "from 0", "from 1", "coco"),) if strings else ID_READINGS
    return FileColumns(
        "COCO results" if readings is ID_READINGS else "Ultralytics' predictions.json",
        *(image, numbers[:, :4], numbers[:, 4], classes.tolist(), label, readings),
        file_names=names if named else None,
        ids=None if stems else ids,
    )


def _to_part(entries: Sequence[NamedDetection]) -> _Part:
    images = [(entry.image_id, entry.file_name) for entry in entries]
    numbers = [(*entry.bbox, entry.score, entry.category_id) for entry in entries]
    return _Part(images, np.array(numbers, dtype=np.float64).reshape(-1, 6))


def _is_stem(number: int | float | str, name: str) -> bool:
    """Return whether an image id is a file name's stem, as a number if it is one."""
    stem = os.path.splitext(name)[0]
    return str(number) in (stem, stem.lstrip("0") or "0")


def _cledet(path: Path, content: bytes) -> FileColumns:
    """Decode the predictions.json or .jsonl of `cledet predict`."""
    try:
        images = IMAGES.decode(content) if content.lstrip()[:1] == b"[" else IMAGE.decode_lines(content)
    except (ValueError, RecursionError) as error:
        message = f"{path} is not as `cledet predict` writes it ({type(error).__name__}: {error!s:.200})"
        raise UserError(message) from None
    names, number = to_codes([image.file for image in images])
    counts = [len(image.detections) for image in images]
    found = [detection for image in images for detection in image.detections]
    boxes = np.array([detection.box for detection in found], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    scores = np.array([detection.score for detection in found], dtype=np.float64)
    classes, label = to_codes([detection.name for detection in found])
    return FileColumns(
        "cledet's predictions", np.repeat(number, counts), boxes, scores, classes, label, file_names=names
    )


def _supervision(path: Path, content: bytes) -> FileColumns:
    """Decode the file of supervision's JSONSink."""
    try:
        rows = list(chain.from_iterable(decode_entries(content, ROWS, list)))
    except (ValueError, RecursionError) as error:
        message = f"{path} is not as supervision's JSONSink writes it ({type(error).__name__}: {error!s:.200})"
        raise UserError(message) from None
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    return from_table(path, columns, len(rows))
