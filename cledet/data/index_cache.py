"""Large indices kept in the cache, by the content of what they were read from, and mapped into memory from there.

Mapped columns are no process's own memory: workers and other runs share the pages with the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from cledet.data.formats.paths import cache_folder
from cledet.data.index import COLUMNS, DetectionIndex

VERSION = 1
"""To be raised when what an index says of the same files changes."""
WORTHWHILE, A_FILE = 4_000_000, 1000
"""From how many bytes of annotations on an index is kept, as less is read in no time; a file counts as A_FILE more."""
KEPT = 16
"""How many indices the cache holds; the one that was not used for longest goes first."""


def cached(
    sources: Iterable[Path], options: str, read: Callable[[], DetectionIndex], *, need_images: bool = True
) -> DetectionIndex:
    """The index that `read` gives, from the cache where it is there.

    sources: the annotation files that it is read from; options: all else that it depends on. It is read where the
    cache cannot be written, and where images are needed and have gone from where it says they are. One with faults is
    not kept.
    """
    files = [file for file in sources if file.is_file()]
    if sum(file.stat().st_size + A_FILE for file in files) < WORTHWHILE:
        return read()
    folder = cache_folder() / "indices" / _digest(files, options)
    try:
        found = DetectionIndex.mapped(folder)
        os.utime(folder)
    except (OSError, ValueError):
        found = None
    if found is not None and (not need_images or _has_images(found)):
        return found
    index = read()
    return index if index.annotation_errors else _kept(index, folder)


def _digest(files: Iterable[Path], options: str) -> str:
    """A name for the content of the files, where they are, and the options."""
    digest = hashlib.blake2b(f"{VERSION}\0{options}".encode("utf-8", "surrogatepass"), digest_size=20)
    for file in files:
        digest.update(f"\0{file}\0{file.stat().st_size}\0".encode("utf-8", "surrogatepass"))
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _has_images(index: DetectionIndex) -> bool:
    """Whether one of a few images, evenly spaced, is where the index says."""
    few = index.paths[:: max(1, len(index) // 16)].tolist()
    return any(os.path.isfile(path) for path in few)


def _kept(index: DetectionIndex, folder: Path) -> DetectionIndex:
    """The index mapped from the cache, once it is there; if that cannot be written, as it is."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
        try:
            _write(index, draft)
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        _prune(folder.parent)
        return DetectionIndex.mapped(folder)
    except OSError:
        return index


def _write(index: DetectionIndex, folder: Path) -> None:
    words = {"name": index.name, "classes": index.classes, "notes": index.notes}
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")
    for column in COLUMNS:
        np.save(folder / f"{column}.npy", getattr(index, column))


def _prune(home: Path) -> None:
    stored = sorted(home.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in stored[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)
