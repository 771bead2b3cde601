"""Download of a data set: archives are fetched, verified and extracted to a work folder, then moved into place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cledet.data.download.archives import SHIPPED, Archive, DataSet, open_set
from cledet.data.download.extract import refuse_full_disk, unpack
from cledet.data.download.fetch import Phase, fetch, partial_file, verify
from cledet.data.shapes.dataset import shapes_folder
from cledet.errors import UserError
from cledet.safe_yaml import read_yaml

try:
    import fcntl
except ImportError:  # not Unix
    fcntl = None  # type: ignore[assignment]

ELSEWHERE = "choose another folder with --to"


def download(chosen: DataSet, phase: Phase, *, keep: bool = False) -> bool:
    """Download a data set, or draw it; return False if it exists already.

    An interrupted download is resumed by the next call; no file is in place until all archives are extracted. With
    `keep`, archives are kept beside the data set. Raises UserError for errors of network, disk and archives, and if
    other files are in the data set's place.
    """
    _refuse_other_yaml(chosen)
    try:
        done = _fetch_all(chosen, phase, keep) if chosen.archives else _draw(chosen)
        if chosen.copy is not None and not chosen.copy.exists():
            shutil.copyfile(chosen.file, chosen.copy)
    except OSError as error:
        where = error.filename2 or error.filename or chosen.top
        raise UserError(f"{where} could not be written: {error.strerror or error}", ELSEWHERE) from error
    return done


def listing() -> list[dict[str, Any]]:
    """Return name, folder, archive bytes and state of each shipped data set."""
    return [
        {
            "name": shipped.name,
            "folder": str(shipped.root),
            "bytes": sum(archive.bytes for archive in shipped.archives),
            "state": "begun" if shipped.work.exists() else "there" if shipped.complete else "not there",
            "yaml": str(shipped.file),
        }
        for shipped in map(open_set, SHIPPED)
    ]


def _draw(chosen: DataSet) -> bool:
    if chosen.complete:
        return False
    chosen.home.mkdir(parents=True, exist_ok=True)
    shapes_folder(chosen.home)
    return True


def _fetch_all(chosen: DataSet, phase: Phase, keep: bool) -> bool:
    if not chosen.work.exists():
        if chosen.complete:
            return False
        _refuse_partial(chosen)
    _refuse_small_disk(chosen, keep)
    with _work_folder(chosen) as work:
        if not all(_is_unpacked(chosen, archive) for archive in chosen.archives):
            if chosen.complete:  # an earlier download was interrupted while deleting its work folder
                shutil.rmtree(work)
                return False
            for archive in chosen.archives:
                _fetch_one(chosen, archive, phase, keep)
        _refuse_incomplete(chosen)
        _move_into_place(chosen)
        shutil.rmtree(work)
    return True


def _fetch_one(chosen: DataSet, archive: Archive, phase: Phase, keep: bool) -> None:
    """Fetch and extract one archive; one that the user already has is verified and kept."""
    if _is_unpacked(chosen, archive):
        return
    own = chosen.home / archive.name
    if own.is_file():
        try:
            verify(archive, own, phase)
        except UserError as error:
            raise UserError(error.message, "move it away to have the right one fetched") from None
        file = own
    else:
        file = fetch(archive, chosen.work, own, phase)
        file = Path(shutil.move(file, own)) if keep else file
    unpack(file, _draft(chosen) / chosen.target(archive).relative_to(chosen.top), phase)
    _mark(chosen, archive).write_text(archive.digest[1], encoding="utf-8")
    if file != own:
        file.unlink()


def _draft(chosen: DataSet) -> Path:
    """Return the folder that archives are extracted to until all are complete."""
    return chosen.work / "files"


def _mark(chosen: DataSet, archive: Archive) -> Path:
    """Return the file that marks an archive as extracted; it holds the archive's digest."""
    return chosen.work / f"{archive.name}.done"


