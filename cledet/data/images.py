"""Image files: search and decoding, the same for check, train, val and predict."""

from __future__ import annotations

import glob
import io
import os
import re
import struct
import warnings
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from cledet.data.formats.paths import not_found_error, open_regular_file, read_bytes
from cledet.errors import UserError

Pixels = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""The decoded formats, whatever a file's suffix; among Pillow's others, EPS would start Ghostscript."""
MAX_PIXELS = 178_956_970
"""Limit on pixels per image, Pillow's own; a larger image is refused before it fills the memory."""
_STRIP = 256
"""Rows that are converted at a time."""
_WIDTH_TAG, _HEIGHT_TAG, _ORIENTATION_TAG = 256, 257, 274
_UNREADABLE = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, ArithmeticError, struct.error, MemoryError,
    Image.DecompressionBombError,
)  # fmt: skip
"""Exceptions that Pillow raises on broken files, collected by fuzzing."""
_TRUNCATED = re.compile("truncated|premature end", re.IGNORECASE)
"""Errors of Pillow and libjpeg at the end of a file, except for WebP, whose header has the length."""
_DAMAGE = re.compile("premature end|bad Huffman code|instead of RST", re.IGNORECASE)
"""Warnings of libjpeg that mean lost pixels; its others are harmless."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # each is either raised as an error here, or harmless


Damage = Literal["missing", "truncated", "unreadable"]


class ImageError(UserError):
    """An image file that is missing, truncated or unreadable."""

    def __init__(self, message: str, hint: str = "", kind: Damage = "unreadable") -> None:
        super().__init__(message, hint)
        self.kind = kind


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Pixels:
    """Read and decode one image file with `decode_image`.

    Raises ImageError with the path if the file is missing, truncated, damaged, too large or not an image.
    """
    path = Path(path)
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        error = not_found_error("image", path)
        raise ImageError(error.message, error.hint, "missing") from None
    except OSError as error:
        raise ImageError(f"cannot read image {path}: {error.strerror}") from error
    return decode_image(data, path, size)


def decode_image(data: bytes, path: str | Path, size: tuple[int, int] | None = None) -> Pixels:
    """Decode the content of an image file to contiguous RGB [H, W, 3].

    Grayscale becomes three channels, alpha is dropped, 16 bits are scaled to 8, an animation is decoded to its first
    frame, colour profiles are ignored. With `size`, the annotated (width, height), the EXIF orientation is applied
    only if the size then agrees; without, always.

    Raises ImageError with `path` if the content is truncated, damaged, too large or not an image.
    """
    try:
        pixels, orientation = _decode(data)
    except _UNREADABLE as error:
        webp_cut = data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data)
        kind: Damage = "truncated" if webp_cut or _TRUNCATED.search(str(error)) else "unreadable"
        raise ImageError(f"cannot decode image {path}: {error}", kind=kind) from error
    stored_size = pixels.shape[1::-1]
    if size is None or (orientation >= 5 and size != stored_size and size == stored_size[::-1]):
        pixels = _apply_orientation(pixels, orientation)
    return np.ascontiguousarray(pixels)


def rgb_arrays(array: npt.NDArray[np.generic]) -> list[Pixels]:
    """Convert an array of uint8 or uint16, one image or a batch [N, H, W, C], to RGB images [H, W, 3] of uint8.

    An image is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. As in files, gray becomes three channels, alpha is dropped,
    and 16 bits are scaled to 8. Raises UserError for another shape or type, and for an image without pixels.
    """
    shape = f"{array.dtype} {list(array.shape)}"
    if array.dtype not in (np.uint8, np.uint16):
        hint = "convert values from 0 to 1 with (255 * image).round().astype('uint8')"
        raise UserError(f"an image is an array of uint8, 0 to 255, not {shape}", hint)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, 4):
        hint = "move channels last with image.transpose(1, 2, 0)"
        raise UserError(f"an image is an array [H, W, 3], [H, W] or [H, W, 4], a batch [N, H, W, 3], not {shape}", hint)
    if 0 in array.shape[-3:]:
        raise UserError(f"an image of {shape} has no pixels", "leave it out")
    if array.dtype == np.uint16:
        array = _to_8_bits(np.asarray(array, dtype=np.uint16))
    images = [array] if array.ndim == 3 else list(array)
    return [
        np.ascontiguousarray(np.broadcast_to(image[..., :3], (*image.shape[:2], 3)), dtype=np.uint8) for image in images
    ]


def rgb_from_pillow(image: Image.Image) -> Pixels:
    """Convert a Pillow image to RGB [H, W, 3], as `decode_image` does: upright, without alpha, 16 bits scaled to 8.

    Raises ImageError if its file, which Pillow reads late, cannot be decoded.
    """
    try:
        return np.ascontiguousarray(_apply_orientation(_to_rgb(image), _orientation(image)))
    except _UNREADABLE as error:
        name = getattr(image, "filename", "") or "in memory"
        raise ImageError(f"cannot decode image {name}: {error}") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """Read width and height of an image from its header, with the EXIF orientation applied.

    Raises UserError with the path if the file cannot be read.
    """
    try:
        with open(path, "rb", opener=open_regular_file) as file, _open(file) as header:
            width, height = _stored_size(header)
            return (height, width) if _orientation(header) >= 5 else (width, height)
    except _UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"cannot read image {path}: {reason or error}") from error


def image_files(
    source: str | Path, *, recursive: bool = False, suffixes: frozenset[str] = IMAGE_SUFFIXES
) -> list[Path]:
    """List the image files of a path, a folder or a glob pattern, in natural order ("2" before "10").

    `recursive` includes subfolders; links to folders are not followed, as they may lead back.
    Raises UserError for a missing file, an empty folder, and a folder or pattern without images.
    """
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return [path]
    if path.is_dir():
        walked = (Path(parent, name) for parent, _, names in os.walk(path) for name in names)
        entries = list(walked if recursive else path.iterdir())
    elif glob.has_magic(str(source)):
        entries = [Path(name) for name in glob.glob(str(path), recursive=True)]
    else:
        raise not_found_error("image or folder", path.absolute())
    images = [entry for entry in entries if entry.suffix.lower() in suffixes and entry.is_file()]
    if not images:
        files = sum(entry.is_file() for entry in entries)
        content = f"it holds {files} other files" if files else "it holds nothing"
        if len(entries) > files:
            content = f"{content} but folders: --recursive includes them"
        raise UserError(f"no images in {source}", f"{content}; images end in .jpg, .png, .webp, ...")
    return sorted(images, key=_natural_order)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path).lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _decode(data: bytes) -> tuple[Pixels, int]:
    """Decode RGB pixels as stored, and read the EXIF orientation, 1 to 8."""
    if not data:
        raise ValueError("the file is empty")
    with _open(io.BytesIO(data)) as header:
        width, height = header.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"it is {width}x{height}, more than {MAX_PIXELS} pixels")
        jpeg = header.format in ("JPEG", "MPO") and header.mode in ("RGB", "L")
        pixels = _decode_jpeg(data, header) if jpeg else _to_rgb(header)
        return pixels, _orientation(header)


def _open(file: IO[bytes]) -> Image.Image:
    """Open an image and read its header. Raises ValueError for a format outside FORMATS."""
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("it is not an image, or its format is not supported") from None


def _decode_jpeg(data: bytes, header: Image.Image) -> Pixels:
    """Decode a JPEG to the pixels that Pillow computes, faster; damaged data are an error, unlike in Pillow."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(data), dtype=np.uint8)
    except ValueError as error:
        if _DAMAGE.search(str(error)):
            raise
        return _to_rgb(header)  # Pillow decodes rarer kinds too


