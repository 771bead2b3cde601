"""Detections of a split as one array, and the file format that they are exchanged in."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from cledet.data.formats.paths import open_regular_file
from cledet.data.index import DetectionIndex
from cledet.errors import UserError

Results = NDArray[np.float64]
"""Detections [D, 7] as pycocotools takes them: image id, x, y, w, h, score, category id."""


class Detection(msgspec.Struct, gc=False):
    """An entry of COCO's results format; what else an entry has is skipped."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


T = TypeVar("T")
DECODER, ENCODER = msgspec.json.Decoder(list[Detection]), msgspec.json.Encoder()
PART = 2**16
"""Bytes that are decoded at once."""
OPENED, CUT = re.compile(rb"[ \t\r\n]*\["), re.compile(rb"},[ \t\r\n]*{")


def read_results(path: Path, index: DetectionIndex) -> Results:
    """Detections from a file in COCO's results format.

    Raises UserError for a file that is none, for numbers that are not finite, and for ids that the split does not have,
    of which it names the first.
    """
    try:
        with open(path, "rb", opener=open_regular_file) as file:
            results = _decode(file.read())
    except FileNotFoundError:
        raise UserError(f"there is no predictions file {path}", "check the path") from None
    except OSError as error:
        raise UserError(f"the predictions file {path} cannot be read: {error.strerror}", "check the path") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} is not in COCO's results format ({type(error).__name__}: {error!s:.200})",
            'a list of {"image_id", "category_id", "bbox": [x, y, w, h], "score"}',
        ) from None
    if not np.isfinite(results).all():
        strange = np.flatnonzero(~np.isfinite(results).all(axis=1))
        raise UserError(f"{path}: {len(strange)} detections hold numbers that are not finite, entry {strange[0]} first")
    for what, column, known in (("image", 0, index.image_ids), ("category", 6, index.category_ids)):
        with np.errstate(invalid="ignore"):  # beyond int64; the second comparison finds those
            ids = results[:, column].astype(np.int64)
        unknown = ~np.isin(ids, known) | (ids != results[:, column])
        if unknown.any():
            first = [f"{one:.17g}" for one in dict.fromkeys(results[unknown, column].tolist())][:5]
            raise UserError(f"{path} names {what} ids that {index.name} does not have: {', '.join(first)}")
    return results


def _decode(content: bytes) -> Results:
    """The detections of a file's content."""
    try:
        parts = _without_collector(lambda: [_columns(DECODER.decode(part)) for part in _parts(content)])
    except (msgspec.DecodeError, RecursionError):  # what json takes besides, 7.0 for an id; or its account of the fault
        return np.array([_row(entry) for entry in _listed(json.loads(content))], dtype=np.float64).reshape(-1, 7)
    return np.concatenate(parts)


def _listed(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError("it is no list")
    return content


def _row(entry: Any) -> tuple[float, ...]:
    """An entry's seven numbers. Raises KeyError for one that it lacks, TypeError for what is none."""
    if not isinstance(entry, dict):
        raise TypeError("an entry is no object")
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        raise TypeError("a bbox is not four numbers")
    row = (entry["image_id"], *box, entry["score"], entry["category_id"])
    if not all(type(value) in (int, float) for value in row):
        raise TypeError("an entry has something else for a number")
    return row


def _parts(content: bytes) -> Iterator[bytes]:
    """A JSON list as lists of some hundred entries: decoded one by one they take up the same memory in turn.

    It is cut where one entry seems to end and another to begin. Was that within an entry, say in a string, then what
    lies before the cut is no whole list, so cut lists are as valid as the whole one.
    """
    if (opened := OPENED.match(content)) is None:
        yield content
        return
    start = opened.end()
    while cut := CUT.search(content, start + PART):
        yield b"[" + content[start : cut.start() + 1] + b"]"
        start = cut.end() - 1
    yield b"[" + content[start:]


def _columns(found: Sequence[Detection]) -> Results:
    """The detections as an array."""
    results = np.empty((len(found), 7))
    for column, name in ((0, "image_id"), (5, "score"), (6, "category_id")):
        results[:, column] = np.fromiter(map(attrgetter(name), found), np.float64, len(found))
    sides = chain.from_iterable(map(attrgetter("bbox"), found))
    results[:, 1:5] = np.fromiter(sides, np.float64, 4 * len(found)).reshape(-1, 4)
    return results


def encode_results(results: Results) -> bytes:
    """Detections in COCO's results format, unrounded; `read_results` reads them back the same."""
    images, categories = (results[:, column].astype(np.int64).tolist() for column in (0, 6))
    boxes, scores = results[:, 1:5].tolist(), results[:, 5].tolist()
    return _without_collector(lambda: ENCODER.encode(list(map(Detection, images, categories, boxes, scores))))


def _without_collector(work: Callable[[], T]) -> T:
    """Do it without the garbage collector, which would go over half a million new tuples again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if was_on:
            gc.enable()
