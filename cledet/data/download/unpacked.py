"""Zip files of data sets: unpacked once into the cache, in a folder named by the content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cledet.data.download.extract import unpack
from cledet.data.download.fetch import Phase, Steps
from cledet.data.formats.paths import cache_folder, draft_of, read_blocks
from cledet.errors import UserError


class _NoSteps:
    """A progress display that shows nothing."""

    def set(self, done: int, total: int) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Print nothing."""


@contextmanager
def silent(title: str, total: int) -> Iterator[Steps]:
    """Display no progress."""
    yield _NoSteps()


def unpacked(file: Path, phase: Phase) -> Path:
    """Return the folder in the cache with the content of a zip file, which is unpacked the first time.

    Raises UserError for a file that `unpack` refuses, and for a cache that cannot be written.
    """
    try:
        digest = hashlib.blake2b(digest_size=16)
        for block in read_blocks(file):
            digest.update(block)
        folder = cache_folder() / "zips" / digest.hexdigest()
        if not folder.is_dir():
            _unpack(file, folder, phase)
        return folder
    except OSError as error:
        where = error.filename2 or error.filename or file
        hint = "CLEDET_CACHE names another folder for the cache"
        raise UserError(f"{file.name} cannot be unpacked: {where}: {error.strerror or error}", hint) from None


def _unpack(file: Path, folder: Path, phase: Phase) -> None:
    """Unpack a file beside the folder and rename it; another process may have done so in the meantime."""
    try:
        with draft_of(folder) as draft:
            unpack(file, draft, phase)
    except OSError:
        if not folder.is_dir():
            raise