def _to_rgb(image: Image.Image) -> Pixels:
    """Convert an image of any Pillow mode, or the first frame of an animation, to 8 bits per channel.

    The conversion goes by strips of rows: a large image never has more copies than Pillow's and the result.
    """
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers; save it with 8 or 16 bits per channel")
    image.load()
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        if image.mode.startswith("I"):  # 16 bits, or 32 bits with values of 16
            pixels[top : top + _STRIP] = _to_8_bits(np.asarray(strip))[:, :, None]
        else:
            pixels[top : top + _STRIP] = np.asarray(strip.convert("RGB"))
    return pixels


def _to_8_bits(values: npt.NDArray[np.integer]) -> Pixels:
    """Scale 16-bit values to 8 bits, rounded. Raises ValueError for values outside 16 bits."""
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("it holds 32-bit numbers; save it with 8 or 16 bits per channel")
    return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)


def _stored_size(header: Image.Image) -> tuple[int, int]:
    """Return width and height as stored; of a TIFF with an orientation, newer versions of Pillow report the upright."""
    if header.format != "TIFF":
        return header.size
    tags = header.getexif()
    return int(tags.get(_WIDTH_TAG, header.width)), int(tags.get(_HEIGHT_TAG, header.height))


def turns_in_place(path: str | Path) -> bool:
    """Return whether the annotated size cannot tell if the EXIF orientation is applied, which leaves it as it is.

    False for TIFF, which Pillow always turns upright, and for a file that cannot be read.
    """
    try:
        with open(path, "rb", opener=open_regular_file) as file, _open(file) as header:
            width, height = header.size
            last = 8 if width == height else 4
            return header.format != "TIFF" and 2 <= _orientation(header) <= last
    except _UNREADABLE:
        return False


def _orientation(header: Image.Image) -> int:
    """Read the EXIF orientation; 1 if it is missing or invalid."""
    try:
        value = header.getexif().get(_ORIENTATION_TAG, 1)
    except _UNREADABLE:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _apply_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """Rotate or flip pixels upright: orientations 2-4 are flips, 5-8 also swap the axes."""
    upright = pixels.transpose(1, 0, 2) if orientation >= 5 else pixels
    if orientation in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    if orientation in (3, 4, 7, 8):
        upright = upright[::-1]
    return upright
