"""Reads every image file of a data set once: is it there, whole, how large, and what is its content's hash."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cledet.data.formats.paths import open_regular_file
from cledet.data.images import Damage, ImageError, decode_image
from cledet.data.index import DetectionIndex, Ints

Digests = npt.NDArray[np.bytes_]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class ImageFiles:
    """What reading F files has shown, in columns."""

    paths: npt.NDArray[np.str_]
    """[F] absolute paths, each once."""
    sizes: npt.NDArray[np.int32]
    """[F, 2] width and height as decoded; 0 where it cannot be."""
    digests: Digests
    """[F] 16 bytes: a hash of the content; empty where there is none."""
    damage: dict[int, tuple[Damage, str]]
    """What is wrong with those that cannot be decoded, and the reason, by position."""


def read_files(
    indices: Sequence[DetectionIndex],
    *,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ImageFiles, list[Ints]]:
    """Read and decode every file that these splits name, once however many name it.

    Returns what was found, and for each split the position [I] of every image's file. `progress` is told
    (files done, files in all). Memory is a few numbers a file; a handful are decoded at a time.
    """
    paths, first, positions = np.unique(
        np.concatenate([np.zeros(0, dtype="U1"), *(index.paths for index in indices)]),
        return_index=True, return_inverse=True,
    )  # fmt: skip
    annotated = np.concatenate([np.zeros((0, 2), dtype=np.int32), *(index.sizes for index in indices)])[first]
    sizes = np.zeros((len(paths), 2), dtype=np.int32)
    digests = np.zeros(len(paths), dtype="S16")
    damage: dict[int, tuple[Damage, str]] = {}
    work = zip(paths.tolist(), annotated.tolist())
    for i, (size, digest, trouble) in enumerate(_in_order(_read, work, threads)):
        sizes[i], digests[i] = size, digest
        if trouble is not None:
            damage[i] = trouble
        if progress is not None:
            progress(i + 1, len(paths))
    starts = np.cumsum([0, *map(len, indices)])
    at = [positions.reshape(-1)[start : start + len(index)] for start, index in zip(starts, indices)]
    return ImageFiles(paths, sizes, digests, damage), at


def _read(file: tuple[str, list[int]]) -> tuple[tuple[int, int], bytes, tuple[Damage, str] | None]:
    """Width and height, the content's hash, and what is wrong."""
    path, (width, height) = file
    try:
        with open(path, "rb", opener=open_regular_file) as stream:
            data = stream.read()
    except FileNotFoundError:
        return (0, 0), b"", ("missing", "")
    except OSError as error:
        return (0, 0), b"", ("unreadable", error.strerror or str(error))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    try:
        rows, columns = decode_image(data, path, (width, height) if width > 0 and height > 0 else None).shape[:2]
    except ImageError as error:
        return (0, 0), digest, (error.kind, error.message.rpartition(f"{path}: ")[2])
    return (columns, rows), digest, None


def _in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Results in order, from threads that are never far ahead; they do decode and hash side by side."""
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C wait for what is being decoded, not for what is queued


def default_threads() -> int:
    """Two for each CPU that this process may use: one decodes while another waits for the disk."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 * allowed
