"""File names of copied images: unchanged where they can be, and never two of one stem."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from cledet.data.convert.names import unique_names


def test_names_stay() -> None:
    names = ["a.jpg", "b.PNG", "2007_000027.jpg", "äöü 目.webp", "with space.jpeg"]
    assert unique_names([f"/x/{i}/{name}" for i, name in enumerate(names)]) == names


def test_the_nearest_folder_that_differs_tells_names_apart() -> None:
    assert unique_names(["/d/cam1/7.jpg", "/d/cam2/7.jpg", "/d/8.jpg"]) == ["cam1_7.jpg", "cam2_7.jpg", "8.jpg"]
    assert unique_names(["/A/images/train/0.jpg", "/B/images/train/0.jpg"]) == ["A_0.jpg", "B_0.jpg"]


def test_a_number_tells_names_apart_where_no_folder_does() -> None:
    assert unique_names(["/d/a.jpg", "/d/a.png", "/d/a.jpg"]) == ["a.jpg", "a_2.png", "a_3.jpg"]
    assert unique_names(["/d/a.jpg", "/d/a.png", "/d/a_2.jpg"]) == ["a.jpg", "a_3.png", "a_2.jpg"]
    assert unique_names(["/x/a.jpg", "/y/a.jpg", "/z/x_a.jpg"]) == ["x_a_2.jpg", "y_a.jpg", "x_a.jpg"]


def test_names_that_file_systems_confuse_are_told_apart() -> None:
    assert unique_names(["/d/a.jpg", "/d/A.jpg"]) == ["a.jpg", "A_2.jpg"]
    assert unique_names(["/d/\u00e4.jpg", "/d/a\u0308.jpg"]) == ["\u00e4.jpg", "a\u0308_2.jpg"]


def test_unfit_characters_become_underscores() -> None:
    assert unique_names(["/d/a\nb\\c.jpg", "/d/a b.jpg"]) == ["a_b_c.jpg", "a b.jpg"]
    assert unique_names(["/d/a b.jpg", "/d/a\u00a0b.jpg"], blanks=False) == ["a_b.jpg", "a_b_2.jpg"]
    assert unique_names([os.fsdecode(b"/d/\xff.jpg"), os.fsdecode(b"/d/\xfe.jpg")]) == ["\ufffd.jpg", "\ufffd_2.jpg"]


def test_a_name_without_an_image_suffix_gets_one() -> None:
    assert unique_names(["/d/1", "/d/scan.7", "/d/.jpg"]) == ["1.jpg", "scan.7.jpg", ".jpg.jpg"]


@given(st.lists(st.text("aAä\u0308ß. _2/\\\n", min_size=1, max_size=6).map("/".__add__)), st.booleans())
def test_names_are_always_distinct_and_valid(paths: list[str], blanks: bool) -> None:
    long = [f"/{'x' * 250}.jpg", f"/y/{'x' * 250}.jpg", f"/y/{'x' * 250}.jpeg"]
    names = unique_names([*paths, *long], blanks=blanks)
    stems = {os.path.splitext(name)[0].casefold() for name in names}
    assert len(stems) == len(names) == len(paths) + 3
    assert all(len(name.encode()) <= 255 and "/" not in name and "\\" not in name for name in names)
    assert blanks or all(name.split() == [name] for name in names)
