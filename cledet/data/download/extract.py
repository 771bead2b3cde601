"""Safe extraction of untrusted archives: regular files and folders only, all inside the target folder."""

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
from pathlib import Path
from typing import IO, NamedTuple

from cledet.data.download.fetch import CHUNK, Phase, format_bytes
from cledet.data.formats.paths import open_regular_file
from cledet.errors import UserError

DAMAGES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError)
"""Exceptions raised by damaged or unsupported archives."""


class Member(NamedTuple):
    """A member of an archive; `problem` is why it cannot be extracted, or ""."""

    name: str
    size: int
    folder: bool
    problem: str
    open: Callable[[], IO[bytes] | None]


def unpack(file: Path, folder: Path, phase: Phase) -> None:
    """Extract a zip or tar file to a folder; existing files are overwritten.

    All members are checked before the first is written. Raises UserError for a damaged archive, a member that is a
    link, a device or outside the folder, and a disk without room for the declared sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _open(file) as members:
            for member in members:
                if problem := member.problem or _name_problem(member.name):
                    raise UserError(f"{file.name} was not unpacked: its member '{member.name}' {problem}")
            total = sum(member.size for member in members)
            refuse_full_disk(folder, total, f"unpack {file.name}")
            with phase(f"unpacking {file.name}, {len(members):,} files, {format_bytes(total)}", total) as steps:
                done = 0
                for member in members:
                    done += _write(member, folder)
                    steps.set(done, total)
    except DAMAGES as error:
        raise UserError(f"{file.name} is damaged or not supported: {error}") from None
    except OSError as error:
        raise UserError(f"{file.name} could not be unpacked into {folder}: {error.strerror or error}") from None


def refuse_full_disk(folder: Path, needed: int, purpose: str, hint: str = "make room and try again") -> None:
    """Raise UserError if a folder's disk has less room than needed, in bytes."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        sizes = f"takes {format_bytes(needed)}, and {existing} has {format_bytes(free)} free"
        raise UserError(f"to {purpose} {sizes}", hint)


@contextmanager
def _open(file: Path) -> Iterator[list[Member]]:
    """Open an archive and list its members, which can be read until it is closed."""
    with open(file, "rb", opener=open_regular_file) as content:
        if file.suffix.lower() == ".zip":
            with zipfile.ZipFile(content) as archive:
                yield [_zip_member(archive, info) for info in archive.infolist()]
        else:
            with tarfile.open(fileobj=content) as archive_:
                yield [_tar_member(archive_, info) for info in archive_.getmembers()]


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 unless the archive was made on Unix
    problem = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "is a link or a device"
    problem = "is encrypted" if info.flag_bits & 1 else problem
    return Member(info.filename, info.file_size, info.filename.endswith("/"), problem, lambda: archive.open(info))


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    problem = "" if info.isreg() or info.isdir() else "is a link or a device"
    return Member(info.name, info.size, info.isdir(), problem, lambda: archive.extractfile(info))


def _name_problem(name: str) -> str:
    """Return why a member's name is unsafe, or ""."""
    if not name or name.startswith("/") or re.match("[A-Za-z]:", name) or "\\" in name or "\0" in name:
        return "is not a relative path"
    return "leads out of the folder" if ".." in name.split("/") else ""


def _write(member: Member, folder: Path) -> int:
    """Write one member and return its size; zipfile and tarfile read no more than the declared size."""
    path = folder / member.name
    if member.folder:
        path.mkdir(parents=True, exist_ok=True)
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    content = member.open()
    assert content is not None, member.name
    with content, path.open("wb") as file:
        shutil.copyfileobj(content, file, CHUNK)
        if file.tell() != member.size:
            raise EOFError(f"{member.name} has {file.tell():,} bytes, expected {member.size:,}")
    return member.size
