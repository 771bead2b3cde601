"""Mutations: small functions that break a tree, bytes or a folder, each a function of a random generator."""

from __future__ import annotations

import copy
import datetime
import math
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Files = dict[str, Any]
"""A folder to be: names, and what each file holds: bytes, a tree that its suffix's format writes, or one of SPECIAL."""
SPECIAL: dict[str, Callable[[Path], None]] = {
    "<fifo>": os.mkfifo,
    "<folder>": os.mkdir,
    "<loop>": lambda path: path.symlink_to(path),
    "<dangling>": lambda path: path.symlink_to("gone"),
}
"""What a file may be instead."""

NUMBERS = (
    0, 1, -1, 0.5, -0.0, 255, 1000, 65536, 10**6, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63,
    -(2**63) - 1, 2**64, 2**70, 10**400, -(10**400), 1e-320, 1e15, 1e300, 1e308, -1e308, math.nan, math.inf, -math.inf,
)  # fmt: skip
WORDS = (
    "", " ", "x", "null", "nan", "1e999", "-1", "007", "0x10", "1_0", "yes", "2001-01-01", "x" * 300, "y" * 70_000,
    "\ud800", "\udcff", "\0", "a\0b", "\x1b[2J\x1b]0;title\x07", "two\nlines\r", "\u202eright", "\ufeffmark", "\u0661",
    "é" * 200, "../../outside/x", "/proc/self/mem", "~root", "C:\\x", "a/b", ".", "..", "*", "%s%n", "{0}", "[red]",
    "timm:hf-hub:owner/name", "hf:owner/name", "http://127.0.0.1:9/x.pt", "planted:run", "cuda:99", "auto", "none",
)  # fmt: skip
RAW = tuple(f"RAW{i}" for i in range(24))
"""Stand for text that a format writes as it is, such as a number of 5,000 digits or 100,000 brackets."""
OTHERS = (
    None, True, False, (), [], {}, [[]], [None], [0] * 3, [1, 2, 3, 4], [[1, 2], [3, 4]], [0.5] * 1000, {"": None},
    {"a": {"b": {"c": []}}}, {"0": 1, "1": 2}, datetime.date(2001, 1, 1), datetime.datetime(2001, 1, 1, 1, 1, 1),
    b"\xff\0",
)  # fmt: skip

Place = tuple[Any, Any]
"""A container and the key or position of something in it."""


def pick(rng: random.Random, holder: list[Any], leaf: bool = False) -> Place:
    """A place of the tree that `holder` holds, by chance at each branch, so that no long list hides the rest.

    With `leaf` it is where a branch ends, else it may be anywhere, the root included.
    """
    place, key = holder, 0
    while isinstance(place[key], dict | list) and place[key] and (leaf or rng.random() < 0.8):
        place = place[key]
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
    return place, key


def value(rng: random.Random, extra: tuple[Any, ...]) -> Any:
    """A value that nobody expects; one kind is as likely as another."""
    return copy.deepcopy(rng.choice(rng.choice([group for group in (NUMBERS, WORDS, RAW, OTHERS, extra) if group])))


def replace(rng: random.Random, holder: list[Any], extra: tuple[Any, ...]) -> None:
    """Put something else in a place."""
    place, key = pick(rng, holder)
    place[key] = value(rng, extra)


def replace_leaf(rng: random.Random, holder: list[Any], extra: tuple[Any, ...]) -> None:
    """Put something else in the place of a number or a word, half of the time of the same kind."""
    place, key = pick(rng, holder, leaf=True)
    like = NUMBERS if isinstance(place[key], int | float) else WORDS
    place[key] = rng.choice(like) if rng.random() < 0.5 else value(rng, extra)


def nudge(rng: random.Random, holder: list[Any], extra: tuple[Any, ...]) -> None:
    """Change a number or a word into one like it."""
    place, key = pick(rng, holder, leaf=True)
    old = place[key]
    for kind, changes in NUDGES.items():
        if isinstance(old, kind):
            with suppress(OverflowError):  # a whole number that no float holds
                place[key] = rng.choice(changes)(old, rng)
            return


NUDGES: dict[Any, tuple[Callable[[Any, random.Random], Any], ...]] = {
    str: (
        lambda old, rng: old * 50,
        lambda old, rng: old[: rng.randint(0, len(old))],
        lambda old, rng: old[: (at := rng.randint(0, len(old)))] + rng.choice(WORDS) + old[at:],
        lambda old, rng: old.upper(),
        lambda old, rng: [old],
    ),
    int | float: (
        lambda old, rng: -old,
        lambda old, rng: old * 1000,
        lambda old, rng: old + rng.choice((1, -1)),
        lambda old, rng: float(old),
        lambda old, rng: str(old),
        lambda old, rng: [old],
        lambda old, rng: old / 3,
    ),
}
"""Ways to change a word, and a number."""


