"""One pass over the image files of a data set: existence, damage, size, content hash and thumbnail."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cledet.data.formats.paths import read_bytes
from cledet.data.images import Damage, ImageError, decode_image
from cledet.data.index import Bools, DetectionIndex, Ints
from cledet.data.near_duplicates import COLUMNS, ROWS, Thumbnails, thumbnail

BATCH = 1000
"""Files that are queued at a time; a queue of all would take gigabytes for millions of files."""
Digests = npt.NDArray[np.bytes_]


class ImageFiles(NamedTuple):
    """Results of reading F files, in columns."""

    paths: npt.NDArray[np.str_]
    """[F] distinct absolute paths."""
    sizes: npt.NDArray[np.int32]
    """[F, 2] width and height as decoded; 0 if not decodable."""
    digests: Digests
    """[F] 16-byte hash of the content; empty if unreadable."""
    thumbnails: Thumbnails
    """[F, 16, 18] gray; 0 if not decodable."""
    damage: dict[int, tuple[Damage, str]]
    """Kind of damage and reason, by position, for files that cannot be decoded."""

    @property
    def decoded(self) -> Bools:
        """Mark the files [F] that were decoded."""
        return np.asarray((self.sizes > 0).all(axis=1))


def read_files(
    indices: Sequence[DetectionIndex], *, threads: int, progress: Callable[[int, int], None] | None = None
) -> tuple[ImageFiles, list[Ints]]:
    """Read and decode every image file of these splits once.

    Returns the results, and for each split the position [I] of every image's file. `progress` is called with (files
    done, number of files). Only a few images are in memory at a time.
    """
    paths, first, positions = np.unique(
        np.concatenate([np.zeros(0, dtype="U1"), *(index.paths for index in indices)]),
        return_index=True, return_inverse=True,
    )  # fmt: skip
    annotated = np.concatenate(
        [np.zeros((0, 2), dtype=np.int32), *(np.where(index.upright[:, None], 0, index.sizes) for index in indices)]
    )[first]
    sizes = np.zeros((len(paths), 2), dtype=np.int32)
    digests = np.zeros(len(paths), dtype="S16")
    thumbnails = np.zeros((len(paths), ROWS, COLUMNS), dtype=np.uint8)
    damage: dict[int, tuple[Damage, str]] = {}
    pool = ThreadPoolExecutor(threads)  # decoding and hashing release the GIL
    try:
        for begin in range(0, len(paths), BATCH):
            part = slice(begin, begin + BATCH)
            results = pool.map(_read, paths[part].tolist(), annotated[part].tolist())
            for i, (size, digest, gray, problem) in enumerate(results, begin):
                sizes[i], digests[i], thumbnails[i] = size, digest, gray
                if problem is not None:
                    damage[i] = problem
                if progress is not None:
                    progress(i + 1, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C, wait for running tasks and drop queued ones
    starts = np.cumsum([0, *map(len, indices)])
    at = [positions.reshape(-1)[start : start + len(index)] for start, index in zip(starts, indices)]
    return ImageFiles(paths, sizes, digests, thumbnails, damage), at


def _read(path: str, annotated: list[int]) -> tuple[tuple[int, int], bytes, Thumbnails, tuple[Damage, str] | None]:
    """Return width and height, the content's hash, the thumbnail, and kind and reason of damage, if any."""
    size, blank = (0, 0), np.zeros((ROWS, COLUMNS), dtype=np.uint8)
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return size, b"", blank, ("missing", "")
    except OSError as error:
        return size, b"", blank, ("unreadable", error.strerror or str(error))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    width, height = annotated
    try:
        pixels = decode_image(data, path, (width, height) if width > 0 and height > 0 else None)
    except ImageError as error:
        return size, digest, blank, (error.kind, error.message.rpartition(f"{path}: ")[2])
    return (pixels.shape[1], pixels.shape[0]), digest, thumbnail(pixels), None
