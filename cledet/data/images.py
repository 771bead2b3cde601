"""Finds and decodes images: one decoder for check, train, val and predict."""

from __future__ import annotations

import glob
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from cledet.data.paths import missing
from cledet.errors import UserError

Pixels = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
_ORIENTATION_TAG = 274
_FAST = {"JPEG", "PNG", "WEBP", "BMP"}
"""Formats that OpenCV decodes as Pillow does, 8 bits a channel."""
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


Damage = Literal["missing", "truncated", "unreadable"]


class ImageError(UserError):
    """An image that is not there, whose file ends too early, or that is none."""

    def __init__(self, message: str, hint: str = "", kind: Damage = "unreadable") -> None:
        super().__init__(message, hint)
        self.kind = kind


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Pixels:
    """Decode one image file as `decode_image` does; nothing is written to it.

    Raises ImageError naming the file if it is missing, truncated or no image.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        error = missing("image", path)
        raise ImageError(error.message, error.hint, "missing") from None
    except OSError as error:
        raise ImageError(f"cannot read image {path}: {error.strerror}") from error
    return decode_image(data, path, size)


def decode_image(data: bytes, path: str | Path, size: tuple[int, int] | None = None) -> Pixels:
    """Decode the content of an image file to RGB [H, W, 3], contiguous.

    Grayscale becomes three channels, alpha is dropped, 16 bits are scaled to 8, an animation gives its first
    frame. `size` is (width, height) as annotated: the EXIF orientation is then applied only if that makes the
    size agree. Without `size` it is always applied.

    Raises ImageError naming `path` if the content is truncated or no image.
    """
    try:
        pixels, orientation = _decode(data)
    except _UNREADABLE as error:
        raise ImageError(f"cannot decode image {path}: {error}", kind=_damage(data, error)) from error
    if orientation != 1 and _should_turn(pixels, orientation, size):
        pixels = _turn(pixels, orientation)
    return np.ascontiguousarray(pixels)


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Keep OpenCV from writing to stderr what is wrong with an image, for callers who say it themselves."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


def image_files(source: str | Path) -> list[Path]:
    """The images that a file, a folder or a pattern names, in natural order ("2" before "10").

    Raises UserError for a missing file, an empty folder, and where there is no image.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [entry for entry in path.iterdir() if entry.is_file()]
    elif glob.has_magic(str(source)):
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
    else:
        raise missing("image or folder", path.absolute())
    images = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        what = f"{len(found)} other files" if found else "nothing"
        raise UserError(f"no images in {source}", f"it holds {what}; images end in .jpg, .png, .webp, ...")
    return sorted(images, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path).lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _decode(data: bytes) -> tuple[Pixels, int]:
    """RGB pixels as stored, and the EXIF orientation, 1 to 8."""
    if not data:
        raise ValueError("the file is empty")
    try:
        header = Image.open(io.BytesIO(data))
    except _UNREADABLE:
        return _decode_fast(data), 1
    with header:
        orientation = int(header.getexif().get(_ORIENTATION_TAG, 1))
        plain = header.format in _FAST and header.mode in ("RGB", "RGBA", "L") and _looks_whole(data)
        return _decode_fast(data) if plain else _decode_any(header), orientation


def _decode_fast(data: bytes) -> Pixels:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(error.err) from error
    if pixels is None:
        raise ValueError("it is damaged or no image")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), dtype=np.uint8)


def _decode_any(image: Image.Image) -> Pixels:
    """What OpenCV does not read alike: CMYK, palettes, 16 bits, animations; and files that seem truncated."""
    if image.mode.startswith(("I", "F")):
        deep = np.asarray(image, dtype=np.float64)
        gray = np.clip(np.round(deep / 257 if image.mode.startswith("I") else deep), 0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _damage(data: bytes, error: Exception) -> Damage:
    cut = not _looks_whole(data) or "truncated" in str(error)
    return "truncated" if cut else "unreadable"


def _looks_whole(data: bytes) -> bool:
    """Whether a file has its end; OpenCV fills what is missing with grey and says nothing."""
    if data[:2] == b"\xff\xd8":  # JPEG: an end-of-image marker after the last start of scan
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if data[:4] == b"\x89PNG":
        return b"IEND" in data[-64:]
    if data[:4] == b"RIFF":
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    if data[:4] == b"GIF8":
        return b";" in data[-4:]
    return data[:2] != b"BM" or int.from_bytes(data[2:6], "little") <= len(data)


def _should_turn(pixels: Pixels, orientation: int, size: tuple[int, int] | None) -> bool:
    height, width = pixels.shape[:2]
    if size is None:
        return True
    return size != (width, height) and size == (height, width) and orientation >= 5


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation: 2-4 are flips, 5-8 also swap the axes."""
    upright = pixels.transpose(1, 0, 2) if orientation >= 5 else pixels
    if orientation in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    if orientation in (3, 4, 7, 8):
        upright = upright[::-1]
    return upright
