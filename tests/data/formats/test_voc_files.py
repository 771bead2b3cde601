"""VOC's XML outside VOC's folders: which image belongs to a file, lists, duplicates, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import contents, draw, write, write_xml

from cledet.data.formats.voc_files import find_voc_files, sniff_voc
from cledet.data.open import open_source
from cledet.errors import UserError


@pytest.mark.parametrize(
    ("text", "voc"),
    [
        ("<annotation><filename>a.jpg</filename></annotation>", True),
        ("\ufeff<?xml version='1.0'?>\n<!-- x --><annotation verified='no'>\n<object></object></annotation>", True),
        ("<annotation>\n<folder>x</folder><size><width>4</width></size>", True),
        ("<annotations><version>1.1</version><image name='a.jpg'></image></annotations>", False),  # CVAT's
        ("<annotation><text/></annotation>", False),
        ("<html><annotation><object/></annotation></html>", False),
        ("", False),
        ("no XML", False),
    ],
)
def test_sniff(tmp_path: Path, text: str, voc: bool) -> None:
    assert sniff_voc(write(tmp_path / "a.xml", text)) == voc


def test_a_missing_file_is_not_voc(tmp_path: Path) -> None:
    assert not sniff_voc(tmp_path / "a.xml")
    assert not sniff_voc(tmp_path)


def test_the_stem_decides_before_the_file_name(tmp_path: Path) -> None:
    """Sets are renamed and their XML files with them, but not what is written in these."""
    draw(tmp_path, "images/1.jpg", "images/2.jpg", "images/3.jpg")
    write_xml(tmp_path / "xml/1.xml", filename="3.jpg")
    write_xml(tmp_path / "xml/2.xml", filename="x.jpg")
    write_xml(tmp_path / "xml/first.xml", filename="D:\\photos\\3.JPG", image="3.jpg")
    assert contents(open_source(tmp_path), tmp_path) == {"all": [f"images/{i}.jpg" for i in "123"]}


def test_masks_of_the_same_name_are_not_the_image(tmp_path: Path) -> None:
    """As in the Oxford pets, whose annotations/ holds xmls/ and trimaps/."""
    for name in "12":
        draw(tmp_path, f"images/{name}.jpg", f"annotations/trimaps/{name}.png")
    write_xml(tmp_path / "annotations/xmls/1.xml", filename="1.jpg")
    write_xml(tmp_path / "annotations/xmls/2.xml")
    assert contents(open_source(tmp_path), tmp_path) == {"all": ["images/1.jpg", "images/2.jpg"]}


@pytest.mark.parametrize(
    ("lists", "splits"),
    [
        ({"ImageSets/Main/train.txt": "1\n2\n", "ImageSets/Main/val.txt": "3 1\n"}, {"train": "12", "val": "3"}),
        ({"imagesets/mine.txt": "2\n1\n", "imagesets/yours.txt": "\n3\n"}, {"mine": "21", "yours": "3"}),
        ({"train.txt": "images/1.jpg\nimages/2.jpg\n", "test.txt": "images\\3.jpg\n"}, {"test": "3", "train": "12"}),
        ({"ImageSets/Main/val.txt": "1\n", "ImageSets/Main/nut_val.txt": "1 1\n"}, {"val": "1"}),
        ({"ImageSets/Main/val.txt": "1\n", "ImageSets/Layout/val.txt": "2\n", "train.txt": "3\n"}, {"val": "1"}),
        ({"readme.txt": "1\n", "val.txt": "notes about validation\n"}, {"all": "123"}),
    ],
)
def test_lists_divide(tmp_path: Path, lists: dict[str, str], splits: dict[str, str]) -> None:
    for name in "123":
        draw(tmp_path, f"images/{name}.jpg")
        write_xml(tmp_path / f"annots/{name}.xml")
    for file, text in lists.items():
        write(tmp_path / file, text)
    expected = {split: [f"images/{name}.jpg" for name in names] for split, names in splits.items()}
    assert contents(open_source(tmp_path), tmp_path) == expected


def test_a_name_in_a_list_without_a_file_is_an_annotation_error(tmp_path: Path) -> None:
    draw(tmp_path, "images/1.jpg")
    write_xml(tmp_path / "annots/1.xml")
    write(tmp_path / "train.txt", "1\n7\n../../1\n")
    write(tmp_path / "val.txt", "1\n")
    index = open_source(tmp_path).index("train", allow_errors=True)
    assert [(error.kind, error.count) for error in index.annotation_errors] == [("annotation", 1)]
    assert index.annotation_errors[0].examples == (f"{tmp_path / 'train.txt'}: '7' has no XML file",)
    with pytest.raises(UserError, match="1 annotation files cannot be read"):
        open_source(tmp_path).index("train")


def test_two_files_of_one_image_are_ambiguous(tmp_path: Path) -> None:
    draw(tmp_path, "images/1.jpg", "images/2.jpg")
    for file in ("annots/1", "annots/2", "annots_old/1"):
        write_xml(tmp_path / f"{file}.xml")
    with pytest.raises(UserError, match=r"annots/1\.xml and .*annots_old/1\.xml annotate the same image, .*1\.jpg"):
        open_source(tmp_path).index("all")
    assert contents(open_source(tmp_path / "annots"), tmp_path) == {"all": ["images/1.jpg", "images/2.jpg"]}


def test_equal_names_in_different_folders_are_different_images(tmp_path: Path) -> None:
    for camera in "ab":
        draw(tmp_path, f"{camera}/images/1.jpg")
        write_xml(tmp_path / camera / "xml/1.xml")
    assert contents(open_source(tmp_path), tmp_path) == {"all": ["a/images/1.jpg", "b/images/1.jpg"]}


def test_images_without_a_file_and_files_without_an_image_are_noted(tmp_path: Path) -> None:
    draw(tmp_path, *(f"images/{name}.jpg" for name in "1234"), "covers/9.jpg")
    for name in "137":
        write_xml(tmp_path / f"annots/{name}.xml")
    index = open_source(tmp_path).index("all")
    assert [Path(path).name for path in index.paths] == ["1.jpg", "3.jpg"]
    assert "2 images have no XML file, the first is" in index.notes[0]
    assert index.notes[0].endswith("images/2.jpg: left out.")
    assert "1 of 3 images have no file, the first is" in index.notes[1]


def test_a_missing_image_is_not_taken_from_another_split(tmp_path: Path) -> None:
    draw(tmp_path, "train/1.jpg", "val/1.jpg", "val/2.jpg")
    for split in ("train", "val"):
        for stem in "12":
            write_xml(tmp_path / split / f"{stem}.xml")
    source = open_source(tmp_path)
    assert contents(source, tmp_path) == {"train": ["train/1.jpg"], "val": ["val/1.jpg", "val/2.jpg"]}
    assert source.index("train").notes[-1].endswith(f"the first is {tmp_path}/train/2.jpg: skipped.")


def test_no_image_at_all(tmp_path: Path) -> None:
    write_xml(tmp_path / "set/annots/1.xml")
    with pytest.raises(UserError, match=r"none of its 1 images exists"):
        open_source(tmp_path / "set").index("all")
    assert len(open_source(tmp_path / "set").index("all", need_images=False)) == 1


def test_moved_images_are_inputs(tmp_path: Path) -> None:
    """The paths of images are no part of the XML, so the cache must know of them."""
    draw(tmp_path, "images/1.jpg")
    reader = find_voc_files(tmp_path, [write_xml(tmp_path / "annots/1.xml")])
    before = reader.inputs("all")
    assert before[0] == [tmp_path / "annots/1.xml"]
    (tmp_path / "images").rename(tmp_path / "photos")
    assert reader.inputs("all") != before
