"""Files written whole or not at all: a crash, a kill or a full disk leaves the old one, never half of a new one."""

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

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""A full disk, and a user's share of it that is used up."""
NAME_MAX = 255
"""Bytes of a file's name that common filesystems take."""


def previous(path: Path) -> Path:
    """Where the file that was at `path` before is kept: last.pt -> last.previous.pt."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def is_there(path: Path) -> bool:
    """Whether there is such a file, or the one before it."""
    return path.is_file() or previous(path).is_file()


def write_file(path: Path, write: Callable[[BinaryIO], object], *, keep: bool = False, sync: bool = True) -> None:
    """Write a file anew: a temporary one beside it, synced, then renamed; with `keep` the old one becomes previous.

    Without `sync`, for files by the thousand, a crash of the machine (not of the process) may cost the new one.
    Raises UserError if that fails; then the old files are as they were, and the temporary one is gone.
    """
    part, aside = _part(path), _part(previous(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # of a process that was killed
        with part.open("xb") as file:
            write(file)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if keep and path.is_file():
            _exchange(part, path, aside)
        else:
            os.replace(part, path)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
            aside.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """Write plain data as JSON, as `write_whole` does."""
    write_whole(path, json.dumps(document, indent=1))


def write_whole(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write a file so that readers see the old one or the whole new one, and a full disk leaves the old one.

    Half characters, as names of files that are not UTF-8 hold them, are written as escapes.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    write_file(path, lambda file: file.write(data), sync=sync)


def _exchange(part: Path, path: Path, aside: Path) -> None:
    """Put the new file at `path` and what was there at `previous(path)`.

    At every moment `path` is the old file or the new one, and the previous file is not given up before the new one is
    in place. Without hard links, as on FAT, there is a moment with the previous file only.
    """
    try:
        aside.unlink(missing_ok=True)
        os.link(path, aside)
    except OSError:
        os.replace(path, previous(path))
        os.replace(part, path)
    else:
        os.replace(part, path)
        os.replace(aside, previous(path))


def _sync_folder(folder: Path) -> None:
    """Have the folder's renames on the disk, where a folder can be synced."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # some network filesystems cannot
            raise
    finally:
        os.close(handle)


def unwritable(path: Path, error: OSError) -> UserError:
    """The sentence for a file that could not be written, with the way on for a run's."""
    run = next((folder for folder in path.parents[:2] if is_there(folder / "weights" / "last.pt")), None)
    ways = ["free some space"] if error.errno in NO_ROOM else []
    ways += [f"go on with: cledet train --resume {run}"] if run is not None else []
    return UserError(f"{path} could not be written: {error.strerror or error}", " and ".join(ways))


def _part(path: Path) -> Path:
    name = os.fsencode(path.name)
    if len(name) > NAME_MAX - len(".part"):
        return path.with_name(hashlib.blake2b(name, digest_size=16).hexdigest() + ".part")
    return path.with_name(path.name + ".part")
