"""Sinks of results: each writes one kind of file as results arrive, so that it is readable at any time."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from cledet.inference.file_names import FileNames
from cledet.inference.results import Results
from cledet.inference.video_sink import VideoFiles
from cledet.io.atomic import write_whole
from cledet.io.growing_file import GrowingFile
from cledet.io.run_folders import name_from
from cledet.visualization.draw import jpeg, write_picture

LARGEST_ID = 2**31 - 1
"""Largest number in a file's name that is taken for COCO's image id."""


class Sink(Protocol):
    """A place that results are written to, one by one."""

    def write(self, result: Results) -> None:
        """Write one result. Raises UserError if that fails; what was written before stays readable."""

    def close(self) -> None:
        """Complete the files."""


class Pictures:
    """Annotated pictures: NAME.jpg per image, and NAME-000000.jpg per frame of a video if `frames` is set."""

    def __init__(self, folder: Path, *, frames: bool = True) -> None:
        self._folder, self._frames = folder, frames
        self._names = FileNames()

    def write(self, result: Results) -> None:
        """Draw and write one picture."""
        name = self._names.name(result)
        if self._frames or result.number is None:
            write_picture(self._folder / f"{name}.jpg", result.plot())

    def close(self) -> None:
        """Do nothing: each picture is complete."""


class YoloLabels:
    """YOLO labels with scores: labels/NAME.txt per image, with a line `class x y width height score` per box.

    `class` counts the lines of classes.txt from 0. The other numbers are fractions of the image's width and height; x
    and y are the centre.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = FileNames()

    def write(self, result: Results) -> None:
        """Write the labels of one image; the file is empty if there are no detections."""
        classes = self._folder / "classes.txt"
        if not classes.exists():
            write_whole(classes, "".join(f"{' '.join(name.split())}\n" for name in result.names))
        height, width = result.original_size
        lines = [
            f"{one.label} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
            f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f} {one.score:.5f}\n"
            for one in result
            for x1, y1, x2, y2 in [one.box]
        ]
        write_whole(self._folder / "labels" / f"{self._names.name(result)}.txt", "".join(lines), sync=False)

    def close(self) -> None:
        """Do nothing: each file is complete."""


class Crops:
    """Detected objects by class: crops/CLASS/NAME-1.jpg, numbered by score within the image."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "crops"
        self._names = FileNames()

    def write(self, result: Results) -> None:
        """Write the crops of one image."""
        name = self._names.name(result)
        height, width = result.original_size
        for number, one in enumerate(result, 1):
            x1, y1, x2, y2 = one.box
            left, top = max(math.floor(x1), 0), max(math.floor(y1), 0)
            crop = result.image[top : min(math.ceil(y2), height), left : min(math.ceil(x2), width)]
            if crop.size:
                folder = self._folder / name_from(one.name, "class")
                write_whole(folder / f"{name}-{number}.jpg", jpeg(crop, 95), sync=False)

    def close(self) -> None:
        """Do nothing: each crop is complete."""


class JsonList:
    """One JSON list in a file, an entry a line; it is complete after each result."""

    def __init__(self, path: Path, entries: Callable[[Results], Sequence[dict[str, Any]]]) -> None:
        self._file = GrowingFile(path, "[", "\n]\n")
        self._entries = entries
        self._separator = "\n"

    def write(self, result: Results) -> None:
        """Append the entries of one result."""
        if lines := [json.dumps(entry, allow_nan=False) for entry in self._entries(result)]:
            self._file.append(self._separator + ",\n".join(lines))
            self._separator = ",\n"

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class JsonLines:
    """JSON Lines in a file: one object per image."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)

    def write(self, result: Results) -> None:
        """Append one line."""
        self._file.append(_line(result))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Csv:
    """A table with a row per detection, its box in pixels."""

    COLUMNS = ("file", "frame", "seconds", "x1", "y1", "x2", "y2", "score", "category_id", "class")

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path, _csv([self.COLUMNS]))

    def write(self, result: Results) -> None:
        """Append the rows of one image."""
        origin = (result.name, result.number, None if result.seconds is None else round(result.seconds, 3))
        rows = [
            (*origin, *(round(v, 2) for v in one.box), round(one.score, 5), one.category_id, one.name) for one in result
        ]
        self._file.append(_csv(rows))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CocoIds:
    """Entries of COCO's results format, with image ids.

    The id of an image is the number that is its file name, as in COCO ("000000000139.jpg"), else its position in the
    run, from 1; an id that is taken becomes the next free one. `file_name` and, for videos, `frame` say it in words.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._largest = self._count = 0

    def entries(self, result: Results) -> list[dict[str, Any]]:
        """Return an entry per detection."""
        self._count += 1
        stem = Path(result.name).stem
        numbered = result.number is None and stem.isascii() and stem.isdecimal() and int(stem) <= LARGEST_ID
        image = int(stem) if numbered else self._count
        if image in self._taken:
            image = self._largest + 1
        self._taken.add(image)
        self._largest = max(self._largest, image)
        origin = {"file_name": result.name} | ({} if result.number is None else {"frame": result.number})
        return [entry | origin for entry in result.to_coco(image)]


class JsonLinesStream:
    """JSON Lines on an open stream: one object per image, flushed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, result: Results) -> None:
        """Write and flush one line."""
        self._stream.write(_line(result))
        self._stream.flush()

    def close(self) -> None:
        """Do nothing: the stream is the caller's."""


class JsonDocumentStream:
    """One JSON document on an open stream, a list with an object per image; it is complete when it is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._separator = "[\n"

    def write(self, result: Results) -> None:
        """Write one object of the list."""
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
        self._stream.write(self._separator + "\n".join(f"  {line}" for line in text.split("\n")))
        self._separator = ",\n"

    def close(self) -> None:
        """End the list."""
        self._stream.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._stream.flush()


def _line(result: Results) -> str:
    return json.dumps(result.to_dict(), allow_nan=False) + "\n"


def _csv(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def open_sinks(folder: Path, kinds: Sequence[str]) -> list[Sink]:
    """Create the sinks of these kinds, keys of SINKS, in a new folder."""
    return [sink for kind in kinds for sink in SINKS[kind](folder)]


SINKS: dict[str, Callable[[Path], list[Sink]]] = {
    "auto": lambda folder: [Pictures(folder, frames=False), VideoFiles(folder), *SINKS["json"](folder)],
    "pictures": lambda folder: [Pictures(folder)],
    "video": lambda folder: [VideoFiles(folder)],
    "json": lambda folder: [JsonList(folder / "predictions.json", lambda result: [result.to_dict()])],
    "jsonl": lambda folder: [JsonLines(folder / "predictions.jsonl")],
    "coco": lambda folder: [JsonList(folder / "coco.json", CocoIds().entries)],
    "txt": lambda folder: [YoloLabels(folder)],
    "crops": lambda folder: [Crops(folder)],
    "csv": lambda folder: [Csv(folder / "predictions.csv")],
}
"""Sinks by the names of `--save`."""
