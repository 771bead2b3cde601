"""Sources of images: files, folders and arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cledet.data.images import image_files, read_image, rgb_arrays
from cledet.errors import UserError
from cledet.inference.frame import Frame

__all__ = ["Frame", "images_of", "read_frames"]


def read_frames(
    source: Any, *, recursive: bool = False, on_error: Callable[[str, UserError], None] | None = None
) -> Iterator[Frame]:
    """Yield the images of a source one by one."""
    for item in images_of(source):
        if isinstance(item, Path):
            yield Frame(image=read_image(item), path=item, name=str(item))
        else:
            yield Frame(image=item, path=None, name="array")


def images_of(source: Any) -> Iterator[Path | NDArray[np.uint8]]:
    """Yield the image files and RGB arrays of a source. Raises UserError for other types."""
    if isinstance(source, np.ndarray):
        yield from rgb_arrays(source)
    elif isinstance(source, str | Path):
        yield from image_files(source)
    elif isinstance(source, Iterable) and not isinstance(source, torch.Tensor | bytes | Mapping):
        for item in source:
            yield from images_of(item)
    else:
        hint = "convert a Pillow image with numpy.asarray, a tensor [3, H, W] with tensor.permute(1, 2, 0).numpy()"
        raise UserError(f"predict takes files and RGB arrays [H, W, 3] of uint8, not {type(source).__name__}", hint)
