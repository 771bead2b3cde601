"""Recognition of a folder's annotation format by the content of its files, whatever its folders are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cledet.data.formats import csv_files, cvat, label_studio, labelme
from cledet.data.formats.coco_files import find_coco_files, sniff_coco
from cledet.data.formats.reader import Reader
from cledet.data.formats.voc_files import find_voc_files, sniff_voc
from cledet.data.formats.walk import Walk, walk_folder
from cledet.data.formats.yolo import sniff_yolo
from cledet.data.formats.yolo_files import find_yolo_files
from cledet.errors import UserError

SAMPLES = 16
"""Files of one suffix in one folder whose content is looked at, if each annotates one image."""


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
        raise _unknown(walk)
    if len(found) > 1:
        names = [f"{name} ({places(matching[name], folder)})" for name in found]
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
    home = walk if walk.images().by_stem or above == above.parent else walk_folder(above)
    reader = layout.find(home.root, files)
    return None if reader is None else Recognized(reader, home.root, f"{places(files, home.root)}, {_images(home)}")


def matching_files(walk: Walk, layout: Layout) -> list[Path]:
    """Return the files of a format; one folder's files of a suffix are of a per-image format if any sample is."""
    matching: list[Path] = []
    for files in walk.files(layout.suffixes):
        if not layout.per_image:
            matching += filter(layout.sniff, files)
        elif any(map(layout.sniff, files[:: max(1, len(files) // SAMPLES)])):
            matching += files
    return matching


def places(files: list[Path], root: Path, most: int = 3) -> str:
    """Describe where files are: a single file of a folder by name, others as *.SUFFIX with their number."""
    folders = Counter((file.parent, file.suffix) for file in files)
    single = {(file.parent, file.suffix): file.name for file in files}
    texts = []
    for (folder, suffix), count in folders.items():
        name = f"*{suffix} ({count:,})" if count > 1 else single[folder, suffix]
        texts.append(os.path.relpath(folder / name, root))
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _images(walk: Walk) -> str:
    files = [Path(path) for paths in walk.images().by_stem.values() for path in paths]
    return f"images in {places(files, walk.root)}" if files else "no images"


def _unknown(walk: Walk) -> UserError:
    """Return the error for a folder without annotations."""
    suffixes = Counter(os.path.splitext(name)[1].lower() or name for names in walk.folders.values() for name in names)
    content = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(8))
    lines = [f"  {name}: {layout.wanted}" for name, layout in LAYOUTS.items()]
    message = f"{walk.root} holds neither {' nor '.join(LAYOUTS)} annotations"
    return UserError(message, f"it holds {content}" if content else "it is empty", ["readable are:", *lines])
