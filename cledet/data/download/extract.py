"""Unpacks archives that nobody need trust: plain files and folders only, all of them inside the folder."""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cledet.data.download.fetch import CHUNK, Phase, in_words
from cledet.errors import UserError

DAMAGES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError)
"""What reading a damaged or strange archive raises."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file or a folder in an archive; `fault` says what makes it neither."""

    name: str
    size: int
    folder: bool
    fault: str
    open: Callable[[], IO[bytes] | None]


def unpack(file: Path, folder: Path, phase: Phase) -> None:
    """Unpack a zip or tar file into a folder; what is there already is written over.

    No member is written before all of them were looked at. Raises UserError for a damaged archive, a member that is a
    link, a device or outside of the folder, and where the disk has no room for what the archive declares.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _open(file) as members:
            for member in members:
                if fault := member.fault or _fault(member.name):
                    raise UserError(f"{file.name} was not unpacked: its member '{member.name}' {fault}")
            total = sum(member.size for member in members)
            refuse_full_disk(folder, sum(_growth(member, folder) for member in members), f"unpack {file.name}")
            with phase(f"unpacking {file.name}, {len(members):,} files, {in_words(total)}", total) as steps:
                done = 0
                for member in members:
                    done += _write(member, folder)
                    steps.set(done, total)
    except DAMAGES as error:
        raise UserError(f"{file.name} is damaged or of an unknown kind: {error}") from None
    except OSError as error:
        raise UserError(f"{file.name} could not be unpacked into {folder}: {error.strerror or error}") from None


def refuse_full_disk(folder: Path, needed: int, purpose: str, hint: str = "make room and try again") -> None:
    """Raise UserError where a folder's disk has less room than needed."""
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(f"to {purpose} takes {in_words(needed)}, and {there} has {in_words(free)} of room", hint)


@contextmanager
def _open(file: Path) -> Iterator[list[Member]]:
    """The members of an archive, to be read while it is open."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            yield [_zip_member(archive, info) for info in archive.infolist()]
    else:
        with tarfile.open(file) as archive_:
            yield [_tar_member(archive_, info) for info in archive_.getmembers()]


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where no Unix made the archive
    fault = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "is a link or a device"
    fault = "is encrypted" if info.flag_bits & 1 else fault
    return Member(info.filename, info.file_size, info.is_dir(), fault, lambda: archive.open(info))


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    fault = "" if info.isreg() or info.isdir() else "is a link or a device"
    return Member(info.name, info.size, info.isdir(), fault, lambda: archive.extractfile(info))


def _fault(name: str) -> str:
    """What is wrong with a member's name, if anything."""
    if name.startswith("/") or re.match("[A-Za-z]:", name) or "\\" in name or "\0" in name:
        return "is not a relative path"
    return "leads out of the folder" if ".." in name.split("/") else ""


def _growth(member: Member, folder: Path) -> int:
    """The bytes by which a member is larger than what an interrupted unpacking has left of it."""
    path = folder / member.name
    return max(member.size - (path.stat().st_size if path.is_file() else 0), 0)


def _write(member: Member, folder: Path) -> int:
    """Write one member, of which no more than it declares is read; returns its size."""
    path = folder / member.name
    if member.folder:
        path.mkdir(parents=True, exist_ok=True)
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    content = member.open()
    assert content is not None, member.name
    with content, path.open("wb") as file:
        while chunk := content.read(min(CHUNK, member.size - written)):
            file.write(chunk)
            written += len(chunk)
    if written != member.size:
        raise EOFError(f"{member.name} has {written:,} bytes, expected {member.size:,}")
    return written
