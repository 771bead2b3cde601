"""Image sizes for a copy: the annotated ones, completed and compared with the files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from cledet.data.images import image_size, turns_in_place
from cledet.data.index import DetectionIndex
from cledet.errors import UserError

THREADS = 8


def complete_sizes(index: DetectionIndex) -> DetectionIndex:
    """Return the index with unknown sizes read from the image files, for formats that annotate them."""
    unknown = (index.sizes <= 0).any(axis=1)
    complete = _with_sizes(index, np.flatnonzero(unknown).tolist())
    return omit_turned_sizes(replace(complete, upright=index.upright | unknown))


def omit_turned_sizes(index: DetectionIndex) -> DetectionIndex:
    """Return the index without the sizes of upright images whose EXIF orientation leaves their size.

    With an annotated size, the copy would be read as stored.
    """
    turned = _turned(index, np.flatnonzero(index.upright).tolist())
    sizes = index.sizes.copy()
    sizes[turned] = 0
    return replace(index, sizes=sizes, cache_folder=None) if turned else index


def compare_sizes(index: DetectionIndex) -> DetectionIndex:
    """Return the index with the sizes of the image files, as YOLO's reader takes them.

    Raises UserError if an image has another size than annotated, since its fractions would be of the wrong size, or if
    it is annotated as stored and its EXIF orientation turns it.
    """
    actual = _with_sizes(index, range(len(index)))
    wrong = np.flatnonzero((actual.sizes != index.sizes).any(axis=1) & (index.sizes > 0).all(axis=1))
    if len(wrong):
        (width, height), annotated = actual.sizes[wrong[0]].tolist(), index.sizes[wrong[0]].tolist()
        first = f"{index.paths[wrong[0]]} is {width}x{height} upright"
        raise UserError(
            f"{index.name}: {len(wrong)} images have another size than annotated, the first: {first}, annotated as "
            f"{annotated[0]}x{annotated[1]}",
            "YOLO's fractions need the size; `cledet check` lists all such images",
        )
    if turned := _turned(index, np.flatnonzero((index.sizes > 0).all(axis=1) & ~index.upright).tolist()):
        raise UserError(
            f"{index.name}: {len(turned)} images are annotated as stored, but have an EXIF orientation, the first: "
            f"{index.paths[turned[0]]}",
            "YOLO's boxes are on upright images: remove the orientation from these files",
        )
    return actual


def require_sizes(index: DetectionIndex) -> DetectionIndex:
    """Return the index. Raises UserError if an annotated size is unknown."""
    unknown = np.flatnonzero((index.sizes <= 0).any(axis=1))
    if len(unknown):
        first = f"{len(unknown)} images have no annotated size, the first: {index.paths[unknown[0]]}"
        raise UserError(f"{index.name}: {first}", "YOLO's fractions need the size: convert with the images")
    return index


def _turned(index: DetectionIndex, images: list[int]) -> list[int]:
    """Return those of the images whose EXIF orientation changes them but not their size."""
    with ThreadPoolExecutor(THREADS) as pool:
        turned = pool.map(turns_in_place, index.paths[images].tolist())
    return [image for image, is_turned in zip(images, turned) if is_turned]


def _with_sizes(index: DetectionIndex, images: range | list[int]) -> DetectionIndex:
    if not len(images):
        return index
    sizes = index.sizes.copy()
    with ThreadPoolExecutor(THREADS) as pool:
        sizes[images] = list(pool.map(image_size, index.paths[images].tolist()))
    return replace(index, sizes=sizes, cache_folder=None)
