"""The image files of a COCO annotation file: in a usual folder, or below the data set's folder by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from cledet.data.formats.paths import is_inside, join_paths, split_word
from cledet.data.formats.walk import ImageFiles, is_of_another_split, same_split, walk_folder
from cledet.errors import UserError

SEARCHED = 500_000
"""Files and folders up to which a folder is searched for images that are in none of the usual places."""


def own_folder(file: Path, split: str) -> str:
    """Return the folder of an annotation file, extended by the split in the file's name, else in that of its split.

    Images in folders of the same split belong to it: images/val to annotations/custom_val.json.
    """
    word = split_word(file.stem) or split_word(split)
    return os.path.join(file.parent, word) if word else str(file.parent)


def find_images(file: Path, names: Sequence[str], split: str, near: str, root: Path | None) -> Path:
    """Find the folder that holds most of these file names, among the usual image folders of COCO data sets.

    Of folders that hold as many, one below `root` of the split in the path `near` is taken; and none of another split
    if one of this split holds any. Falls back to the annotation file's own folder.
    """
    sample = names[:: max(1, len(names) // 16)]
    home, named = file.parent, (file.stem.removeprefix("instances_"), split, os.path.basename(near))
    parents = (home, home.parent)
    candidates = [home, *(parent / name for parent in parents for name in (*named, "images") if name)]
    candidates += [home.parent, *(home.parent / "images" / name for name in named)]
    candidates += [entry for parent in parents for entry in sorted(parent.iterdir()) if entry.is_dir()]
    counts = {folder: sum(map(os.path.isfile, join_paths(folder, sample))) for folder in candidates}
    holding = frozenset(str(folder) for folder, count in counts.items() if count)

    def rank(folder: Path) -> tuple[bool, int, int]:
        path, count = str(folder), counts[folder]
        comparable = count and near != str(home) and (root is None or is_inside(path, (root,)))
        return not is_of_another_split(path, near, holding), count, same_split(path, near) if comparable else 0

    return max(counts, key=rank)


def search_images(names: Sequence[str], paths: list[str], near: str, root: Path, alone: bool) -> list[str]:
    """Return the paths with those of missing images replaced by the only image below `root` of that name.

    Of several images of one name, that closest to `near` is taken if no image of the file is at its path. None is taken
    for several names.
    """
    some = any(map(os.path.isfile, paths[:: max(1, len(paths) // 16)]))
    missing = [row for row, path in enumerate(paths) if not os.path.isfile(path)] if alone or not some else []
    if not missing:
        return paths
    try:
        images = walk_folder(root, SEARCHED).images()
    except UserError:
        return paths
    found = _find_all(images, (names[row] for row in missing), near, unique=some)
    replaced = {row: found.get(names[row]) for row in missing}
    return [replaced.get(row) or path for row, path in enumerate(paths)]


def find_foreign(names: Sequence[str], allowed: Sequence[Path], near: str, root: Path) -> list[str]:
    """Return the file names with absolute paths outside the `allowed` folders replaced by those of images below `root`.

    An image is found by its name, by preference close to `near`. A path without such an image, or with the same as
    another path, stays if it exists, for the caller to refuse; else it becomes one below `root` that has no file.
    """
    paths = {row: name.replace("\\", "/") for row, name in enumerate(names)}
    foreign = {row: p for row, p in paths.items() if os.path.isabs(p) and not is_inside(os.path.normpath(p), allowed)}
    if not foreign:
        return list(names)
    try:
        images = walk_folder(root, SEARCHED).images()
    except UserError:
        return list(names)
    found = _find_all(images, foreign.values(), near)
    for path in set(foreign.values()).difference(found):
        found[path] = path if os.path.exists(path) else os.path.join(root, os.path.normpath(path).lstrip("/"))
    return [found.get(foreign.get(row, ""), name) for row, name in enumerate(names)]


def _find_all(images: ImageFiles, names: Iterable[str], near: str, *, unique: bool = False) -> dict[str, str]:
    """Return the image of each name that has one, but none of several names."""
    found = {name: image for name in names if (image := images.find(name, near, unique=unique))}
    claims = Counter(found.values())
    return {name: image for name, image in found.items() if claims[image] == 1}
