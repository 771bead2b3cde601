"""One walk of a data set's folder: its files by folder, and its images by name."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from cledet.data.formats.paths import UNDIVIDED_SPLIT, open_regular_file, split_kind, split_word
from cledet.data.images import IMAGE_SUFFIXES
from cledet.errors import UserError

MAX_ENTRIES = 5_000_000
"""Files and folders searched below one folder; the largest public data sets have two million images."""
HEAD = 65_536
"""Bytes of a file by which its format is recognised."""
SAMPLES = 64
"""Files of one suffix in one folder that are opened to find their format."""
Name = TypeVar("Name", str, Path)
IMAGE_FOLDERS = re.compile(r"im(age)?s?|imgs?|jpe?gs?(images)?|photos?|pics?|pictures?|pngs?|frames?", re.IGNORECASE)
"""Usual names of image folders, preferred where masks have the same names as images."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The files below a folder; hidden files and folders, and those of `__MACOSX`, are left out."""

    root: Path
    folders: dict[str, list[str]]
    """The sorted names of the files in each folder, by its absolute path; links to folders are followed once."""

    def files(self, suffixes: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
        """Yield each folder that has files with one of these lower-case suffixes, with their names."""
        for folder, names in self.folders.items():
            if found := [name for name in names if name.lower().endswith(suffixes)]:
                yield folder, found

    def lists(self) -> Iterator[tuple[Path, str]]:
        """Yield the text files that may be lists of a split, with their first line: in ImageSets, or called as one."""
        for folder, names in self.files((".txt",)):
            usual = "imagesets" in folder[len(str(self.root)) :].lower().split(os.sep)
            for name in names:
                if usual or split_word(name[:-4]) == name[:-4]:
                    yield Path(folder, name), first_line(read_head(Path(folder, name)))

    def has_images(self) -> bool:
        """Return whether there is an image."""
        return next(self.files(tuple(IMAGE_SUFFIXES)), None) is not None

    def images(self) -> ImageFiles:
        """Return the images, for look-up by name."""
        by_stem: dict[str, list[str]] = {}
        for folder, names in self.files(tuple(IMAGE_SUFFIXES)):
            for name in names:
                by_stem.setdefault(name[: name.rindex(".")], []).append(os.path.join(folder, name))
        return ImageFiles(by_stem, frozenset(os.path.dirname(path) for paths in by_stem.values() for path in paths))


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The image files below a folder, looked up by names that annotations give."""

    by_stem: dict[str, list[str]]
    """Absolute paths of the images, by file name without suffix."""
    folders: frozenset[str] = field(repr=False)
    """The folders of the images."""

    def find(self, name: str, near: str, *, unique: bool = False) -> str | None:
        """Return the image of a file name, which may have folders and may lack the suffix; None if there is none.

        Of several images, the annotation's is taken: first by the name's own folders, then by the split in the path of
        its folder `near`. Then counts the suffix, an image in `near` itself, one in a folder with a usual name, and
        the parts that both paths share. With unique=True, None if there are several, or one in other folders. None also
        if the image is of another split than `near` and not in that by its name, unless the split has no images.
        """
        *folders, file = name.replace("\\", "/").split("/")
        stem = file if file in self.by_stem else os.path.splitext(file)[0]
        found, home = self.by_stem.get(stem, []), near.split(os.sep)

        def rank(path: str) -> tuple[int, int, bool, bool, bool, int]:
            folder, own = os.path.split(path)
            parts = folder.split(os.sep)
            above = _common(reversed(parts), reversed(folders))
            return above, same_split(folder, near), own == file, folder == near, usual(parts), closeness(parts, home)

        if unique and (len(found) != 1 or rank(found[0])[0] < len(folders)):
            return None
        best = found[0] if len(found) == 1 else max(found, key=rank, default=None)
        if best is None or not is_of_another_split(os.path.dirname(best), near, self.folders):
            return best
        above = rank(best)[0]
        return best if any(map(split_word, folders[len(folders) - above :])) else None

    def unlisted(self, stems: Container[str], files: Sequence[str]) -> list[str]:
        """Return the images in the folders of these files whose stems are not among those given, sorted."""
        folders = {os.path.dirname(file) for file in files}
        others = (path for stem, paths in self.by_stem.items() if stem not in stems for path in paths)
        return sorted({path for path in others if os.path.dirname(path) in folders}.difference(files))


def walk_folder(root: Path, most: int = MAX_ENTRIES) -> Walk:
    """List all files below a folder.

    Raises UserError for the whole file system, and for a folder of more than `most` files and folders.
    """
    if root.resolve() == root.resolve().parent:
        raise UserError(f"the data set is the whole file system, {root}", "name its folder")
    folders: dict[str, list[str]] = {}
    entries, seen = 0, set()
    for parent, subfolders, names in os.walk(root, followlinks=True):
        identity = os.stat(parent)
        if (identity.st_dev, identity.st_ino) in seen:
            subfolders.clear()  # a link to a folder that was listed before
            continue
        seen.add((identity.st_dev, identity.st_ino))
        entries += len(subfolders) + len(names)
        if entries > most:
            raise UserError(f"{root} holds more than {most:,} files and folders", "name the data set's folder")
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "__MACOSX")
        folders[parent] = sorted(name for name in names if not name.startswith("."))
    return Walk(root, folders)


def closeness(parts: Sequence[str], others: Sequence[str]) -> int:
    """Count the parts of a folder's path that another folder has too, at the beginning and at the end.

    Among images/train and images/val, the former is closer to annotations/train.
    """
    return _common(parts, others) + _common(reversed(parts), reversed(others))


@lru_cache(maxsize=4096)
def same_split(folder: str, other: str) -> int:
    """Return 1 if two folders' paths hold the same split below what they share, -1 for different ones, else 0."""
    parts, others = folder.split(os.sep), other.split(os.sep)
    shared = _common(parts, others)
    own, wanted = _kind(parts[shared:]), _kind(others[shared:])
    return 0 if not own or not wanted else 1 if own == wanted else -1


def is_of_another_split(folder: str, near: str, folders: frozenset[str]) -> bool:
    """Return whether a folder's path holds another split than `near`, whose split one of `folders` has."""
    if same_split(folder, near) >= 0:
        return False
    home = near.split(os.sep)
    shared = _common(folder.split(os.sep), home)
    return _kind(home[shared:]) in _kinds_below(os.sep.join(home[:shared]), folders)


@lru_cache(maxsize=256)
def _kinds_below(above: str, folders: frozenset[str]) -> set[str]:
    """Return the kinds of the splits in the paths of folders below the folder `above`."""
    start = os.path.join(above, "")
    return {_kind(folder.removeprefix(start).split(os.sep)) for folder in folders if folder.startswith(start)}


def _kind(parts: Sequence[str]) -> str:
    """Return the kind of the split in the last of a path's folders that has one; "" if none has."""
    return split_kind(next(filter(None, map(split_word, reversed(parts))), ""))


def usual(parts: Iterable[str]) -> bool:
    """Return whether a folder of the path has a usual name of image folders."""
    return any(map(IMAGE_FOLDERS.fullmatch, parts))


def _common(parts: Iterable[str], others: Iterable[str]) -> int:
    count = 0
    for part, other in zip(parts, others):
        if part != other:
            break
        count += 1
    return count


def sample(files: Sequence[Name]) -> Sequence[Name]:
    """Return SAMPLES files or somewhat more, evenly spaced; all of fewer than twice as many."""
    return files[:: max(1, len(files) // SAMPLES)]


def read_head(file: Path) -> bytes:
    """Read the first HEAD bytes of a file; none of one that cannot be read, or is a pipe or device."""
    try:
        with open(file, "rb", opener=open_regular_file) as content:
            return content.read(HEAD)
    except OSError:
        return b""


def first_line(head: bytes) -> str:
    """Return the first line of a text that is not empty, stripped; "" if there is none."""
    return next(filter(None, map(str.strip, head.decode("utf-8-sig", "replace").split("\n"))), "")


def divide(paths: Iterable[Path], root: Path) -> dict[str, tuple[Path, ...]]:
    """Group files or folders by the split in their name, else in that of the nearest folder below `root` that has one.

    Paths without a split in their names are splits of their own if at least two others occur; else all are undivided.
    """
    words = {path: next(filter(None, map(split_word, path.relative_to(root).parts[::-1])), "") for path in paths}
    kinds = {split_kind(word) for word in words.values() if word}
    if "" in words.values() and len(kinds) < 2:
        return {UNDIVIDED_SPLIT: tuple(words)}
    splits: dict[str, list[Path]] = {}
    for path, word in words.items():
        splits.setdefault(word or path.stem, []).append(path)
    return {name: tuple(splits[name]) for name in sorted(splits)}
