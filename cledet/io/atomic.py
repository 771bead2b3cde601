"""Atomic writes: after a crash, a kill or on a full disk, a file is the old or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from cledet.errors import UserError
from cledet.io.locks import locked_folder

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk and an exhausted quota."""
NAME_MAX = 255
"""Longest file name in bytes on common filesystems."""


def previous(path: Path) -> Path:
    """Return the path that keeps the previous file of `path`: last.pt -> last.previous.pt."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def is_there(path: Path) -> bool:
    """Return True if the file or its previous one exists."""
    return path.is_file() or previous(path).is_file()


def write_file(path: Path, write: Callable[[BinaryIO], object], *, keep: bool = False, sync: bool = True) -> None:
    """Write a temporary file beside `path`, sync it and rename it; with `keep` the old file becomes `previous(path)`.

    Without `sync`, for thousands of files, a crash of the machine (not of the process) may lose the new file. Several
    processes may write the same file: it becomes that of the last. Raises UserError on failure, with the old file
    unchanged and the temporary one deleted.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked_folder(path.parent):  # else another process could rename our temporary file while it is written
            _write_and_rename(path, write, keep, sync)
    except OSError as error:
        raise unwritable(path, error) from None


def _write_and_rename(path: Path, write: Callable[[BinaryIO], object], keep: bool, sync: bool) -> None:
    part = _part(path)
    try:
        part.unlink(missing_ok=True)  # left by a killed process
        with part.open("xb") as file:
            write(file)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if keep and path.is_file():
            _keep(path)
        os.replace(part, path)
        if sync:
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """Write plain data as JSON, see `write_whole`."""
    write_whole(path, json.dumps(document, indent=1))


def write_whole(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write a file atomically, see `write_file`.

    Surrogate characters, which stand for bytes of file names that are not UTF-8, are written as escapes.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    write_file(path, lambda file: file.write(data), sync=sync)


def _keep(path: Path) -> None:
    """Make a file its own previous one; without hard links, as on FAT, only that exists until the new one is there."""
    try:
        previous(path).unlink(missing_ok=True)
        os.link(path, previous(path))
    except OSError:
        os.replace(path, previous(path))


def _sync_folder(folder: Path) -> None:
    """Sync the renames in a folder to the disk, if the filesystem supports it."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # unsupported by some network filesystems
            raise
    finally:
        os.close(handle)


def unwritable(path: Path, error: OSError) -> UserError:
    """Build the error for a file that could not be written, with a hint to resume if it belongs to a run."""
    run = next((folder for folder in path.parents[:2] if is_there(folder / "weights" / "last.pt")), None)
    hints = ["free some space"] if error.errno in NO_ROOM else []
    hints += [f"go on with: cledet train --resume {run}"] if run is not None else []
    return UserError(f"{path} could not be written: {error.strerror or error}", " and ".join(hints))


def _part(path: Path) -> Path:
    name = os.fsencode(path.name)
    if len(name) > NAME_MAX - len(".part"):
        return path.with_name(hashlib.blake2b(name, digest_size=16).hexdigest() + ".part")
    return path.with_name(path.name + ".part")
