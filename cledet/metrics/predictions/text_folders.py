"""Detections in folders of text files: YOLO's, one file per image, and VOC's, one per class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from cledet.data.index import DetectionIndex, Floats
from cledet.errors import UserError, nearest
from cledet.metrics.predictions.columns import FileColumns, Predictions, resolve, to_codes
from cledet.metrics.results_file import decode_text, read_content

CLASSES = "classes.txt"
"""File of class names, as `cledet predict --save txt` writes it beside its folder `labels`."""
FARTHEST_FRACTION = 2.0
"""Limit on fractions of an image; boxes may reach over its edge."""
Lines = list[list[str]]


def read_folder(folder: Path, index: DetectionIndex) -> Predictions:
    """Read the text files of a folder, or of `labels` in it. Raises UserError for a folder of other files."""
    files = text_files(folder)
    home = folder
    if not files and (folder / "labels").is_dir():
        home = folder / "labels"
        files = text_files(home)
    if not files:
        content = sorted(entry.name for entry in folder.iterdir())
        hint = f"it holds {', '.join(content[:8])}{' ...' if len(content) > 8 else ''}" if content else "it is empty"
        raise UserError(f"{folder} holds no text files of detections, as YOLO and VOC have them", hint)
    lines = [_read_lines(file) for file in files]
    voc = next((_is_voc(file, words[0], index) for file, words in zip(files, lines) if words), False)
    columns = _voc(home, files, lines, index) if voc else _yolo(home, files, lines, index)
    return resolve(folder, columns, index)


def text_files(folder: Path) -> list[Path]:
    """List the text files of a folder, sorted, without a list of classes."""
    return sorted(file for file in folder.glob("*.txt") if file.name != CLASSES and not file.is_dir())


def _read_lines(file: Path) -> Lines:
    """Return the words of each line that is not empty."""
    return [words for line in decode_text(file, read_content(file)).splitlines() if (words := line.split())]


def _is_voc(file: Path, words: Sequence[str], index: DetectionIndex) -> bool:
    """Return whether a line is `image score x1 y1 x2 y2` in pixels, not `class x y w h score` in fractions."""
    try:
        corners = [float(word) for word in words[2:]]
    except ValueError:
        return False
    pixels = len(corners) == 4 and max(corners) > FARTHEST_FRACTION
    return pixels and (not words[0].isdecimal() or _voc_class(file, index) is not None)


def _yolo(home: Path, files: Sequence[Path], lines: Sequence[Lines], index: DetectionIndex) -> FileColumns:
    """Read lines `class x y w h score`, optionally with a track id; x and y are the centre."""
    numbers = np.concatenate([_yolo_numbers(file, words) for file, words in zip(files, lines)])
    classes, label = np.unique(numbers[:, 0], return_inverse=True)
    xywh = numbers[:, 1:5].copy()
    xywh[:, :2] -= xywh[:, 2:] / 2
    names, note = _class_names(home, classes)
    return FileColumns(
        "YOLO text files",
        *(np.repeat(np.arange(len(files)), list(map(len, lines))), xywh, numbers[:, 5]),
        *(names or classes.tolist(), label, (("from 0",),)),
        file_names=[file.stem for file in files],
        fractions=True,
        notes=note,
    )


def _yolo_numbers(file: Path, lines: Lines) -> Floats:
    """Convert the lines of a file to [n, 6]. Raises UserError with the first line of another form."""
    for number, words in enumerate(lines, 1):
        if len(words) == 5:
            raise UserError(f"{file} has no confidences: line {number} is class x y w h", "write them: save_conf=True")
        if len(words) not in (6, 7):
            message = f"{file}: line {number} has {len(words)} words instead of 6: class x y w h confidence"
            raise UserError(message, "polygons and keypoints are not read")
    numbers = _numbers(file, [words[:6] for words in lines], 6, "class x y w h confidence")
    wrong = (np.abs(numbers[:, 1:5]) > FARTHEST_FRACTION).any(axis=1) | (numbers[:, 5] < 0) | (numbers[:, 5] > 1)
    if wrong.any():
        line = int(wrong.argmax())
        message = f"{file}: line {line + 1} is not class x y w h confidence in fractions"
        raise UserError(f"{message}: {' '.join(lines[line])[:80]}")
    return numbers


def _class_names(home: Path, classes: Floats) -> tuple[list[str], tuple[str, ...]]:
    """Return the names of class numbers by a list beside the files or their folder; empty without a list."""
    for file in (home / CLASSES, home.parent / CLASSES):
        if file.is_file():
            names = [line.strip() for line in decode_text(file, read_content(file)).splitlines()]
            if unknown := [number for number in classes.tolist() if number not in range(len(names))]:
                raise UserError(f"{file} has {len(names)} names, and the files name class {unknown[0]:g}")
            return [names[int(number)] for number in classes], (f"names from {file}",)
    return [], ()


def _voc(home: Path, files: Sequence[Path], lines: Sequence[Lines], index: DetectionIndex) -> FileColumns:
    """Read lines `image score x1 y1 x2 y2` in pixels from 1, both ends included, as the development kit has them."""
    class_of = {file: _voc_class(file, index) for file in files}
    classes = [name for name in class_of.values() if name is not None]
    for file, name in class_of.items():
        if name is None:
            hint = nearest(file.stem.rpartition("_")[2], index.classes)
            raise UserError(f"{file} is of no class of {index.name}, as comp4_det_test_CLASS.txt would be", hint)
        if classes.count(name) > 1:
            others = [one.name for one in files if class_of[one] == name]
            raise UserError(f"{home} holds several files of the class {name}: {', '.join(others[:3])}", "keep one")
    numbers = np.concatenate([_voc_numbers(file, words) for file, words in zip(files, lines)])
    x1, y1, x2, y2 = numbers[:, 1:].T
    images, image = to_codes([words[0] for words in chain.from_iterable(lines)])
    missing = len(index.classes) - len(classes)
    return FileColumns(
        "VOC's files per class",
        *(image, np.stack([x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1], axis=1), numbers[:, 0]),
        *(classes, np.repeat(np.arange(len(files)), list(map(len, lines)))),
        file_names=images,
        notes=(f"{missing} classes without a file",) if missing > 0 else (),
    )


def _voc_class(file: Path, index: DetectionIndex) -> str | None:
    """Return the class of a file, None without one: "comp4_det_test_dog.txt" and "dog.txt" are of dog."""
    known = [name for name in index.classes if file.stem == name or file.stem.endswith(f"_{name}")]
    return max(known, key=len, default=None)


def _voc_numbers(file: Path, lines: Lines) -> Floats:
    """Convert the lines of a file to score and corners [n, 5]. Raises UserError with the first of another form."""
    for number, words in enumerate(lines, 1):
        if len(words) != 6:
            raise UserError(f"{file}: line {number} has {len(words)} words instead of 6: image score x1 y1 x2 y2")
    return _numbers(file, [words[1:] for words in lines], 5, "image score x1 y1 x2 y2")


def _numbers(file: Path, rows: Lines, columns: int, form: str) -> Floats:
    """Convert rows of words to numbers [n, columns]. Raises UserError with the `form` of a line."""
    try:
        words = chain.from_iterable(rows)
        return np.fromiter(map(float, words), np.float64, columns * len(rows)).reshape(-1, columns)
    except ValueError as error:
        raise UserError(f"{file}: {error!s:.80}", f"a line is {form}") from None
