"""Writes trees as archives, and breaks the members of a zip file."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from mutations import corrupt_tree


def to_zip(tree: Any, rng: random.Random) -> bytes:
    """Members [name, content, mode]; as content, Zeros are written packed, so that a few megabytes become gigabytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content, mode in _members(tree):
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode << 16) % 2**32
            archive.writestr(info, packed(content.megabytes) if isinstance(content, Zeros) else content)
            if isinstance(content, Zeros):  # now that it is written, say what it is in the directory at the end
                info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, content.megabytes << 20
    return file.getvalue()


def to_tar(tree: Any, rng: random.Random) -> bytes:
    """Members [name, content, type]; the content of a link is its target."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content, kind in _members(tree):
            info = tarfile.TarInfo(name)
            data = bytes(content.megabytes) if isinstance(content, Zeros) else content
            info.type, info.linkname = bytes([48 + kind % 8]), data.decode("latin1")[:90]
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return file.getvalue()


@dataclass(frozen=True)
class Zeros:
    """So many megabytes of zeros in an archive."""

    megabytes: int


@cache
def packed(megabytes: int) -> bytes:
    """So many megabytes of zeros, deflated: a thousandth of it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + packer.flush()


def _members(tree: Any) -> list[tuple[str, bytes | Zeros, int]]:
    """The tree's entries as name, content and number."""
    found = []
    for entry in tree if isinstance(tree, list) else [tree]:
        name, content, mode = [*(entry if isinstance(entry, list) else [entry]), b"", b"", 0][:3]
        data = content if isinstance(content, bytes | Zeros) else str(content).encode(errors="replace")
        found.append((str(name)[:20_000].encode(errors="replace").decode(), data, mode if type(mode) is int else 0))
    return found


def corrupt_zip(rng: random.Random, data: bytes, extra: tuple[Any, ...]) -> bytes:
    """A zip file with its members missing, twice, renamed, or of other content."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [[info.filename, archive.read(info), info.external_attr >> 16] for info in archive.infolist()]
    return to_zip(corrupt_tree(rng, members, extra), rng)
