"""Download of a data set: archives are fetched, verified and extracted to a work folder, then moved into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cledet.data.download.archives import Archive, DataSet
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
    if chosen.copy is not None and chosen.copy.exists() and read_yaml(chosen.copy) != read_yaml(chosen.file):
        raise UserError(f"{chosen.copy} exists and differs from {chosen.file}", f"move it away, or {ELSEWHERE}")
    try:
        done = _fetch_all(chosen, phase, keep) if chosen.archives else not chosen.complete
        if not chosen.archives:
            shapes_folder(chosen.home)
        if chosen.copy is not None and not chosen.copy.exists():
            shutil.copyfile(chosen.file, chosen.copy)
    except OSError as error:
        where = error.filename2 or error.filename or chosen.top
        raise UserError(f"{where} could not be written: {error.strerror or error}", ELSEWHERE) from error
    return done


def _fetch_all(chosen: DataSet, phase: Phase, keep: bool) -> bool:
    """Fetch and extract the archives to `files` in the work folder, which becomes `ready` when all are complete."""
    if not chosen.work.exists():
        if chosen.complete:
            return False
        _refuse_partial(chosen)
    with _work_folder(chosen) as work:
        draft, ready = work / "files", work / "ready"
        if not ready.exists():
            if chosen.complete:  # an earlier download was interrupted while deleting its work folder
                shutil.rmtree(work)
                return False
            if draft.exists():
                shutil.rmtree(draft)
            _refuse_small_disk(chosen)
            for archive in chosen.archives:
                file = _own_archive(chosen, archive, phase) or fetch(archive, work, chosen.home / archive.name, phase)
                unpack(file, draft / chosen.target(archive).relative_to(chosen.top), phase)
            _refuse_incomplete(chosen, draft)
            draft.rename(ready)
        _move_into_place(chosen, ready)
        for archive in chosen.archives if keep else ():
            if (work / archive.name).exists():
                shutil.move(work / archive.name, chosen.home / archive.name)
        shutil.rmtree(work)
    return True


def _own_archive(chosen: DataSet, archive: Archive, phase: Phase) -> Path | None:
    """Return the archive that the user already has beside the data set, verified; it is kept."""
    file = chosen.home / archive.name
    if not file.is_file():
        return None
    try:
        verify(archive, file, phase)
    except UserError as error:
        raise UserError(error.message, "move it away to have the right one fetched") from None
    return file


def _move_into_place(chosen: DataSet, ready: Path) -> None:
    """Move the extracted files into place; existing folders are merged, existing files are an error."""
    moves = list(_moves(ready, chosen.top))
    conflict = next((target for _, target in moves if os.path.lexists(target)), None)
    if conflict is not None:
        message = f"{conflict} is in the way of the extracted files"
        raise UserError(message, "move it away and run the same command again")
    for source, target in moves:
        source.rename(target)


def _moves(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    for entry in sorted(source.iterdir()):
        if entry.is_dir() and (target / entry.name).is_dir():
            yield from _moves(entry, target / entry.name)
        else:
            yield entry, target / entry.name


def _refuse_partial(chosen: DataSet) -> None:
    """Raise UserError if a part of the data set exists that is not from an unfinished download."""
    existing = [path for path in chosen.wanted if path.exists()]
    if existing:
        lacking = next(path for path in chosen.wanted if not path.exists())
        raise UserError(f"{existing[0]} exists, but {lacking} does not", f"move it away, or {ELSEWHERE}")


def _refuse_incomplete(chosen: DataSet, draft: Path) -> None:
    """Raise UserError if the archives lack a file or folder of the splits."""
    for path in chosen.wanted:
        inside = chosen.top in path.parents and (draft / path.relative_to(chosen.top)).exists()
        if not inside and not path.exists():
            message = f"{chosen.file} names {path}, which is in none of its archives"
            raise UserError(message, f"correct its paths; the extracted files are in {draft}")


def _refuse_small_disk(chosen: DataSet) -> None:
    """Raise UserError unless the disk has room for the missing archives and their extracted files.

    Images are not compressed further in an archive, so both are counted alike; `unpack` checks the exact size.
    """
    needed = 0
    for archive in chosen.archives:
        files = (chosen.home / archive.name, chosen.work / archive.name, partial_file(archive, chosen.work))
        received = max((file.stat().st_size for file in files if file.is_file()), default=0)
        needed += 2 * archive.bytes - received if received < archive.bytes else 0
    refuse_full_disk(chosen.top, needed, f"fetch and unpack {chosen.name}", f"make room, or {ELSEWHERE}")


@contextmanager
def _work_folder(chosen: DataSet) -> Iterator[Path]:
    """Create and lock the work folder for this process; remove it afterwards if it is empty."""
    fresh = not chosen.top.exists()
    chosen.work.mkdir(parents=True, exist_ok=True)
    handle = os.open(chosen.work, os.O_RDONLY) if fcntl else None
    try:
        if handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another process is fetching {chosen.name} into {chosen.work}") from None
            except OSError:
                pass  # some network file systems have no locks
        yield chosen.work
    finally:
        if handle is not None:
            os.close(handle)
        with suppress(OSError):
            chosen.work.rmdir()
            if fresh:
                chosen.top.rmdir()
