"""Fetches one archive: goes on where it stopped, and believes it only after size and digest were checked."""

from __future__ import annotations

import hashlib
import json
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
"""Seconds without a byte after which a connection counts as lost."""
ATTEMPTS = 5
"""How often in a row nothing new may arrive."""
PAUSE = 1.0
"""Seconds before the second attempt, doubled before each further one."""
AGAIN = (408, 416, 425, 429, 500, 502, 503, 504)
"""The answers of HTTP after which it is worth asking again."""
CHUNK = 1 << 18


class Steps(Protocol):
    """Where progress is shown."""

    def set(self, done: int, total: int) -> None:
        """So many bytes of so many."""

    def note(self, text: str) -> None:
        """A line of news."""


Phase = Callable[[str, int], AbstractContextManager[Steps]]
"""Begins to show the progress of something with a title and a number of bytes."""


def in_words(size: int) -> str:
    """A number of bytes for people: "19.3 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def fetch(archive: Archive, folder: Path, own: Path, phase: Phase) -> Path:
    """The archive, verified, in a folder that is this download's own.

    A partial file of an earlier attempt is continued if it is of the same version. Raises UserError where the archive
    cannot be had (naming `own`, where the user may put it) or is not the one expected; a wrong file is put aside so
    that the next attempt starts afresh.
    """
    file, part = folder / archive.name, folder / f"{archive.name}.part"
    if file.is_file():
        part = file
    else:
        with phase(f"fetching {archive.name}, {in_words(archive.bytes)}", archive.bytes) as steps:
            _receive_all(archive, part, own, steps)
    try:
        verify(archive, part, phase)
    except UserError as error:
        aside = part.replace(folder / f"{archive.name}.wrong")
        hint = f"it was put aside as {aside}; the next attempt fetches it afresh"
        raise UserError(f"{error.message}, from {archive.url}", hint) from None
    return part.replace(file)


def verify(archive: Archive, file: Path, phase: Phase) -> None:
    """Raise UserError unless a file has the size and the digest of the archive."""
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
    """Ask for the missing bytes until all are there."""
    first = furthest = have = _prepare(archive, part)
    failures = 0
    if have:
        steps.note(f"{in_words(have)} are there already")
        steps.set(have, archive.bytes)
    while have < archive.bytes:
        reason, final = _attempt(archive, part, steps)
        have = part.stat().st_size if part.exists() else 0
        if have == archive.bytes:
            return
        failures = 0 if have > furthest else failures + 1
        furthest = max(furthest, have)
        if failures >= ATTEMPTS or (final and furthest == first):
            kept = f"{in_words(have)} are kept; try again later" if have else "try again later"
            hint = f"{kept}, or fetch it otherwise and put it at {own}"
            raise UserError(f"{archive.url} could not be fetched: {reason}", hint)
        pause = PAUSE * 2**failures
        steps.note(f"{reason}; going on at {in_words(have)} in {pause:.0f} s")
        sleep(pause)


def _attempt(archive: Archive, part: Path, steps: Steps) -> tuple[str, bool]:
    """Receive what comes by one request; returns why it ended, and whether that is final if nothing ever came."""
    request = _request(archive, part)
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            _receive(archive, part, response, steps)
    except HTTPError as error:
        if error.code == 416:  # what is there is no beginning of what they have
            part.unlink(missing_ok=True)
        return f"the server answered {error.code} {error.reason}", error.code not in AGAIN
    except URLError as error:
        return f"no connection: {error.reason}", True
    except (OSError, HTTPException) as error:
        return f"the connection broke: {error or type(error).__name__}", False
    return "the connection ended early", False


def _request(archive: Archive, part: Path) -> Request:
    """The request for what is missing; for all of it, should the server's version be another by now."""
    headers = {"User-Agent": "cledet"}
    have = _prepare(archive, part)
    if have:
        headers["Range"] = f"bytes={have}-"
        if version := _read_record(part).get("version"):
            headers["If-Range"] = version
    return Request(archive.url, headers=headers)


def _receive(archive: Archive, part: Path, response: Any, steps: Steps) -> None:
    """Append what comes to the partial file, or write it anew if it comes from the start."""
    have = part.stat().st_size if part.exists() else 0
    start, total = _extent(response)
    if total not in (None, archive.bytes):
        raise UserError(f"{archive.url} has {total:,} bytes by now, expected {archive.bytes:,}: it is another file")
    if start not in (0, have):
        raise HTTPException(f"asked for bytes from {have}, offered from {start}")
    if have and not start:
        steps.note(f"the server sends {archive.name} from the start")
    try:
        _write_record(archive, part, response)
        with part.open("ab" if start else "wb") as file:
            while chunk := _next_chunk(response):
                if start + len(chunk) > archive.bytes:
                    raise UserError(f"{archive.url} has more bytes than the {archive.bytes:,} expected")
                file.write(chunk)
                start += len(chunk)
                steps.set(start, archive.bytes)
    except _Lost as lost:
        raise HTTPException(str(lost)) from None
    except OSError as error:
        raise UserError(f"{part} could not be written: {error.strerror or error}") from None


class _Lost(Exception):
    """The connection, not the disk, failed."""


def _next_chunk(response: Any) -> bytes:
    try:
        return bytes(response.read1(CHUNK))
    except OSError as error:
        raise _Lost(str(error) or type(error).__name__) from None


def _extent(response: Any) -> tuple[int, int | None]:
    """At which byte an answer starts, and the size of the whole file if it says so."""
    if response.status != 206:
        length = response.headers.get("Content-Length")
        return 0, int(length) if length and length.isdigit() else None
    range_ = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if range_ is None:
        raise HTTPException("the answer does not say which bytes it holds")
    return int(range_[1]), None if range_[2] == "*" else int(range_[2])


def _prepare(archive: Archive, part: Path) -> int:
    """How many bytes are there to go on from; a partial file of another URL or digest is removed."""
    if not part.exists():
        return 0
    record = _read_record(part)
    if (record.get("url"), record.get("digest")) != (archive.url, archive.digest[1]):
        part.unlink()
        return 0
    return part.stat().st_size


def _record_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_record(part: Path) -> dict[str, Any]:
    try:
        record = json.loads(_record_of(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(archive: Archive, part: Path, response: Any) -> None:
    """Keep what the partial file is the beginning of: URL, digest, and the server's name for this version."""
    tag = response.headers.get("ETag", "")
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified")
    record = {"url": archive.url, "digest": archive.digest[1], "version": version}
    _record_of(part).write_text(json.dumps(record), encoding="utf-8")
