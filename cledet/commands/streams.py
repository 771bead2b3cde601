"""The standard streams of a command: closed, on a full disk, or with a reader who has left."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from cledet.errors import UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT, STDERR = 1, 2


class Stream(io.FileIO):
    """The file behind stdout or stderr, which says in a sentence what becomes of results that cannot be written."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write as any file does.

        Raises BrokenPipeError where the reader has left, UserError for results that cannot be written for another
        reason. News for stderr are then dropped, as there is no other place to tell.
        """
        try:
            return super().write(data)
        except BrokenPipeError:
            self._discard()
            raise
        except OSError as error:
            if self.fileno() == STDERR:
                return memoryview(data).nbytes
            self._discard()
            raise UserError(f"cannot write to stdout: {error.strerror}") from None

    def _discard(self) -> None:
        """Send the rest nowhere, so that the interpreter's end does not fail on what is left in buffers."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def prepare_streams() -> None:
    """Put `Stream` behind stdout and stderr; a name that a stream cannot show is written in escapes.

    The numbers of streams that are closed are taken, so that no other file gets them: what is written to stdout
    then fails, and stderr is lost. Streams that a program has put in the place of its own stay.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(STDOUT, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(STDERR, sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _stream(number: int, before: TextIO | None) -> TextIO:
    if before is not None and before.isatty():  # which is never full
        return before
    raw = io.BufferedWriter(Stream(number, "wb", closefd=False))
    encoding, lines = (before.encoding, before.line_buffering) if before is not None else ("utf-8", False)
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=bool(lines) or number == STDERR)
