"""Where a data set's files are, and what to say when they are not."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from cledet.errors import UserError, nearest

EVERYTHING = "all"
"""The one split of a folder that is not divided."""
LONGEST = 1024
"""Characters of a path; an index holds each path at the length of the longest."""
_SYNONYMS = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}


def cache_folder() -> Path:
    """Where drawn and downloaded things go: $CLEDET_CACHE, else cledet in the user's cache folder."""
    if chosen := os.environ.get("CLEDET_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "cledet"


def path_fault(path: str) -> str:
    """The reason why no file can have this path, in words; empty where one can."""
    try:
        parts = path.encode().replace(b"\\", b"/").split(b"/")
    except UnicodeEncodeError:
        return "it holds a character that file names cannot have"
    if "\0" in path:
        return "it holds a NUL character"
    return "it is longer than a path can be" if len(path) > LONGEST or max(map(len, parts)) > 255 else ""


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that hold anything, stripped. Raises UserError for one that is not UTF-8."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    return [line.strip() for line in lines if line.strip()]


def plain_file(path: str, flags: int) -> int:
    """Open as `open` does, for its `opener`, but refuse named pipes, sockets and devices, which may never end.

    Raises OSError, whose `strerror` says what the path is.
    """
    at_once = getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for its writer; Windows has none
    handle = os.open(path, flags | at_once)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        if at_once:
            os.set_blocking(handle, True)
        return handle
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    kind = "named pipe" if stat.S_ISFIFO(mode) else "device"
    raise OSError(errno.EINVAL, f"it is a {kind}, not a file", path)


def missing(what: str, path: Path) -> UserError:
    """The error for a path that is not there, or neither file nor folder: the path tried and what lies beside it."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        return UserError(f"{what} cannot be read: {path} is a named pipe, socket or device", "pass a file")
    return UserError(f"{what} not found: {path}", _neighbours(path))


def _neighbours(path: Path, limit: int = 8) -> str:
    """What lies in the nearest folder above a path that does exist."""
    folder = next((parent for parent in path.parents if os.path.isdir(parent)), Path("/"))
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    close = nearest(path.name, names) if folder == path.parent and names else ""
    if close.startswith("did you mean"):
        return close
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{folder} holds {', '.join(names[:limit]) + more if names else 'nothing'}"


def absolute(path: Path) -> Path:
    """The path without `~`, `.` and `..`, links left as they are."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def place(folder: Path, names: Iterable[str]) -> list[str]:
    """The normal absolute paths of files that annotations name, relative to a folder; \\ is read as /."""
    home = str(folder)
    return [os.path.normpath(os.path.join(home, name.replace("\\", "/"))) for name in names]


def lies_in(path: str, folders: Sequence[Path]) -> bool:
    """Whether a normal path is under one of these folders; links are not followed, as they are the user's own."""
    return any(path.startswith(os.path.join(str(folder), "")) for folder in folders)


def match_split(asked: str, splits: Iterable[str]) -> str | None:
    """The split that is meant: the one of that name, else the only one of the same kind.

    "val" finds "valid" or "val2017"; None when there is none, or when several could be meant.
    """
    known = list(splits)
    if asked in known:
        return asked
    same = [split for split in known if _kind(split) == _kind(asked)]
    return same[0] if len(same) == 1 else None


def _kind(split: str) -> str:
    """A split's name without year and spelling: "valid" and "val2017" are both "val"."""
    plain = re.sub(r"[-_]?\d+$", "", split.lower())
    return _SYNONYMS.get(plain, plain)
