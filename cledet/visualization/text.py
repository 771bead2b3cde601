"""Text as bitmaps, in any script that a font on this machine has."""

from __future__ import annotations

import importlib.util
import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONT = "mpl-data/fonts/ttf/DejaVuSans.ttf"
"""The font that matplotlib brings: Latin, Greek, Cyrillic, Arabic, Hebrew, Georgian and more."""
FONT_FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": (r"C:\Windows\Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
}
"""Folders of installed fonts by system, searched for the characters that FONT lacks."""
_SUFFIXES = (".ttf", ".otf", ".ttc")


@lru_cache(maxsize=1024)
def text_mask(text: str, height: int) -> NDArray[np.uint8]:
    """Draw text with lines of `height` pixels; returns its coverage [height, W], 0 to 255.

    Characters that no font on this machine has are written as escapes, as are control characters.
    """
    runs = _runs(text)
    fonts = [(part, _font(file, height)) for part, file in runs]
    width = max(1, round(sum(font.getlength(part) for part, font in fonts)))
    canvas = Image.new("L", (width, height))
    draw, x, baseline = ImageDraw.Draw(canvas), 0.0, round(0.79 * height)
    for part, font in fonts:
        draw.text((x, baseline), part, fill=255, font=font, anchor="ls")
        x += font.getlength(part)
    mask = np.array(canvas)
    mask.flags.writeable = False  # it is cached
    return mask


def _runs(text: str) -> list[tuple[str, str]]:
    """Cut text into pieces, each with the file of a font that has its characters."""
    runs: list[tuple[str, str]] = []
    for character in text:
        if runs and unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf") and _has(runs[-1][1], character):
            file = runs[-1][1]  # a mark belongs to the letter before it
        elif (found := font_for(character)) is not None:
            file = found
        else:
            character, file = character.encode("unicode_escape").decode(), default_font()
        if runs and runs[-1][1] == file:
            runs[-1] = (runs[-1][0] + character, file)
        else:
            runs.append((character, file))
    return runs


@cache
def font_for(character: str) -> str | None:
    """Return the file of a font that has a character: FONT, else an installed one; None if there is none."""
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):  # newlines and half characters are never drawn
        return None
    return next((file for file in (default_font(), *installed_fonts()) if _has(file, character)), None)


@cache
def default_font() -> str:
    """Return the path of FONT; matplotlib itself is not imported."""
    package = importlib.util.find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    return str(Path(package.origin).parent / FONT)


@cache
def installed_fonts() -> tuple[str, ...]:
    """List the fonts of this machine in a fixed order."""
    folders = FONT_FOLDERS.get(sys.platform, ())
    return tuple(sorted(path for folder in folders for path in _fonts_in(os.path.expanduser(folder))))


def _fonts_in(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from (os.path.join(parent, name) for name in names if name.lower().endswith(_SUFFIXES))


def _has(file: str, character: str) -> bool:
    return ord(character) in _characters(file)


@cache
def _characters(file: str) -> frozenset[int]:
    """Return the code points of a font; none for a file that is no font."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (RuntimeError, OSError, ValueError):
        return frozenset()


@lru_cache(maxsize=64)
def _font(file: str, height: int) -> ImageFont.FreeTypeFont:
    """Load a font whose lines are about `height` pixels high."""
    return ImageFont.truetype(file, max(1, round(0.8 * height)))
