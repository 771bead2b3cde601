"""Locks between processes, and temporary folders that outlive no process: both end with their process, however it ends.

Systems and network filesystems without locks work as if there were one process.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not Unix
    fcntl = None  # type: ignore[assignment]

PREFIX, CONTENT = ".cledet-draft-", "draft"
"""Start of the names of temporary folders, and the name of the folder in each that holds the files."""


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder in the block, as soon as no other process holds it. The block must not fork."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # also for copies of the handle in forked processes
        os.close(handle)


def hold_file(path: Path, patience: float) -> BinaryIO | None:
    """Create and lock a file; closing it ends the lock, and forked processes do not hold it.

    Returns None if another process still holds it after `patience` seconds. Raises OSError if the file cannot be made.
    """
    file, deadline = path.open("ab"), time.monotonic() + patience
    while fcntl is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                file.close()
                return None
        break
    return file


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder in `parent`, or among the system's temporary files, and delete it after the block.

    Folders that killed processes have left there are deleted first.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    _delete_abandoned(parent)
    private, handle = _new_private(parent)
    try:
        folder = private / CONTENT  # of usual permissions, which `private` has not
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(private, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _new_private(parent: Path) -> tuple[Path, int | None]:
    """Create a folder and lock it; create another if a process that deletes abandoned folders was faster."""
    while True:
        private = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        try:
            handle = _try_lock(private)
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError:
            return private, None
        if private.is_dir():
            return private, handle
        os.close(handle)


def _delete_abandoned(parent: Path) -> None:
    """Delete the temporary folders in `parent` that no process holds."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, of another user, or on a filesystem without locks
            handle = _try_lock(folder)
            try:
                if {entry.name for entry in folder.iterdir()} <= {CONTENT}:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _try_lock(folder: Path) -> int:
    """Open a folder and lock it. Raises BlockingIOError if another process holds it, OSError without locks."""
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "no locks")
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
