"""Recognition of a folder's annotation format by the content of its files, whatever its folders are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cledet.data.formats import csv_files, cvat, label_studio, labelme
from cledet.data.formats.coco_files import find_coco_files, sniff_coco
from cledet.data.formats.reader import Reader
from cledet.data.formats.voc_files import find_voc_files, sniff_voc
from cledet.data.formats.walk import Walk, sample, walk_folder
from cledet.data.formats.yolo import sniff_yolo
from cledet.data.formats.yolo_files import find_yolo_files
from cledet.errors import UserError


@dataclass(frozen=True, slots=True)
class Layout:
    """An annotation format, and how its files are recognised."""

    suffixes: tuple[str, ...]
    """Suffixes of its annotation files, in lower case."""
    sniff: Callable[[Path], bool]
    """Returns whether a file has this format, by its first bytes."""
    find: Callable[[Path, list[Path]], Reader | None]
    """Returns the reader of a folder's annotation files, those that `sniff` accepts; None if they are no data set."""
    per_image: bool
    """Whether a file annotates one image; then some files of a folder speak for the others."""
    wanted: str
    """What makes a folder readable in this format, for the error."""


@dataclass(frozen=True, slots=True)
class Recognized:
    """A data set that was recognised by content."""

    reader: Reader
    home: Path
    """The folder with annotations and images."""
    where: str
    """Places of the annotations and images, relative to `home`."""


LAYOUTS: dict[str, Layout] = {
    "COCO": Layout(
        (".json",), sniff_coco, find_coco_files, False, "a .json file with the lists images, annotations and categories"
    ),
    "Pascal VOC": Layout(
        (".xml",), sniff_voc, find_voc_files, True, "an .xml file per image, with <annotation> and <object>"
    ),
    "YOLO": Layout(
        (".txt",), sniff_yolo, find_yolo_files, True,
        "a .txt file per image with lines `class x y width height` in fractions, or a data.yaml",
    ),
    "CSV": Layout(
        csv_files.SUFFIXES, csv_files.sniff, csv_files.find_csv, False,
        "a .csv file with the columns filename, class, xmin, ymin, xmax, ymax, or rows `path,x1,y1,x2,y2,class`",
    ),
    "LabelMe": Layout(
        (".json",), labelme.sniff, labelme.find_labelme, True, "a .json file per image with shapes and imagePath"
    ),
    "CVAT": Layout((".xml",), cvat.sniff, cvat.find_cvat, False, "an .xml file of 'CVAT for images 1.1'"),
    "Label Studio": Layout(
        (".json",), label_studio.sniff, label_studio.find_label_studio, False,
        "a .json file of Label Studio's JSON or JSON-MIN export",
    ),
}  # fmt: skip
"""The annotation formats that are recognised by content."""


def recognize(folder: Path) -> Recognized:
    """Recognise the data set in a folder; the images of one without images are searched for in the folder above.

    Raises UserError for a folder without annotations, with a line per format that tells what it would need, and for a
    folder with annotations in several formats.
    """
    walk = walk_folder(folder)
    matching = {name: files for name, layout in LAYOUTS.items() if (files := matching_files(walk, layout))}
    found = {name: one for name, files in matching.items() if (one := _find(LAYOUTS[name], files, walk))}
    if not found:
        raise _unknown(walk, matching)
    if len(found) > 1:
        names = [f"{name} ({places(map(str, matching[name]), folder)})" for name in found]
        hint = "pass one of these files or folders as --data, or a YAML file"
        raise UserError(f"{folder} has annotations in several formats: {' and '.join(names)}", hint)
    return next(iter(found.values()))


def read_file(file: Path) -> Recognized | None:
    """Recognise one annotation file; None if its format is not known."""
    for layout in LAYOUTS.values():
        if file.suffix.lower() in layout.suffixes and layout.sniff(file):
            return _find(layout, [file], walk_folder(file.parent))
    return None


def _find(layout: Layout, files: list[Path], walk: Walk) -> Recognized | None:
    """Return the data set of these files, whose images are in their folder or, if that has none, in the one above."""
    above = walk.root.parent
    home = walk if walk.has_images() or above == above.parent else walk_folder(above)
    if (reader := layout.find(home.root, files)) is None:
        return None
    images = places((path for paths in home.images().by_stem.values() for path in paths), home.root)
    where = f"{places(map(str, files), home.root)}, {f'images in {images}' if images else 'no images'}"
    return Recognized(reader, home.root, where)


def matching_files(walk: Walk, layout: Layout) -> list[Path]:
    """Return the files of a format: of one folder and suffix all if each annotates one image, and one does."""
    matching: list[Path] = []
    for folder, names in walk.files(layout.suffixes):
        if any(layout.sniff(Path(folder, name)) for name in sample(names)):
            files = (Path(folder, name) for name in names)
            matching += files if layout.per_image else filter(layout.sniff, files)
    return matching


def places(files: Iterable[str], root: Path, most: int = 3) -> str:
    """Describe where files are by patterns with counts, such as images/*/*.jpg (12); a single file by its name."""
    names: dict[tuple[str, str], str] = {}
    counts = Counter[tuple[str, str]]()
    for file in files:
        folder, name = os.path.split(file)
        key = folder, os.path.splitext(name)[1]
        names[key] = name
        counts[key] += 1
    patterns: dict[tuple[int, str], dict[tuple[str, ...], int]] = {}
    for (folder, suffix), count in counts.items():
        name = f"*{suffix}" if count > 1 else names[folder, suffix]
        parts = (*Path(folder).relative_to(root).parts, name)
        patterns.setdefault((len(parts), suffix), {})[parts] = count
    texts = [text for group in patterns.values() for text in _merge(group)]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _merge(patterns: dict[tuple[str, ...], int]) -> list[str]:
    """Write patterns of one depth and suffix; from three on as one, with * for the parts that differ."""
    if len(patterns) > 2:
        parts = tuple(column[0] if len({*column}) == 1 else "*" for column in zip(*patterns))
        parts = (*parts[:-1], "*" + os.path.splitext(next(iter(patterns))[-1])[1]) if parts[-1] == "*" else parts
        patterns = {parts: sum(patterns.values())}
    return [os.path.join(*parts) + (f" ({count:,})" if count > 1 else "") for parts, count in patterns.items()]


def _unknown(walk: Walk, matching: dict[str, list[Path]]) -> UserError:
    """Return the error for a folder without annotations, or with files like annotations that have no images."""
    lines = ["readable are:", *(f"  {name}: {layout.wanted}" for name, layout in LAYOUTS.items())]
    if matching:
        names = [f"{name}'s ({places(map(str, files), walk.root)})" for name, files in matching.items()]
        message = f"{walk.root} holds files like {' and '.join(names)}, but no images of their names"
        return UserError(message, "copy the images beside them", lines)
    suffixes = Counter(os.path.splitext(name)[1].lower() or name for names in walk.folders.values() for name in names)
    content = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(8))
    message = f"{walk.root} holds neither {' nor '.join(LAYOUTS)} annotations"
    return UserError(message, f"it holds {content}" if content else "it is empty", lines)
