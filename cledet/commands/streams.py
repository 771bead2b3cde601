"""Standard streams of a command, robust to closed files, full disks and closed pipes."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from cledet.errors import OutputClosed, UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT, STDERR = 1, 2


class Stream(io.FileIO):
    """File behind stdout or stderr that raises a UserError if results cannot be written."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write as any file does.

        Raises OutputClosed if the pipe is closed, UserError if stdout cannot be written for another reason.
        Messages for stderr are dropped then.
        """
        try:
            return super().write(data)
        except BrokenPipeError:
            self._discard()
            raise OutputClosed from None
        except OSError as error:
            if self.fileno() == STDERR:
                return memoryview(data).nbytes
            self._discard()
            raise UserError(f"cannot write to stdout: {error.strerror}") from None

    def _discard(self) -> None:
        """Redirect to the null device, so that flushing buffers at exit does not fail."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def prepare_streams() -> None:
    """Put `Stream` behind stdout and stderr; characters that the encoding lacks are written as escapes.

    File descriptors of closed streams are reserved, so that no other file gets them: writing to stdout then fails, and
    stderr is lost. Streams that a program has replaced are kept.
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
