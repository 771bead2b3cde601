"""Fetches a data set: archives are fetched, verified and unpacked beside their place, then moved into it."""

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
from cledet.data.download.fetch import Phase, fetch, verify
from cledet.data.shapes.dataset import shapes_folder
from cledet.errors import UserError
from cledet.safe_yaml import read_yaml

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

ELSEWHERE = "choose another folder by --to"


def download(chosen: DataSet, phase: Phase, *, keep: bool = False) -> bool:
    """Bring a data set to its place; returns False, having done nothing, where it is there already.

    Interrupted at any moment, it goes on from there when called again; until all archives are unpacked, nothing of
    them is in place. With `keep`, archives are left beside the data set. Raises UserError for all that can go wrong
    with network, disk and archives, and where something else is in the data set's place.
    """
    _refuse_other_yaml(chosen)
    try:
        done = _bring_all(chosen, phase, keep) if chosen.archives else _draw(chosen)
        if chosen.copy is not None and not chosen.copy.exists():
            shutil.copyfile(chosen.file, chosen.copy)
    except OSError as error:
        where = error.filename2 or error.filename or chosen.top
        raise UserError(f"{where} could not be written: {error.strerror or error}", ELSEWHERE) from error
    return done


def listing() -> list[dict[str, Any]]:
    """The data sets that ship: name, folder, the bytes of their archives, and whether they are there."""
    sets = [open_set(name) for name in SHIPPED]
    return [
        {
            "name": each.name,
            "folder": str(each.root),
            "bytes": sum(archive.bytes for archive in each.archives),
            "state": "begun" if each.work.exists() else "there" if each.complete else "not there",
            "yaml": str(each.file),
        }
        for each in sets
    ]


def _draw(chosen: DataSet) -> bool:
    if chosen.complete:
        return False
    chosen.home.mkdir(parents=True, exist_ok=True)
    shapes_folder(chosen.home)
    return True


def _bring_all(chosen: DataSet, phase: Phase, keep: bool) -> bool:
    if not chosen.work.exists():
        if chosen.complete:
            return False
        _refuse_remains(chosen)
    _refuse_small_disk(chosen, keep)
    with _work_folder(chosen) as work:
        if not all(_is_unpacked(chosen, archive) for archive in chosen.archives):
            if chosen.complete:  # an earlier download was interrupted while it cleared up
                shutil.rmtree(work)
                return False
            for archive in chosen.archives:
                _bring(chosen, archive, phase, keep)
        _refuse_lack(chosen)
        _settle(chosen)
        shutil.rmtree(work)
    return True


def _bring(chosen: DataSet, archive: Archive, phase: Phase, keep: bool) -> None:
    """Fetch and unpack one archive; one that the user already has is verified and left alone."""
    if _is_unpacked(chosen, archive):
        return
    own = chosen.home / archive.name
    if own.is_file():
        _verify_own(archive, own, phase)
        file = own
    else:
        file = fetch(archive, chosen.work, own, phase)
        file = Path(shutil.move(file, own)) if keep else file
    unpack(file, _draft(chosen) / chosen.target(archive).relative_to(chosen.top), phase)
    _mark(chosen, archive).write_text(archive.digest[1], encoding="utf-8")
    if file != own:
        file.unlink()


def _verify_own(archive: Archive, own: Path, phase: Phase) -> None:
    try:
        verify(archive, own, phase)
    except UserError as error:
        raise UserError(error.message, "move it away to have the right one fetched") from None


def _draft(chosen: DataSet) -> Path:
    """Where archives are unpacked until all of them are."""
    return chosen.work / "files"


def _mark(chosen: DataSet, archive: Archive) -> Path:
    """The file that says that an archive is unpacked."""
    return chosen.work / f"{archive.name}.done"


def _is_unpacked(chosen: DataSet, archive: Archive) -> bool:
    mark = _mark(chosen, archive)
    return mark.is_file() and mark.read_text(encoding="utf-8") == archive.digest[1]


def _settle(chosen: DataSet) -> None:
    """Move what was unpacked into place; a folder that is there already takes in what it lacks."""
    clash = next(_clashes(_draft(chosen), chosen.top), None)
    if clash is not None:
        raise UserError(f"{clash} is in the way of what was unpacked", "move it away and run the same command again")
    _move(_draft(chosen), chosen.top)


def _clashes(draft: Path, place: Path) -> Iterator[Path]:
    for entry in draft.iterdir():
        there = place / entry.name
        if entry.is_dir() and there.is_dir():
            yield from _clashes(entry, there)
        elif os.path.lexists(there):
            yield there


def _move(draft: Path, place: Path) -> None:
    for entry in sorted(draft.iterdir()):
        there = place / entry.name
        if there.is_dir():
            _move(entry, there)
        else:
            entry.rename(there)


def _refuse_remains(chosen: DataSet) -> None:
    """Raise UserError where a part of the data set is there that no download has left."""
    there = [path for path in chosen.wanted if path.exists()]
    if there:
        lacking = next(path for path in chosen.wanted if not path.exists())
        raise UserError(f"{there[0]} is there, but {lacking} is not", f"move it away, or {ELSEWHERE}")


def _refuse_lack(chosen: DataSet) -> None:
    """Raise UserError where the archives do not hold what the splits name."""
    for path in chosen.wanted:
        inside = chosen.top in path.parents and (_draft(chosen) / path.relative_to(chosen.top)).exists()
        if not inside and not path.exists():
            message = f"{chosen.file} names {path}, which none of its archives holds"
            raise UserError(message, f"mend its paths; what was unpacked is in {_draft(chosen)}")


def _refuse_small_disk(chosen: DataSet, keep: bool) -> None:
    """Raise UserError unless there is room for what is to be fetched and unpacked.

    Pictures do not shrink in an archive, so unpacked it counts as much as packed; `unpack` knows exactly, and asks
    again.
    """
    level = peak = 0
    for archive in chosen.archives:
        names = (chosen.home / archive.name, chosen.work / archive.name, chosen.work / f"{archive.name}.part")
        held = max((file.stat().st_size for file in names if file.is_file()), default=0)
        if _is_unpacked(chosen, archive) or held >= archive.bytes:
            continue
        level += archive.bytes - held + archive.bytes
        peak = max(peak, level)
        level -= 0 if keep else archive.bytes
    refuse_full_disk(chosen.top, peak, f"fetch and unpack {chosen.name}", f"make room, or {ELSEWHERE}")


@contextmanager
def _work_folder(chosen: DataSet) -> Iterator[Path]:
    """The folder of the download, for this process alone; gone afterwards if there is nothing in it."""
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
        # some network file systems know no locks


def _refuse_other_yaml(chosen: DataSet) -> None:
    """Raise UserError where the copy of the YAML would write over one that says something else."""
    if chosen.copy is None or not chosen.copy.exists():
        return
    try:
        same = read_yaml(chosen.copy) == read_yaml(chosen.file)
    except UserError:
        same = False
    if not same:
        raise UserError(f"{chosen.copy} is there and is not {chosen.file}", f"move it away, or {ELSEWHERE}")
