"""YOLO label files of a folder: in the usual places, or in any: darknet's, CVAT's and Roboflow's exports."""

from __future__ import annotations

import os
from pathlib import Path

from cledet.data.formats.data_yaml import class_names
from cledet.data.formats.paths import UNDIVIDED_SPLIT, join_paths, read_lines, split_word
from cledet.data.formats.walk import (
    ImageFiles,
    Walk,
    closeness,
    divide,
    first_line,
    read_head,
    same_split,
    usual,
    walk_folder,
)
from cledet.data.formats.yolo import YoloFolder, is_image, label_file, sniff_yolo
from cledet.errors import UserError


def find_yolo(folder: Path) -> YoloFolder | None:
    """Find the splits of a folder without YAML: images/SPLIT, SPLIT/images, or images with labels in labels/ or beside.

    Images without a split folder are divided by lists of images in the folder, at least two of them, else they are one
    split, UNDIVIDED_SPLIT. Returns None for a folder that is not YOLO's. Raises UserError for files of class names that
    differ.
    """
    images, labels = folder / "images", folder / "labels"
    splits = {part.name: part for part in _folders(images) if _holds_images(images)}
    if not any((labels / name).is_dir() for name in splits):
        parts = [part for part in _folders(folder) if (part / "images").is_dir() and (part / "labels").is_dir()]
        splits = {part.name: part / "images" for part in parts}
    if not splits and labels.is_dir() and _holds_images(images) and not _labels_are_elsewhere(images, labels):
        splits = {UNDIVIDED_SPLIT: images}
    if any(map(_holds_other_formats, [labels, *(part.parent / "labels" for part in splits.values())])):
        return None
    if not splits and any(is_image(str(file)) and _has_labels_beside(file) for file in folder.iterdir()):
        splits = {UNDIVIDED_SPLIT: folder}
    if not splits:
        return None
    places = {str(part) for part in splits.values()}
    places |= {os.path.dirname(label_file(os.path.join(place, "x.jpg"))) for place in places}
    if UNDIVIDED_SPLIT in splits and len(lists := _lists_in(folder)) > 1:
        splits = lists
    above = {
        str(path) for place in places for path in (Path(place), *Path(place).parents) if path.is_relative_to(folder)
    }
    listed = {path: sorted(os.listdir(path)) for path in sorted(above) if os.path.isdir(path)}  # no search of all files
    return YoloFolder(
        {name: (part,) for name, part in splits.items()}, _class_names(Walk(folder, listed), places), folder
    )


def _holds_images(folder: Path) -> bool:
    """Test whether a folder or one in it holds an image."""
    return any(is_image(name) for _, _, names in os.walk(folder) for name in names)


def _labels_are_elsewhere(images: Path, labels: Path) -> bool:
    """Return whether there are labels, but none where `label_file` finds those of the images."""
    paths = (os.path.join(folder, name) for folder, _, names in os.walk(images) for name in names if is_image(name))
    return not any(os.path.isfile(label_file(path)) for path in paths) and any(labels.rglob("*.txt"))


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


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _has_labels_beside(image: Path) -> bool:
    """Return whether an image's label file is beside it; below a folder `images`, `label_file` would not find it."""
    file = image.with_suffix(".txt")
    return label_file(str(image)) == str(file) and sniff_yolo(file)


def _holds_other_formats(labels: Path) -> bool:
    """Return whether a folder has XML, JSON or CSV files, and none of YOLO's."""
    suffixes = set()
    for file in labels.rglob("*.*"):
        suffixes.add(file.suffix)
        if file.suffix == ".txt":
            return False
    return not suffixes.isdisjoint((".xml", ".json", ".csv"))


def _lists_in(folder: Path) -> dict[str, Path]:
    """Return the lists of images in a folder that are called as a split, such as train.txt."""
    files = [file for file in sorted(folder.glob("*.txt")) if split_word(file.stem) == file.stem]
    first = [join_paths(folder, [first_line(read_head(file))])[0] for file in files]
    return {file.stem: file for file, image in zip(files, first) if is_image(image) and os.path.isfile(image)}


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
