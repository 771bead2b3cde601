"""Sources of images: files, folders, patterns, lists, URLs, standard input, videos, cameras and Python objects."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cledet.data.images import IMAGE_SUFFIXES, image_files, read_image, rgb_arrays, rgb_from_pillow
from cledet.errors import UserError
from cledet.inference.frame import Frame, Item, broken, ready
from cledet.inference.stdin import stdin_items
from cledet.inference.urls import is_image_url, is_streamed, is_url, is_web_url, read_url, shown_url, url_suffix
from cledet.inference.video import (
    STREAM_SUFFIXES,
    VIDEO_SUFFIXES,
    camera_items,
    count_frames,
    stream_items,
    video_items,
)

__all__ = ["Frame", "Item", "find_items", "read_frames"]

STDIN = "-"
LIST_SUFFIX = ".txt"
OnError = Callable[[str, UserError], None]


class Missing(NamedTuple):
    """A source that could not be found or listed."""

    name: str
    error: UserError


Entry = str | Path | Missing
"""One file, URL, camera number, or `-`."""


def read_frames(source: Any, *, recursive: bool = False, on_error: OnError | None = None) -> Iterator[Frame]:
    """Yield the images of a source, decoded one at a time.

    A source is a path, folder, glob pattern, list file, URL, camera number or `-`, an RGB array, a Pillow image, a
    tensor, or an iterable of these. `recursive` includes subfolders.

    If an image cannot be read, `on_error(name, error)` is called and the next one follows. Without `on_error`, the
    UserError is raised.
    """
    for item in find_items(source, recursive=recursive):
        try:
            frame = item.read()
        except UserError as error:
            if on_error is None:
                raise
            on_error(item.name, error)
        else:
            yield frame


def read_one(source: Any, *, recursive: bool = False) -> Frame:
    """Return the only image of a source. Raises UserError if it holds several or none."""
    frames = read_frames(source, recursive=recursive)
    first, second = next(frames, None), next(frames, None)
    if first is None or second is not None:
        count = "no image" if first is None else "several images"
        raise UserError(f"predict_one takes one image, and this source holds {count}", "use predict")
    return first


def find_items(source: Any, *, recursive: bool = False) -> Iterator[Item]:
    """Yield the images of a source, to be decoded later; a source that cannot be opened gives an item that fails."""
    return _items(source, recursive, itertools.count())


def _items(source: Any, recursive: bool, counter: Iterator[int]) -> Iterator[Item]:
    if isinstance(source, int) and not isinstance(source, bool):
        source = str(source)
    if isinstance(source, str | Path):
        for entry in expand(source, recursive=recursive):
            yield from open_entry(entry, recursive=recursive)
    elif isinstance(source, np.ndarray | torch.Tensor | Image.Image):
        yield from _decoded(source, counter)
    elif isinstance(source, Iterable) and not isinstance(source, bytes | Mapping):
        for item in source:
            yield from _items(item, recursive, counter)
    else:
        kinds = "files, folders, URLs, RGB arrays [H, W, 3], tensors [3, H, W], Pillow images and iterables of these"
        name = type(source).__name__
        yield broken(f"image {next(counter)}", UserError(f"predict takes {kinds}, not {name}"))


def _decoded(source: NDArray[Any] | torch.Tensor | Image.Image, counter: Iterator[int]) -> Iterator[Item]:
    """Convert a Python object to its images."""
    try:
        if isinstance(source, Image.Image):
            images = [rgb_from_pillow(source)]
        else:
            images = rgb_arrays(_channels_last(source) if isinstance(source, torch.Tensor) else source)
    except UserError as error:
        yield broken(f"image {next(counter)}", error)
        return
    for image in images:
        yield ready(Frame(image, None, f"image {next(counter)}"))


def _channels_last(tensor: torch.Tensor) -> NDArray[Any]:
    """Convert a tensor [3, H, W], [H, W] or [N, 3, H, W] of uint8, or of floats from 0 to 1, to channels last.

    Raises UserError for floats outside this range.
    """
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()
        if tensor.numel() and not (tensor.amin() >= 0 and tensor.amax() <= 1):  # NaN fails too
            raise UserError("a tensor of floats holds values outside 0 to 1", "undo the normalization, or pass uint8")
        tensor = (tensor * 255).round().to(torch.uint8)
    if tensor.ndim >= 3 and tensor.shape[-3] not in (1, 3, 4) and tensor.shape[-1] in (1, 3, 4):
        shape = list(tensor.shape)
        raise UserError(f"a tensor is [3, H, W] or [N, 3, H, W], not {shape}", "move channels first with permute")
    return np.asarray(tensor.movedim(-3, -1) if tensor.ndim >= 3 else tensor)


def expand_all(sources: Iterable[str | Path], *, recursive: bool = False) -> list[Entry]:
    """Expand several sources with `expand`."""
    return [entry for source in sources for entry in expand(source, recursive=recursive)]


def expand(source: str | Path, *, recursive: bool = False) -> list[Entry]:
    """Expand a folder, a glob pattern or a list file to its files; return other sources as they are.

    Files come in natural order ("2" before "10"), those of a list in its own order. Those that cannot be listed become
    a Missing.
    """
    text = str(source)
    if text == STDIN or is_url(text) or (text.isdecimal() and not os.path.exists(text)):
        return [text]
    path = _path(text)
    if path.suffix.lower() == LIST_SUFFIX and os.path.isfile(path):
        return _listed(path, recursive)
    return expand_path(path, recursive=recursive)


def expand_path(path: Path, *, recursive: bool) -> list[Entry]:
    """Expand a folder or pattern to its files; a file, whatever it is called, is returned as it is."""
    try:
        return list(image_files(path, recursive=recursive, suffixes=IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    except UserError as error:
        return [Missing(str(path), error)]
    except (OSError, ValueError) as error:  # a folder that may not be read, a name that no file can have
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return [Missing(str(path), UserError(f"{path} cannot be read: {reason}"))]


def expand_line(line: str, folder: Path, *, recursive: bool) -> list[Entry]:
    """Expand one line of a list: a URL, or a path that starts from `folder`. `-` and numbers are file names there."""
    return [line] if is_url(line) else expand_path(folder / _path(line), recursive=recursive)


def _path(text: str) -> Path:
    """Return a path with `~` replaced by the home folder, where there is one."""
    try:
        return Path(os.path.expanduser(text))
    except ValueError:  # a user's name with a NUL character
        return Path(text)


def _listed(path: Path, recursive: bool) -> list[Entry]:
    """Expand the lines of a list file, whose relative paths start from its folder."""
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        return [Missing(str(path), UserError(f"{path} cannot be read: {error.strerror}"))]
    lines = [os.fsdecode(line.strip()) for line in data.splitlines() if line.strip()]
    if not lines:
        return [Missing(str(path), UserError(f"{path} lists no images", "write one path or URL a line"))]
    return [entry for line in lines for entry in expand_line(line, path.parent, recursive=recursive)]


def expected_count(entries: Iterable[Entry]) -> int | None:
    """Return the number of images in entries, for a progress bar; None if a stream or standard input is among them."""
    count = 0
    for entry in entries:
        if isinstance(entry, Missing) or (isinstance(entry, str) and is_image_url(entry)):
            count += 1
        elif isinstance(entry, str):
            return None
        elif entry.suffix.lower() not in VIDEO_SUFFIXES:
            count += 1
        elif (frames := count_frames(entry)) is not None:
            count += frames
        else:
            return None
    return count


def open_entries(entries: Iterable[Entry], *, recursive: bool = False) -> Generator[Item]:
    """Yield the images of entries, in order."""
    for entry in entries:
        yield from open_entry(entry, recursive=recursive)


def open_entry(entry: Entry, *, recursive: bool = False) -> Iterator[Item]:
    """Yield the images of one entry."""
    if isinstance(entry, Missing):
        yield broken(*entry)
    elif isinstance(entry, Path):
        yield from video_items(entry) if entry.suffix.lower() in VIDEO_SUFFIXES else [_file_item(entry)]
    elif entry == STDIN:
        yield from stdin_items(partial(_line_items, recursive=recursive))
    elif entry.isdecimal():
        yield from camera_items(int(entry))
    elif is_image_url(entry):
        yield _url_item(entry)
    else:
        yield from _url_items(entry)


def _line_items(line: str, *, recursive: bool) -> Iterator[Item]:
    """Yield the images of one line of standard input, a path or URL."""
    for entry in expand_line(line, Path(), recursive=recursive):
        yield from open_entry(entry)


def _file_item(path: Path) -> Item:
    return Item(str(path), lambda: Frame(read_image(path), path, str(path)))


def _url_item(url: str) -> Item:
    return Item(shown_url(url), lambda: Frame(read_url(url), None, shown_url(url)))


def _url_items(url: str) -> Iterator[Item]:
    """Yield the image at a URL, or its frames if the server says that it is a video or stream."""
    try:
        still = is_web_url(url) and url_suffix(url) not in VIDEO_SUFFIXES | STREAM_SUFFIXES and not is_streamed(url)
    except UserError as error:
        yield broken(shown_url(url), error)
    else:
        yield from [_url_item(url)] if still else stream_items(url)
