"""Cache of large indices, keyed by the content of their annotation files and mapped into memory.

Mapped columns belong to no process: workers and other runs share the pages of the file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from cledet.data.formats.paths import cache_folder, draft_of, read_blocks
from cledet.data.index import DetectionIndex

VERSION = 4
"""To be raised when the index of unchanged files changes."""
MIN_BYTES, BYTES_PER_FILE = 4_000_000, 1000
"""Annotation bytes from which an index is cached, since fewer are read quickly; each file counts for some more."""
MAX_INDICES = 16
"""Number of indices in the cache; the least recently used is deleted first."""


def cached(
    sources: Iterable[Path], options: str, read: Callable[[], DetectionIndex], *, need_images: bool = True
) -> DetectionIndex:
    """Return the cached index, else the result of `read`, which is then cached.

    `sources` are the annotation files; `options` is everything else that the index depends on. The index is read again
    if images are needed and have moved. An index with annotation errors is never cached, and a cache that cannot be
    written is skipped.
    """
    files = [file for file in sources if file.is_file()]
    if sum(file.stat().st_size + BYTES_PER_FILE for file in files) < MIN_BYTES:
        return read()
    folder = cache_folder() / "indices" / _digest(files, options)
    try:
        index = DetectionIndex.load(folder)
        os.utime(folder)
        if not need_images or _has_images(index):
            return index
    except (OSError, ValueError):
        pass  # not cached, or damaged
    index = read()
    return index if index.annotation_errors else _store(index, folder)


def _digest(files: Iterable[Path], options: str) -> str:
    """Hash the paths and contents of the files, and the options."""
    digest = hashlib.blake2b(f"{VERSION}\0{options}".encode("utf-8", "surrogatepass"), digest_size=20)
    for file in files:
        digest.update(f"\0{file}\0{file.stat().st_size}\0".encode("utf-8", "surrogatepass"))
        for block in read_blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _has_images(index: DetectionIndex) -> bool:
    """Return whether any of about 16 evenly spaced image files exists."""
    return any(os.path.isfile(path) for path in index.paths[:: max(1, len(index) // 16)].tolist())


def _store(index: DetectionIndex, folder: Path) -> DetectionIndex:
    """Write the index to the cache and map it from there; return it unchanged if the cache cannot be written."""
    try:
        with draft_of(folder) as draft:
            index.save(draft)
            shutil.rmtree(folder, ignore_errors=True)
        stored = sorted(folder.parent.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
        for entry in stored[MAX_INDICES:]:
            shutil.rmtree(entry, ignore_errors=True)
        return DetectionIndex.load(folder)
    except OSError:
        return index