def _is_unpacked(chosen: DataSet, archive: Archive) -> bool:
    mark = _mark(chosen, archive)
    return mark.is_file() and mark.read_text(encoding="utf-8") == archive.digest[1]


def _move_into_place(chosen: DataSet) -> None:
    """Move the extracted files into place; existing folders are merged, existing files are an error."""
    conflict = next(_conflicts(_draft(chosen), chosen.top), None)
    if conflict is not None:
        message = f"{conflict} is in the way of the extracted files"
        raise UserError(message, "move it away and run the same command again")
    _move(_draft(chosen), chosen.top)


def _conflicts(source: Path, target: Path) -> Iterator[Path]:
    for entry in source.iterdir():
        existing = target / entry.name
        if entry.is_dir() and existing.is_dir():
            yield from _conflicts(entry, existing)
        elif os.path.lexists(existing):
            yield existing


def _move(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        destination = target / entry.name
        if destination.is_dir():
            _move(entry, destination)
        else:
            entry.rename(destination)


def _refuse_partial(chosen: DataSet) -> None:
    """Raise UserError if a part of the data set exists that is not from an unfinished download."""
    existing = [path for path in chosen.wanted if path.exists()]
    if existing:
        lacking = next(path for path in chosen.wanted if not path.exists())
        raise UserError(f"{existing[0]} exists, but {lacking} does not", f"move it away, or {ELSEWHERE}")


def _refuse_incomplete(chosen: DataSet) -> None:
    """Raise UserError if the archives lack a file or folder of the splits."""
    for path in chosen.wanted:
        inside = chosen.top in path.parents and (_draft(chosen) / path.relative_to(chosen.top)).exists()
        if not inside and not path.exists():
            message = f"{chosen.file} names {path}, which is in none of its archives"
            raise UserError(message, f"correct its paths; the extracted files are in {_draft(chosen)}")


def _refuse_small_disk(chosen: DataSet, keep: bool) -> None:
    """Raise UserError unless the disk has room for the archives and the extracted files.

    Images are not compressed further in an archive, so both are counted alike; `unpack` checks the exact size.
    """
    level = peak = 0
    for archive in chosen.archives:
        files = (chosen.home / archive.name, chosen.work / archive.name, partial_file(archive, chosen.work))
        received = max((file.stat().st_size for file in files if file.is_file()), default=0)
        if _is_unpacked(chosen, archive) or received >= archive.bytes:
            continue
        level += archive.bytes - received + archive.bytes
        peak = max(peak, level)
        level -= 0 if keep else archive.bytes
    refuse_full_disk(chosen.top, peak, f"fetch and unpack {chosen.name}", f"make room, or {ELSEWHERE}")


@contextmanager
def _work_folder(chosen: DataSet) -> Iterator[Path]:
    """Create and lock the work folder for this process; remove it afterwards if it is empty."""
    fresh = not chosen.top.exists()
    chosen.work.mkdir(parents=True, exist_ok=True)
    handle = os.open(chosen.work, os.O_RDONLY) if fcntl else None
    try:
        if handle is not None:
            _lock(handle, chosen)
        yield chosen.work
    finally:
        if handle is not None:
            os.close(handle)
        with suppress(OSError):
            chosen.work.rmdir()
            if fresh:
                chosen.top.rmdir()


def _lock(handle: int, chosen: DataSet) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(f"another process is fetching {chosen.name} into {chosen.work}") from None
        # some network file systems have no locks


def _refuse_other_yaml(chosen: DataSet) -> None:
    """Raise UserError if the copy of the YAML would overwrite one with other content."""
    if chosen.copy is None or not chosen.copy.exists():
        return
    try:
        same = read_yaml(chosen.copy) == read_yaml(chosen.file)
    except UserError:
        same = False
    if not same:
        raise UserError(f"{chosen.copy} exists and differs from {chosen.file}", f"move it away, or {ELSEWHERE}")
