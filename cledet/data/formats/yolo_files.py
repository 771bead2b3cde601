"""YOLO label files in any folders: darknet's, CVAT's and Roboflow's exports, and labels beside images."""

from __future__ import annotations

import os
from pathlib import Path

from cledet.data.formats.data_yaml import class_names
from cledet.data.formats.paths import read_lines
from cledet.data.formats.walk import ImageFiles, Walk, closeness, divide, same_split, usual, walk_folder
from cledet.data.formats.yolo import YoloFolder, is_image
from cledet.errors import UserError


def find_yolo_files(root: Path, files: list[Path]) -> YoloFolder | None:
    """Find the images of label files, and their splits: from lists of images, else from folder names.

    Returns None if no image has the name of a label file. Raises UserError for two labels of one image, and for files
    of class names that differ.
    """
    walk = walk_folder(root)
    images = walk.images()
    labels = _label_folders(files, images)
    if not labels:
        return None
    lists = _image_lists(walk, images)
    splits = lists if len(lists) > 1 else divide(map(Path, labels), root)
    return YoloFolder(splits, _class_names(walk, {*labels, *labels.values()}), root, labels=labels)


def _label_folders(files: list[Path], images: ImageFiles) -> dict[str, str]:
    """Return the folder of labels of each folder of images, by the names that files of both have in common.

    One folder of labels may serve several of images, unless these hold the same names, as folders of masks do.
    """
    stems: dict[tuple[str, str], set[str]] = {}
    for labels, name in map(os.path.split, files):
        stem = name[: name.rindex(".")]
        for path in images.by_stem.get(stem, ()):
            stems.setdefault((os.path.dirname(path), labels), set()).add(stem)

    def rank(pair: tuple[str, str]) -> tuple[bool, int, int, bool, int]:
        folder, other = (path.split(os.sep) for path in pair)
        return folder == other, same_split(*pair), len(stems[pair]), usual(folder), closeness(folder, other)

    chosen: dict[str, str] = {}
    for folder, labels in sorted(sorted(stems), key=rank, reverse=True):
        served = [pair for pair in chosen.items() if pair[1] == labels]
        if folder not in chosen and not any(stems[folder, labels] & stems[pair] for pair in served):
            chosen[folder] = labels
    for folder, labels in stems:
        if labels not in chosen.values():
            message = f"{chosen[folder]} and {labels} both hold labels of the images in {folder}"
            raise UserError(message, "pass a data.yaml, or a folder with one of them")
    return dict(sorted(chosen.items()))


def _image_lists(walk: Walk, images: ImageFiles) -> dict[str, tuple[Path, ...]]:
    """Find the lists of images, by name."""
    lists: dict[str, list[Path]] = {}
    for file, line in walk.lists():
        if is_image(line) and images.find(line, str(file.parent)):
            lists.setdefault(file.stem, []).append(file)
    return {name: tuple(lists[name]) for name in sorted(lists)}


def _class_names(walk: Walk, folders: set[str]) -> tuple[str, ...]:
    """Read the class names in classes.txt, *.names, _darknet.labels or a YAML file, above or beside images and labels.

    Raises UserError if two such files differ.
    """
    found: dict[tuple[str, ...], Path] = {}
    for folder, files in walk.files((".txt", ".names", ".labels", ".yaml", ".yml")):
        if any(other == folder or other.startswith(os.path.join(folder, "")) for other in folders):
            for file in files:
                if names := _names_in(folder, file):
                    found.setdefault(names, Path(folder, file))
    if len(found) > 1:
        first, second, *_ = found.values()
        raise UserError(f"{first} and {second} name the classes differently", "delete one, or pass a data.yaml")
    return next(iter(found), ())


def _names_in(folder: str, name: str) -> tuple[str, ...]:
    if name in ("classes.txt", "_darknet.labels") or name.endswith(".names"):
        return tuple(read_lines(Path(folder, name)))
    return class_names(Path(folder, name)) if name.endswith((".yaml", ".yml")) else ()
