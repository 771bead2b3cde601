"""Images of a split by id, path, file name or stem."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cledet.data.images import IMAGE_SUFFIXES
from cledet.data.index import DetectionIndex, Ints
from cledet.errors import UserError

ImageRef = str | int | float
"""Id or name of an image in a file."""
UNKNOWN, AMBIGUOUS = -1, -2
SHOWN = 5
"""Unknown ids or names that a message lists."""
HUGE = 1e300
"""Numbers from here on are not written out."""


def find_images(
    path: Path, file_names: Sequence[str] | None, ids: Sequence[ImageRef] | None, index: DetectionIndex
) -> tuple[Ints, str]:
    """Return the position in the split of each image of a file, and how they were identified.

    File names, if the file has any, are tried first, then ids, then ids as file names; all images have to be found in
    the same way. Raises UserError for images that the split does not have or does not tell apart.
    """
    finder = ImageFinder(index)
    attempts: list[tuple[str, Sequence[ImageRef], Callable[[ImageRef], int]]] = []
    if file_names is not None:
        attempts.append(("file name", file_names, finder.by_name))
    if ids is not None:
        attempts += [("id", ids, finder.by_id), ("file name", ids, finder.by_name)]
    best: tuple[Sequence[ImageRef], Ints] | None = None
    for how, refs, find in attempts:
        positions = np.fromiter(map(find, refs), np.int64, len(refs))
        if (positions >= 0).all():
            return positions, how
        if best is None or (positions != UNKNOWN).sum() > (best[1] != UNKNOWN).sum():
            best = refs, positions
    assert best is not None
    raise _error(path, *best, index, finder)


class ImageFinder:
    """Positions of a split's images by what a file calls them; UNKNOWN without a match, AMBIGUOUS with several."""

    def __init__(self, index: DetectionIndex) -> None:
        self.ids: dict[float, int] = {number: i for i, number in enumerate(index.image_ids.tolist())}
        self._parts = [path.replace("\\", "/").split("/") for path in index.paths.tolist()]
        self._names, self._stems = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
        self._numbers = defaultdict[float, list[int]](list)
        for i, parts in enumerate(self._parts):
            stem = os.path.splitext(parts[-1])[0]
            self._names[parts[-1]].append(i)
            self._stems[stem].append(i)
            if (number := _decimal(stem)) is not None:
                self._numbers[number].append(i)
        self._joined = self._by_joined_path()

    def by_id(self, ref: ImageRef) -> int:
        """Find an image by its id, which may be written as 7.0 or as text."""
        number = _decimal(ref) if isinstance(ref, str) else ref
        return UNKNOWN if number is None else self.ids.get(number, UNKNOWN)

    def by_name(self, ref: ImageRef) -> int:
        """Find an image by its path, file name or stem, or by the number that is its stem."""
        found = self.all_named(ref)
        return found[0] if len(found) == 1 else AMBIGUOUS if found else UNKNOWN

    def all_named(self, ref: ImageRef) -> list[int]:
        """Return the images with a name, of several those whose folders agree with most of the folders of a path."""
        if not isinstance(ref, str):
            return self._numbers.get(ref, [])
        parts = [part for part in ref.replace("\\", "/").split("/") if part not in ("", ".")]
        name = parts.pop() if parts else ""
        found = self._names.get(name) or self._stems.get(_stem(name)) or self._joined.get(_stem(name), [])
        if len(found) < 2 or not parts:
            return found
        agreeing = [_agreeing(parts, self._parts[i][:-1]) for i in found]
        most = max(agreeing)
        return [i for i, count in zip(found, agreeing) if count == most]

    def _by_joined_path(self) -> dict[str, list[int]]:
        """Group images by their path below the common folder, joined by "_" as Ultralytics names its label files."""
        folders = {tuple(parts[:-1]) for parts in self._parts}
        differ = (i for i, names in enumerate(zip(*folders)) if len({*names}) > 1)
        below = next(differ, min(map(len, folders), default=0))
        joined = defaultdict[str, list[int]](list)
        for i, parts in enumerate(self._parts):
            joined["_".join([*parts[below:-1], os.path.splitext(parts[-1])[0]])].append(i)
        return joined


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def _decimal(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def _agreeing(given: list[str], folders: list[str]) -> int:
    """Count the folders at the end of two paths that are equal."""
    pairs = zip(reversed(given), reversed(folders))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(given), len(folders)))


def _error(
    path: Path, refs: Sequence[ImageRef], positions: Ints, index: DetectionIndex, finder: ImageFinder
) -> UserError:
    """Return the error for images that were not found, or found several times."""
    unknown = [ref for ref, position in zip(refs, positions.tolist()) if position == UNKNOWN]
    if not unknown:
        ref = refs[int(np.argmax(positions == AMBIGUOUS))]
        several = [str(index.paths[i]) for i in finder.all_named(ref)]
        message = f"{path} names the image {shown([ref])}, but {index.name} has {len(several)} of that name: "
        return UserError(message + ", ".join(several[:3]), "name images by paths that tell them apart, or by ids")
    first = f"the first of the split is {os.path.basename(str(index.paths[0]))}, id {index.image_ids[0]}"
    for step, word in ((1, "lower"), (-1, "higher")):
        if len(refs) > 1 and all(isinstance(ref, int | float) and ref + step in finder.ids for ref in refs):
            first = f"each id is 1 {word} than one of the split: is the numbering off by one?"
    message = f"{path} names {len(unknown):,} of {len(refs):,} images that {index.name} does not have"
    return UserError(f"{message}: {shown(unknown)}", first)


def shown(refs: Sequence[ImageRef]) -> str:
    """List the first ids or names for a message."""
    texts = [
        ref[:80] if isinstance(ref, str) else f"{ref:.17g}" if not abs(ref) >= HUGE else "..." for ref in refs[:SHOWN]
    ]
    return ", ".join(texts) + (" ..." if len(refs) > SHOWN else "")
