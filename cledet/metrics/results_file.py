"""Detections of a split as one array, COCO's results format, and the zips that COCO's evaluation server takes."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from cledet.data.formats.paths import read_bytes
from cledet.data.index import DetectionIndex
from cledet.errors import UserError

T = TypeVar("T")
C = TypeVar("C")
DetectionRows = NDArray[np.float64]
"""Detections [D, 7] as pycocotools takes them: image id, x, y, w, h, score, category id."""


class FormatError(UserError):
    """A file that is not in COCO's results format."""


class Detection(msgspec.Struct, gc=False):
    """An entry of COCO's results format; other fields are skipped. Ids may be written as 7.0."""

    image_id: float
    category_id: float
    bbox: tuple[float, float, float, float]
    score: float


DECODER, ENCODER = msgspec.json.Decoder(list[Detection]), msgspec.json.Encoder()
PART = 2**16
"""Bytes per chunk of the decoder."""
OPENED, CUT = re.compile(rb"[ \t\r\n]*\["), re.compile(rb"},[ \t\r\n]*{")


def read_results(path: Path, index: DetectionIndex) -> DetectionRows:
    """Read detections from a file in COCO's results format.

    Raises UserError for another format, for numbers that are not finite, and for ids that the split does not have.
    """
    results = decode_results(path, read_content(path))
    for kind, column, known in (("image", 0, index.image_ids), ("category", 6, index.category_ids)):
        unknown = unknown_ids(results[:, column], known)
        if unknown.any():
            first = [f"{one:.17g}" for one in dict.fromkeys(results[unknown, column].tolist())][:5]
            raise UserError(f"{path} names {kind} ids that {index.name} does not have: {', '.join(first)}")
    return results


def read_content(path: Path) -> bytes:
    """Read a file of detections. Raises UserError for a file that cannot be read."""
    try:
        return read_bytes(path)
    except OSError as error:
        raise UserError(f"the predictions file {path} cannot be read: {error.strerror}", "check the path") from None


def decode_text(path: Path, content: bytes) -> str:
    """Decode the content of a text file. Raises UserError for one that is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def decode_results(path: Path, content: bytes) -> DetectionRows:
    """Decode a file in COCO's results format, whatever its ids.

    Raises UserError for another format and for numbers that are not finite.
    """
    try:
        results = np.concatenate(decode_entries(content, DECODER, _columns))
    except (ValueError, RecursionError) as error:
        raise format_error(path, error) from None
    check_finite(path, results)
    return results


def check_finite(path: Path, columns: NDArray[np.float64]) -> None:
    """Raise UserError if the numbers of the detections [D, N] hold NaN or infinity."""
    rows = np.flatnonzero(~np.isfinite(columns).all(axis=1))
    if len(rows):
        raise UserError(f"{path}: {len(rows)} detections hold numbers that are not finite, entry {rows[0]} first")


def format_error(path: Path, error: Exception) -> FormatError:
    """Return the error for a file that could not be decoded."""
    return FormatError(
        f"{path} is not in COCO's results format ({type(error).__name__}: {error!s:.200})",
        'a list of {"image_id", "category_id", "bbox": [x, y, w, h], "score"}',
    )


def unknown_ids(column: NDArray[np.float64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the ids [D] that are not among the known ones [K], or no whole numbers."""
    with np.errstate(invalid="ignore"):  # beyond int64; the second comparison finds those
        ids = column.astype(np.int64)
    return ~np.isin(ids, known) | (ids != column)


def decode_entries(content: bytes, decoder: msgspec.json.Decoder[list[T]], convert: Callable[[list[T]], C]) -> list[C]:
    """Decode a JSON list in parts and convert each part. Raises ValueError or RecursionError for another content."""
    try:
        return [convert(decoder.decode(part)) for part in _parts(content)]
    except (msgspec.DecodeError, RecursionError):  # json also accepts NaN, and its errors name the place in the file
        return [convert(msgspec.convert(json.loads(content), decoder.type))]


def _parts(content: bytes) -> Iterator[bytes]:
    """Split a JSON list into lists of some hundred entries, so that decoding reuses memory.

    The list is cut between apparent entries. A cut inside an entry, such as in a string, leaves an invalid list, so the
    parts are valid only if the list is.
    """
    if (opened := OPENED.match(content)) is None:
        yield content
        return
    start = opened.end()
    while cut := CUT.search(content, start + PART):
        yield b"[" + content[start : cut.start() + 1] + b"]"
        start = cut.end() - 1
    yield b"[" + content[start:]


def _columns(detections: Sequence[Detection]) -> DetectionRows:
    """Convert detections to an array."""
    results = np.empty((len(detections), 7))
    for column, name in ((0, "image_id"), (5, "score"), (6, "category_id")):
        results[:, column] = np.fromiter(map(attrgetter(name), detections), np.float64, len(detections))
    sides = chain.from_iterable(map(attrgetter("bbox"), detections))
    results[:, 1:5] = np.fromiter(sides, np.float64, 4 * len(detections)).reshape(-1, 4)
    return results


def encode_results(results: DetectionRows) -> bytes:
    """Encode detections in COCO's results format, unrounded, so that `read_results` restores them exactly."""
    images, categories = (results[:, column].astype(np.int64).tolist() for column in (0, 6))
    boxes, scores = results[:, 1:5].tolist(), results[:, 5].tolist()
    return ENCODER.encode(list(map(Detection, images, categories, boxes, scores)))


def submission_name(split: str, algorithm: str) -> str:
    """Return the name that the server requires of the zip and of the file in it, detections_TESTSET_ALG_results.

    The test set is the name of the annotation file without its prefix: image_info_test-dev2017 -> test-dev2017.
    """
    testset = split.rpartition("/")[2].removeprefix("image_info_").removeprefix("instances_")
    return f"detections_{testset}_{re.sub('[^A-Za-z0-9.-]+', '-', algorithm).strip('-') or 'cledet'}_results"


def zip_submission(results: DetectionRows, name: str) -> bytes:
    """Zip the detections as name.json in COCO's results format, unrounded."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.json", encode_results(results))
    return content.getvalue()
