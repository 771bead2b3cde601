"""YOLO label files in any folders: darknet's, CVAT's and Roboflow's exports, and labels beside images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from cledet.data.formats.paths import read_lines, split_word
from cledet.data.formats.walk import ImageFiles, Walk, closeness, divide, first_line, read_head, usual, walk_folder
from cledet.data.formats.yolo import YoloFolder, is_image
from cledet.errors import UserError

SAMPLES = 64
"""Label files of a folder whose images are searched for, to find the folder of the others."""


def find_yolo_files(root: Path, files: list[Path]) -> YoloFolder | None:
    """Find the images of label files, and their splits: from lists of images, else from folder names.

    Returns None if no image has the name of a label file. Raises UserError for folders with two labels per image, and
    for files of class names that differ.
    """
    walk = walk_folder(root)
    images = walk.images()
    stems: dict[str, list[str]] = {}
    for file in files:
        stems.setdefault(str(file.parent), []).append(file.stem)
    label_folders: dict[str, str] = {}
    for labels, names in sorted(stems.items()):
        folder = _image_folder(labels, names, images)
        if folder in label_folders:
            message = f"{label_folders[folder]} and {labels} both hold labels of the images in {folder}"
            raise UserError(message, "pass a data.yaml, or a folder with one of them")
        if folder:
            label_folders[folder] = labels
    if not label_folders:
        return None
    splits = image_lists(walk, images) or divide(map(Path, label_folders), root)
    names = _class_names(walk, {*label_folders, *label_folders.values()})
    return YoloFolder({name: tuple(entries) for name, entries in splits.items()}, names, root, labels=label_folders)


def _image_folder(labels: str, stems: list[str], images: ImageFiles) -> str:
    """Return the folder that holds most images of these label files; "" if no folder holds any."""
    sample = stems[:: max(1, len(stems) // SAMPLES)]
    counts = Counter(os.path.dirname(path) for stem in sample for path in images.by_stem.get(stem, ()))
    home = labels.split(os.sep)

    def rank(folder: str) -> tuple[int, bool, bool, int]:
        parts = folder.split(os.sep)
        return counts[folder], folder == labels, usual(parts), closeness(parts, home)

    return max(sorted(counts), key=rank, default="")


def image_lists(walk: Walk, images: ImageFiles) -> dict[str, list[Path]]:
    """Find the lists of images: text files called as a split, whose first line names an image of the folder."""
    lists: dict[str, list[Path]] = {}
    for file in (file for group in walk.files((".txt",)) for file in group):
        if split_word(file.stem) == file.stem:
            line = first_line(read_head(file))
            if is_image(line) and images.find(line, str(file.parent)):
                lists.setdefault(file.stem, []).append(file)
    return dict(sorted(lists.items()))


def _class_names(walk: Walk, folders: set[str]) -> tuple[str, ...]:
    """Read the class names in classes.txt, *.names or _darknet.labels above or beside images and labels.

    Raises UserError if two such files differ.
    """
    found: dict[tuple[str, ...], Path] = {}
    for folder, names in walk.folders.items():
        if any(other == folder or other.startswith(os.path.join(folder, "")) for other in folders):
            files = [name for name in names if name in ("classes.txt", "_darknet.labels") or name.endswith(".names")]
            found |= {tuple(read_lines(Path(folder, name))): Path(folder, name) for name in files}
    if len(found) > 1:
        first, second, *_ = found.values()
        raise UserError(f"{first} and {second} name the classes differently", "delete one, or pass a data.yaml")
    return next(iter(found), ())
