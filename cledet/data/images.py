"""Finds and decodes images: one decoder for check, train, val and predict."""

from __future__ import annotations

import glob
import io
import re
import struct
import warnings
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from cledet.data.formats.paths import not_found_error, open_regular_file
from cledet.errors import UserError

Pixels = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""The formats that are decoded, whatever a file's name; of Pillow's others EPS would start Ghostscript."""
MAX_PIXELS = 178_956_970
"""Most pixels of an image, Pillow's own limit; a larger one is refused before it fills the memory."""
_ORIENTATION_TAG = 274
_UNREADABLE = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, ArithmeticError, struct.error, MemoryError,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises on broken files, as found by feeding it such."""
_DAMAGE = re.compile("premature end|bad Huffman code|instead of RST", re.IGNORECASE)
"""What libjpeg warns of where pixels are lost; what else it warns of is harmless."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # each is either an error here, or harmless


Damage = Literal["missing", "truncated", "unreadable"]


class ImageError(UserError):
    """An image that is not there, whose file ends too early, or that cannot be read."""

    def __init__(self, message: str, hint: str = "", kind: Damage = "unreadable") -> None:
        super().__init__(message, hint)
        self.kind = kind


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Pixels:
    """Decode one image file as `decode_image` does; nothing is written to it.

    Raises ImageError naming the file if it is missing, truncated, damaged, too large or no image.
    """
    path = Path(path)
    try:
        with open(path, "rb", opener=open_regular_file) as file:
            data = file.read()
    except FileNotFoundError:
        error = not_found_error("image", path)
        raise ImageError(error.message, error.hint, "missing") from None
    except OSError as error:
        raise ImageError(f"cannot read image {path}: {error.strerror}") from error
    return decode_image(data, path, size)


def decode_image(data: bytes, path: str | Path, size: tuple[int, int] | None = None) -> Pixels:
    """Decode the content of an image file to RGB [H, W, 3], contiguous.

    Grayscale becomes three channels, alpha is dropped, 16 bits are scaled to 8, an animation gives its first
    frame, colour profiles are left aside. `size` is (width, height) as annotated: the EXIF orientation is then
    applied only if that makes the size agree. Without `size` it is always applied.

    Raises ImageError naming `path` if the content is truncated, damaged, too large or no image.
    """
    try:
        pixels, orientation = _decode(data)
    except _UNREADABLE as error:
        raise ImageError(f"cannot decode image {path}: {error}", kind=_damage(data, error)) from error
    if orientation != 1 and _should_turn(pixels, orientation, size):
        pixels = _turn(pixels, orientation)
    return np.ascontiguousarray(pixels)


def rgb_arrays(array: npt.NDArray[np.generic]) -> list[Pixels]:
    """RGB images [H, W, 3] of an array of uint8: one image, or of a batch [N, H, W, C] each.

    An image is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. As in files, gray becomes three channels, alpha is dropped.
    Raises UserError for another shape or type, and for an image without pixels.
    """
    shape = f"{array.dtype} {list(array.shape)}"
    if array.dtype != np.uint8:
        known = "numbers from 0 to 1 become that by (255 * image).round().astype('uint8')"
        raise UserError(f"an image is an array of uint8, 0 to 255, not {shape}", known)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, 4):
        hint = "channels first become last by image.transpose(1, 2, 0)"
        raise UserError(f"an image is an array [H, W, 3], [H, W] or [H, W, 4], a batch [N, H, W, 3], not {shape}", hint)
    if 0 in array.shape[-3:]:
        raise UserError(f"an image of {shape} has no pixels", "leave it out")
    images = [array] if array.ndim == 3 else list(array)
    return [np.ascontiguousarray(np.broadcast_to(one[..., :3], (*one.shape[:2], 3)), dtype=np.uint8) for one in images]


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image as it is seen, by its EXIF orientation; only its head is read.

    Raises UserError naming the file if it cannot be read.
    """
    try:
        with open(path, "rb", opener=open_regular_file) as file, _open(file) as header:
            turned = int(header.getexif().get(_ORIENTATION_TAG, 1)) >= 5
            return (header.height, header.width) if turned else (header.width, header.height)
    except _UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"cannot read image {path}: {reason or error}") from error


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
        raise not_found_error("image or folder", path.absolute())
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
    with _open(io.BytesIO(data)) as header:
        width, height = header.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"it is {width}x{height}, more than {MAX_PIXELS} pixels")
        jpeg = header.format in ("JPEG", "MPO") and header.mode in ("RGB", "L")
        pixels = _decode_jpeg(data, header) if jpeg else _to_rgb(header)
        return pixels, _orientation(header)


def _open(file: IO[bytes]) -> Image.Image:
    """The head of an image; raises ValueError for what is none of FORMATS."""
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("it is no image, or of a kind that is not read") from None


def _decode_jpeg(data: bytes, header: Image.Image) -> Pixels:
    """As Pillow decodes, and sooner; unlike Pillow and OpenCV it says where data are damaged."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(data), dtype=np.uint8)
    except ValueError as error:
        if _DAMAGE.search(str(error)):
            raise
        return _to_rgb(header)  # which knows rarer kinds too


def _to_rgb(image: Image.Image) -> Pixels:
    """Any mode of Pillow's as 8 bits a channel; of an animation the first frame."""
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16 bits, or 32 that must hold no more
        deep = np.asarray(image, dtype=np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("it holds 32-bit numbers; save it with 8 or 16 bits a channel")
        gray = ((deep + 128) // 257).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _orientation(header: Image.Image) -> int:
    """The EXIF orientation, 1 where it is missing or makes no sense."""
    try:
        value = header.getexif().get(_ORIENTATION_TAG, 1)
    except _UNREADABLE:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _damage(data: bytes, error: Exception) -> Damage:
    cut = not _looks_whole(data) or "truncated" in str(error)
    return "truncated" if cut else "unreadable"


def _looks_whole(data: bytes) -> bool:
    """Whether a file has its end, as far as its format tells."""
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