def delete(rng: random.Random, holder: list[Any], extra: tuple[Any, ...]) -> None:
    """Take something away."""
    place, key = pick(rng, holder)
    if place is not holder:
        del place[key]


def duplicate(rng: random.Random, holder: list[Any], extra: tuple[Any, ...]) -> None:
    """Have something twice, or many times; in a dictionary under a second name."""
    place, key = pick(rng, holder)
    if isinstance(place, list):
        if place is not holder:
            place[key:key] = [copy.deepcopy(place[key]) for _ in range(rng.choice((1, 1, 1, 2, 100)))]
    else:
        place[f"{key}{rng.choice(('', 's', '_', ' ', '2'))}"] = copy.deepcopy(place[key])


def rename(rng: random.Random, holder: list[Any], extra: tuple[Any, ...]) -> None:
    """Give a key of a dictionary another name: of one beside it, or a strange one."""
    place, key = pick(rng, holder)
    if isinstance(place, dict):
        name = rng.choice((rng.choice(list(place)), rng.choice(WORDS), rng.choice(NUMBERS), None))
        place[name] = place.pop(key)


def swap(rng: random.Random, holder: list[Any], extra: tuple[Any, ...]) -> None:
    """Put a copy of one place's content into another."""
    (place, key), (other, name) = pick(rng, holder), pick(rng, holder)
    place[key] = copy.deepcopy(other[name])


def wrap(rng: random.Random, holder: list[Any], extra: tuple[Any, ...]) -> None:
    """Put something into a list or a dictionary, or into very many."""
    place, key = pick(rng, holder)
    for _ in range(rng.choice((1, 1, 2, 50))):
        place[key] = rng.choice(([place[key]], {"a": place[key]}))


TREE: tuple[Callable[[random.Random, list[Any], tuple[Any, ...]], None], ...] = (
    replace, replace_leaf, replace_leaf, replace_leaf, nudge, delete, duplicate, rename, swap, wrap,
)  # fmt: skip


def chunk(rng: random.Random, data: bytes) -> slice:
    """A part of some bytes, mostly a short one."""
    start = rng.randint(0, len(data))
    return slice(start, start + int(len(data) ** rng.random()))


BYTES: dict[str, Callable[[random.Random, bytes, slice], bytes]] = {
    "flip": lambda rng, data, at: (
        data[: at.start]
        + bytes(b ^ 1 << rng.randrange(8) for b in data[at.start : at.start + rng.choice((1, 1, 4))])
        + data[at.start + 4 :]
    ),
    "cut": lambda rng, data, at: data[: at.start],
    "drop": lambda rng, data, at: data[: at.start] + data[at.stop :],
    "double": lambda rng, data, at: data[: at.stop] + data[at],
    "zero": lambda rng, data, at: data[: at.start] + bytes(len(data[at])) + data[at.stop :],
    "insert": lambda rng, data, at: data[: at.start] + rng.choice(PIECES) + data[at.start :],
    "overwrite": lambda rng, data, at: data[: at.start] + (piece := rng.choice(PIECES)) + data[at.start + len(piece) :],
    "shuffle": lambda rng, data, at: data[: at.start] + bytes(rng.sample(data[at], len(data[at]))) + data[at.stop :],
    "before": lambda rng, data, at: rng.choice(PIECES) + data,
    "behind": lambda rng, data, at: data + rng.choice(PIECES),
}
PIECES = (
    b"\0", b"\0\0\0\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x80",
    b"\xff\xff\xff\x7f", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\x1b[31m", b"\n", b'"', b"{",
    b"[" * 3000, b"&", b"<", b"'", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"PK\3\4", b"\x80\x02",
    b"\x1f\x8b\x08", b"GIF89a", b" " * 5000,
)  # fmt: skip


def corrupt_tree(rng: random.Random, tree: Any, extra: tuple[Any, ...] = ()) -> Any:
    """A copy of a tree, broken in one place or a few."""
    holder = [copy.deepcopy(tree)]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(TREE)(rng, holder, extra)
    return holder[0]


def corrupt_bytes(rng: random.Random, data: bytes) -> bytes:
    """The bytes, broken in one place or a few."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        data = BYTES[rng.choice(list(BYTES))](rng, data, chunk(rng, data))
    return data


def corrupt_folder(rng: random.Random, files: Files) -> Files:
    """The files with one missing, empty, named strangely, as another one's content, or something else than a file."""
    name, other = rng.choice(list(files)), rng.choice(list(files))
    content = rng.choice((*SPECIAL, b"", files[other], None))
    kept = {key: data for key, data in files.items() if key != name}
    stem, dot, suffix = name.rpartition(".")
    strange = rng.choice(
        (name, name, f"{stem}\udcff{dot}{suffix}", f"{stem}\n{dot}{suffix}", f"{stem}{dot}{suffix.upper()}")
    )
    return kept if content is None else {**kept, strange: content}
