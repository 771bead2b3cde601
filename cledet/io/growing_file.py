"""A file that grows by whole entries and is complete after each, also if the program is killed or the disk is full."""

from __future__ import annotations

import os
from pathlib import Path

from cledet.io.atomic import unwritable


class GrowingFile:
    """File of `head`, entries and `tail`. An entry replaces the tail, and brings a new one with it, in one write.

    Surrogate characters, which stand for bytes of file names that are not UTF-8, are written as escapes.
    """

    def __init__(self, path: Path, head: str = "", tail: str = "") -> None:
        self.path = path
        self._tail = tail
        self._end = 0
        """Position of the tail."""
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise unwritable(path, error) from None
        self.append(head)

    def append(self, entry: str) -> None:
        """Write an entry before the tail. Raises UserError, with the file as before, if that fails."""
        data, tail = (text.encode("utf-8", "backslashreplace") for text in (entry, self._tail))
        try:
            self._write(self._end, data + tail)
        except OSError as error:
            self._restore(tail)
            raise unwritable(self.path, error) from None
        self._end += len(data)

    def close(self) -> None:
        """Close the file, which is complete already."""
        os.close(self._descriptor)

    def _write(self, place: int, data: bytes) -> None:
        """Write all bytes at a place, in one system call unless the disk becomes full."""
        os.lseek(self._descriptor, place, os.SEEK_SET)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _restore(self, tail: bytes) -> None:
        """Undo a failed write: cut it off and write the tail again, for which there was room before."""
        try:
            os.ftruncate(self._descriptor, self._end + len(tail))
            self._write(self._end, tail)
        except OSError:  # the disk itself fails
            pass
