"""Standard input as a source: the bytes of an image or video, or paths and URLs, one a line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import chain

from cledet.data.images import decode_image
from cledet.errors import UserError
from cledet.inference.frame import Frame, Item, broken
from cledet.inference.urls import MAX_BYTES
from cledet.inference.video import file_items

NAME = "-"
"""Name of standard input in results."""
_DESCRIPTOR = 0
_CHUNK = 1 << 16
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"GIF8", b"BM")
"""First bytes of image files, except WebP's."""
_CONTROLS = frozenset(range(32)) - set(b"\t\n\r\x1b") | {127}
"""Bytes that no line of text holds; every image and video has one of them in its first bytes."""


class Pipe:
    """Standard input without Python's own lock, which a thread that waits for input would hold at exit."""

    def __init__(self) -> None:
        self._head = b""

    def start(self, count: int) -> bytes:
        """Return at least the first `count` bytes, fewer at the end of input or of a first line; they are kept."""
        while len(self._head) < count and b"\n" not in self._head and (chunk := os.read(_DESCRIPTOR, _CHUNK)):
            self._head += chunk
        return self._head

    def read(self, size: int) -> bytes:
        """Read at least one byte and at most `size`; empty at the end of input."""
        head, self._head = self._head[:size], self._head[size:]
        return head or os.read(_DESCRIPTOR, size)

    def read_all(self, limit: int) -> bytes:
        """Read the whole input. Raises UserError beyond `limit` bytes."""
        data = bytearray()
        while chunk := self.read(_CHUNK):
            data += chunk
            if len(data) > limit:
                raise UserError(f"the image on standard input has more than {limit >> 20} MB", "pass the file")
        return bytes(data)

    def lines(self) -> Iterator[str]:
        """Yield the lines as they arrive, decoded as file names; blank ones are left out."""
        rest = b""
        while chunk := self.read(_CHUNK):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (os.fsdecode(line.strip()) for line in whole if line.strip())
        if rest.strip():
            yield os.fsdecode(rest.strip())


def stdin_items(open_line: Callable[[str], Iterator[Item]]) -> Iterator[Item]:
    """Yield the images of standard input; `open_line` yields those of one line, a path or URL."""
    pipe = Pipe()
    try:
        start = pipe.start(16)
        if not start:
            yield broken(NAME, UserError("standard input is empty", "pipe an image into it, or paths, one a line"))
        elif not _CONTROLS.intersection(start):
            lines = pipe.lines()
            if (first := next(lines, None)) is None:
                yield broken(NAME, UserError("standard input names no image", "pipe paths or URLs into it, one a line"))
            else:
                for line in chain([first], lines):
                    yield from open_line(line)
        elif start.startswith(_STARTS) or start[8:12] == b"WEBP":
            data = pipe.read_all(MAX_BYTES)
            yield Item(NAME, lambda: Frame(decode_image(data, "on standard input"), None, NAME))
        else:
            yield from file_items(pipe, NAME)
    except OSError as error:
        yield broken(NAME, UserError(f"standard input cannot be read: {error.strerror}"))
    except UserError as error:
        yield broken(NAME, error)
