"""File names for the images of a copy: those of the source, changed only where two would be one."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from cledet.data.images import IMAGE_SUFFIXES

LONGEST_STEM = 240
"""Bytes of a stem, so that any suffix and number still fit into a file name."""
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_UNFIT_IN_LISTS = re.compile(r"[\x00-\x1f\x7f-\x9f\\\s\ufeff]")
"""The image lists of VOC end a name at a blank."""


def unique_names(paths: Sequence[str], *, blanks: bool = True) -> list[str]:
    """Return a file name for each image path, [I], no two of one stem, in any case and Unicode form.

    Names that are the same get the first folder that tells them apart as a prefix (cam1/7.jpg -> cam1_7.jpg), else a
    number. Control characters, backslashes and, without `blanks`, blanks become underscores.
    """
    unfit = _UNFIT if blanks else _UNFIT_IN_LISTS
    names = [_clean(os.path.basename(path), unfit) for path in paths]
    groups: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        groups[_key(name)].append(row)
    taken = set(groups)
    for rows in [rows for rows in groups.values() if len(rows) > 1]:
        prefixes = _distinct_folders([paths[row] for row in rows], unfit)
        for row, prefix in zip(rows, prefixes):
            names[row] = _free(f"{prefix}{names[row]}", taken, first=row == rows[0] and not prefix)
    return names


def _clean(name: str, unfit: re.Pattern[str]) -> str:
    """Return a name that is UTF-8 text of limited length, without unfit characters, and has an image's suffix."""
    text = unfit.sub("_", os.fsencode(name).decode("utf-8", "replace"))
    stem, suffix = os.path.splitext(text)
    if suffix.lower() not in IMAGE_SUFFIXES:
        stem, suffix = text, ".jpg"
    return stem.encode()[:LONGEST_STEM].decode("utf-8", "ignore") + suffix


def _key(name: str) -> str:
    """Return the stem as file systems may compare it."""
    return unicodedata.normalize("NFC", os.path.splitext(name)[0]).casefold()


def _distinct_folders(paths: Iterable[str], unfit: re.Pattern[str]) -> list[str]:
    """Return, for each path, the nearest folder that differs in all paths, as a prefix; "" if there is none."""
    parents = [os.path.dirname(path).split(os.sep)[::-1] for path in paths]
    for folders in zip(*parents):
        cleaned = [unfit.sub("_", os.fsencode(folder).decode("utf-8", "replace")) for folder in folders]
        if len({_key(f"{folder}.jpg") for folder in cleaned}) == len(parents):
            return [f"{folder}_" for folder in cleaned]
    return [""] * len(parents)


def _free(name: str, taken: set[str], *, first: bool) -> str:
    """Return the name, or the name with the lowest number that makes it new, and take it."""
    stem, suffix = os.path.splitext(name)
    stem = stem.encode()[:LONGEST_STEM].decode("utf-8", "ignore")
    candidate, number = f"{stem}{suffix}", 1
    while _key(candidate) in taken and not first:
        number += 1
        candidate = f"{stem}_{number}{suffix}"
    taken.add(_key(candidate))
    return candidate
