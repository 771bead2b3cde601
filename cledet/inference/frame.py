"""One image on its way to the network, and the recipe to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from cledet.data.images import Pixels
from cledet.errors import UserError


@dataclass(frozen=True)
class Frame:
    """One decoded image with its origin."""

    image: Pixels
    """RGB uint8 [H, W, 3]."""
    path: Path | None
    """The image or video file; None for URLs, streams, standard input and Python objects."""
    name: str
    """The origin as it is shown: a path, a URL, "-", "webcam 0" or "image 3"."""
    number: int | None = None
    """Index of a video frame, from 0; None for a still image."""
    seconds: float | None = None
    """Time of a video frame from the start; None for a still image."""


@dataclass(frozen=True)
class Item:
    """An image that can be read: `read` decodes it, in any thread, or raises UserError."""

    name: str
    read: Callable[[], Frame]


def ready(frame: Frame) -> Item:
    """Return the item of an image that is decoded already."""
    return Item(frame.name, lambda: frame)


def broken(name: str, error: UserError) -> Item:
    """Return an item that raises `error` when it is read."""
    return Item(name, partial(_fail, error))


def _fail(error: UserError) -> NoReturn:
    raise error
