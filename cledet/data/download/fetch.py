"""Download of one archive: resumed after an interruption, accepted only with the expected size and digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPException
from pathlib import Path
from time import sleep
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from cledet.data.download.archives import Archive
from cledet.errors import UserError

TIMEOUT = 30.0
"""Seconds without data after which a connection counts as lost."""
ATTEMPTS = 5
"""Maximum number of consecutive attempts without new data."""
PAUSE = 1.0
"""Seconds before the second attempt, doubled before each further one."""
RETRY_STATUS = (408, 416, 425, 429, 500, 502, 503, 504)
"""HTTP status codes that are retried."""
CHUNK = 1 << 18


class Steps(Protocol):
    """A progress display."""

    def set(self, done: int, total: int) -> None:
        """Show the number of bytes done."""

    def note(self, text: str) -> None:
        """Print a line."""


Phase = Callable[[str, int], AbstractContextManager[Steps]]
"""Starts a progress display with a title and a number of bytes."""


def format_bytes(size: int) -> str:
    """Format a number of bytes: "19.3 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def partial_file(archive: Archive, folder: Path) -> Path:
    """Return the file of an unfinished download, named by the digest so that another version is never continued."""
    return folder / f"{archive.name}.{archive.digest[1][:8]}.part"


def fetch(archive: Archive, folder: Path, own: Path, phase: Phase) -> Path:
    """Download an archive to a folder, verify it and return its path; a partial file is continued.

    Raises UserError if the download fails (naming `own`, where the user may place the archive) or the file is not the
    expected one; such a file is renamed so that the next attempt starts over.
    """
    file, part = folder / archive.name, partial_file(archive, folder)
    if file.is_file():
        part = file
    else:
        with phase(f"fetching {archive.name}, {format_bytes(archive.bytes)}", archive.bytes) as steps:
            _receive_all(archive, part, own, steps)
    try:
        verify(archive, part, phase)
    except UserError as error:
        aside = part.replace(folder / f"{archive.name}.wrong")
        hint = f"it was moved to {aside}; the next attempt starts over"
        raise UserError(f"{error.message}, from {archive.url}", hint) from None
    return part.replace(file)


def verify(archive: Archive, file: Path, phase: Phase) -> None:
    """Raise UserError unless a file has the archive's size and digest."""
    size = file.stat().st_size
    if size != archive.bytes:
        raise UserError(f"{file} has {size:,} bytes, expected {archive.bytes:,}")
    kind, expected = archive.digest
    digest = hashlib.new(kind, usedforsecurity=False)
    with phase(f"checking {archive.name}", size) as steps, file.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            steps.set(content.tell(), size)
    if digest.hexdigest() != expected:
        raise UserError(f"{file} has the {kind} {digest.hexdigest()}, expected {expected}")


def _receive_all(archive: Archive, part: Path, own: Path, steps: Steps) -> None:
    """Send requests until the partial file is complete."""
    first = furthest = received = _size(part)
    failures = 0
    if received:
        steps.note(f"{format_bytes(received)} are there already")
        steps.set(received, archive.bytes)
    while received < archive.bytes:
        reason, final = _attempt(archive, part, steps)
        received = _size(part)
        if received == archive.bytes:
            return
        failures = 0 if received > furthest else failures + 1
        furthest = max(furthest, received)
        if failures >= ATTEMPTS or (final and furthest == first):
            kept = f"{format_bytes(received)} are kept; try again later" if received else "try again later"
            hint = f"{kept}, or download it yourself and save it as {own}"
            raise UserError(f"{archive.url} could not be fetched: {reason}", hint)
        pause = PAUSE * 2**failures
        steps.note(f"{reason}; resuming at {format_bytes(received)} in {pause:.0f} s")
        sleep(pause)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _attempt(archive: Archive, part: Path, steps: Steps) -> tuple[str, bool]:
    """Send one request for the missing bytes; return why it ended, and whether a retry is useless."""
    headers = {"User-Agent": "cledet"}
    if received := _size(part):
        headers["Range"] = f"bytes={received}-"
    try:
        with urlopen(Request(archive.url, headers=headers), timeout=TIMEOUT) as response:
            _receive(archive, part, response, steps)
    except HTTPError as error:
        if error.code == 416:  # the partial file is longer than the server's
            part.unlink(missing_ok=True)
        return f"the server answered {error.code} {error.reason}", error.code not in RETRY_STATUS
    except URLError as error:
        return f"no connection: {error.reason}", True
    except (OSError, HTTPException) as error:
        return f"the connection broke: {error or type(error).__name__}", False
    return "the connection ended early", False


def _receive(archive: Archive, part: Path, response: Any, steps: Steps) -> None:
    """Append a response to the partial file, or overwrite the file if the response starts at byte 0."""
    received = _size(part)
    start, total = _extent(response)
    if total not in (None, archive.bytes):
        raise UserError(f"{archive.url} now has {total:,} bytes, expected {archive.bytes:,}: it is another file")
    if start not in (0, received):
        raise HTTPException(f"asked for bytes from {received}, offered from {start}")
    if received and not start:
        steps.note(f"the server sends {archive.name} from the start")
    try:
        with part.open("ab" if start else "wb") as file:
            while chunk := _read_chunk(response):
                if start + len(chunk) > archive.bytes:
                    raise UserError(f"{archive.url} has more bytes than the {archive.bytes:,} expected")
                file.write(chunk)
                start += len(chunk)
                steps.set(start, archive.bytes)
    except OSError as error:
        raise UserError(f"{part} could not be written: {error.strerror or error}") from None


def _read_chunk(response: Any) -> bytes:
    """Read from the connection. Raises HTTPException, as an OSError could also come from the disk."""
    try:
        return bytes(response.read1(CHUNK))
    except OSError as error:
        raise HTTPException(str(error) or type(error).__name__) from None


def _extent(response: Any) -> tuple[int, int | None]:
    """Return the first byte of a response, and the size of the whole file if known."""
    if response.status != 206:
        length = response.headers.get("Content-Length")
        return 0, int(length) if length and length.isdigit() else None
    range_ = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if range_ is None:
        raise HTTPException("the response does not name its range of bytes")
    return int(range_[1]), None if range_[2] == "*" else int(range_[2])
