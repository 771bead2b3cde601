"""Paths of a data set's files: checks, look-up, and errors for files that do not exist."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cledet.data.formats.annotation_errors import ErrorLog
from cledet.errors import UserError, nearest
from cledet.io.locks import temporary_folder

UNDIVIDED_SPLIT = "all"
"""The one split of a folder that is not divided."""
LONGEST = 1024
"""Characters of a path; an index holds each path at the length of the longest."""
_SYNONYMS = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}
_SPLIT_WORD = re.compile(
    r"(?<![a-z])(trainval|training|train|validation|valid|val|testing|test|dev)[-_]?\d*(?![a-z])", re.IGNORECASE
)


def cache_folder() -> Path:
    """Return the folder for drawn and downloaded data: $CLEDET_CACHE, else `cledet` in the user's cache folder."""
    if chosen := os.environ.get("CLEDET_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "cledet"


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that is renamed to `folder` at the end of the block, or deleted after an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder.parent) as draft:
        yield draft
        draft.rename(folder)


def invalid_path_reason(path: str) -> str:
    """Return why no file can have this path, or "" for a valid path."""
    try:
        parts = os.fsencode(path).replace(b"\\", b"/").split(b"/")
    except UnicodeEncodeError:
        return "it holds a character that file names cannot have"
    if "\0" in path:
        return "it holds a NUL character"
    return "it is longer than a path can be" if len(path) > LONGEST or max(map(len, parts)) > 255 else ""


def read_lines(file: Path) -> list[str]:
    """Read the stripped, non-empty lines of a text file. Raises UserError for a file that is not UTF-8."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    return [line.strip() for line in lines if line.strip()]


def open_regular_file(path: str, flags: int) -> int:
    """Open a file descriptor, as an `opener` of `open`; refuse named pipes, sockets and devices, which may never end.

    Raises OSError, whose `strerror` names the kind of file.
    """
    nonblocking = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for its writer; Windows has no such flag
    handle = os.open(path, flags | nonblocking)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        if nonblocking:
            os.set_blocking(handle, True)
        return handle
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    kind = "named pipe" if stat.S_ISFIFO(mode) else "device"
    raise OSError(errno.EINVAL, f"it is a {kind}, not a file", path)


def read_bytes(file: str | Path) -> bytes:
    """Read the content of a regular file. Raises OSError."""
    with open(file, "rb", opener=open_regular_file) as content:
        return content.read()


def read_blocks(file: str | Path) -> Iterator[bytes]:
    """Yield the content of a regular file in blocks. Raises OSError."""
    with open(file, "rb", opener=open_regular_file) as content:
        while block := content.read(1 << 20):
            yield block


def not_found_error(what: str, path: Path) -> UserError:
    """Return the error for a path that does not exist, with a hint that lists its neighbours.

    A path that exists but is neither a file nor a folder is reported as such.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        return UserError(f"{what} cannot be read: {path} is a named pipe, socket or device", "pass a file")
    return UserError(f"{what} not found: {path}", _neighbours(path))


def _neighbours(path: Path, limit: int = 8) -> str:
    """List the content of the nearest existing folder above a path, or suggest a similar name."""
    folder = next((parent for parent in path.parents if os.path.isdir(parent)), Path("/"))
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    close = nearest(path.name, names) if folder == path.parent and names else ""
    if close.startswith("did you mean"):
        return close
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{folder} holds {', '.join(names[:limit]) + more if names else 'nothing'}"


def absolute(path: Path) -> Path:
    """Return an absolute path without `~`, `.` and `..`; links are not resolved."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def join_paths(folder: Path, names: Iterable[str]) -> list[str]:
    """Join file names of annotations to a folder, normalized; a backslash is read as a slash."""
    home = str(folder)
    return [os.path.normpath(os.path.join(home, name.replace("\\", "/"))) for name in names]


def is_inside(path: str, folders: Sequence[Path]) -> bool:
    """Return whether a normalized path is under one of these folders; links are not resolved: they are the user's."""
    return any(path.startswith(os.path.join(str(folder), "")) for folder in folders)


def locate(
    names: Sequence[str], folder: Path, allowed: Sequence[Path] | None, file: Path, errors: ErrorLog
) -> tuple[list[int], list[str]]:
    """Return the positions of the valid file names, and their paths in a folder.

    Impossible names and, given `allowed`, files outside all these folders are logged; `file` is that of the names.
    """
    rows, paths = [], []
    for row, (name, path) in enumerate(zip(names, join_paths(folder, names))):
        if reason := invalid_path_reason(name):
            errors.add("entry", f"{file}: {name[:40]!r}: {reason}")
        elif allowed is not None and not is_inside(path, allowed):
            errors.add("outside", f"{file}: {name}")
        else:
            rows.append(row)
            paths.append(path)
    return rows, paths


def match_split(name: str, splits: Iterable[str]) -> str | None:
    """Match a split name: the split of that name, else the only split of the same kind.

    "val" matches "valid" or "val2017"; without these, it matches "custom_val". None without a match, or with several.
    """
    known = list(splits)
    if name in known:
        return name
    same_kind = [split for split in known if split_kind(split) == split_kind(name)]
    same_kind = same_kind or [split for split in known if split_kind(split_word(split)) == split_kind(name)]
    return same_kind[0] if len(same_kind) == 1 else None


def split_kind(split: str) -> str:
    """Return a split's name without year and variant spelling: "val" for "valid" and "val2017"."""
    plain = re.sub(r"[-_]?\d+$", "", split.lower())
    return _SYNONYMS.get(plain, plain)


def split_word(name: str) -> str:
    """Return the split in the name of a file or folder: "train" for custom_train, "val2017" for val2017; else ""."""
    found = _SPLIT_WORD.search(name)
    return found[0] if found else ""
