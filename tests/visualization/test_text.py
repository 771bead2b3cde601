"""Text in any script: glyphs where a font has them, escapes where none does."""

from __future__ import annotations

import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from cledet.visualization import text
from cledet.visualization.text import default_font, font_for, text_mask


@pytest.fixture
def fonts(monkeypatch, tmp_path):
    """The installed fonts are those of this folder."""
    caches = (text.font_for, text.installed_fonts, text.text_mask)
    monkeypatch.setattr(text, "FONT_FOLDERS", dict.fromkeys(("linux", "darwin", "win32"), (str(tmp_path),)))
    for one in caches:
        one.cache_clear()
    yield tmp_path
    for one in caches:
        one.cache_clear()


@pytest.mark.parametrize("height", [10, 13, 40, 267])
def test_a_mask_has_the_height_of_its_line(height):
    mask = text_mask("Agjp 0.87", height)
    assert mask.shape[0] == height
    assert mask.max() == 255
    inked = np.flatnonzero(mask.any(axis=1))
    assert inked[0] >= 1  # nothing is cut off above
    assert mask[-1].mean() < 30
    assert 3 * height < mask.shape[1] < 6 * height


def test_text_is_wider_than_its_part():
    assert text_mask("person 0.87", 20).shape[1] > text_mask("person", 20).shape[1]
    assert text_mask("", 20).shape == (20, 1)


@pytest.mark.parametrize("word", ["человек", "κύπελλο", "Stühle", "ქართული", "שולחן", "كرسي", "đĩa", "½→✓"])
def test_dejavu_has_letters_of_many_scripts(fonts, word):
    assert {font_for(character) for character in word} == {default_font()}
    assert text_mask(word, 30).max() == 255


def test_letters_that_no_font_has_are_escapes(fonts):
    assert (text_mask("人", 20) == text_mask("\\u4eba", 20)).all()
    assert (text_mask("a\nb\x1b\udce9", 20) == text_mask("a\\nb\\x1b\\udce9", 20)).all()


def test_an_installed_font_is_used_for_the_letters_that_dejavu_lacks(fonts):
    """A font of matplotlib, which has letters that DejaVu lacks, is installed, beside a file that is no font."""
    (fonts / "a.ttf").write_bytes(b"no font")
    (fonts / "deep").mkdir()
    source = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf"
    shutil.copy(source, fonts / "deep" / "stix.TTF")
    has, lacks = text._characters(str(source)), text._characters(default_font())
    letter = chr(min(code for code in has - lacks if chr(code).isprintable() and code > 0x2000))
    assert font_for(letter) == str(fonts / "deep" / "stix.TTF")
    mixed = text_mask(f"a{letter}b", 40)
    assert mixed.shape[1] < text_mask(f"a{letter.encode('unicode_escape').decode()}b", 40).shape[1]
    assert text._runs(f"a{letter}b") == [
        ("a", default_font()), (letter, str(fonts / "deep" / "stix.TTF")), ("b", default_font()),
    ]  # fmt: skip


def test_marks_stay_with_their_letters(fonts):
    assert text._runs("e\u0301a") == [("e\u0301a", default_font())]
