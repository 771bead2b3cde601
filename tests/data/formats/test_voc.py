"""VOC folders: 1-based pixel boxes by hand, optional tags, lists, classes."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.data.formats.annotation_errors import ErrorLog
from cledet.data.formats.voc import VOC_CLASSES, listed_stem, pixel_box, read_xml
from cledet.data.index import image_numbers
from cledet.data.open import open_source
from cledet.errors import UserError

SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def thing(name: str, corners: tuple[float, ...] = (1, 1, 10, 5), extra: str = "") -> str:
    tags = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<object><name>{name}</name>{extra}<bndbox>{tags}</bndbox></object>"


def make_voc(folder: Path, images: dict[str, str], lists: dict[str, str]) -> Path:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for stem, objects in images.items():
        (folder / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{SIZE}{objects}</annotation>")
        cv2.imwrite(str(folder / "JPEGImages" / f"{stem}.jpg"), np.zeros((30, 40, 3), np.uint8))
    for name, text in lists.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    images = {
        "im_1": thing("nut") + thing("bolt", (3, 4, 3, 4)),
        "im_2": "",
        "im_3": thing("bolt", (31, 21, 40, 30), "<difficult>1</difficult><part><name>head</name></part>"),
    }
    return make_voc(tmp_path / "voc", images, {"train": "im_1\nim_2\n", "test": "im_3  1\n\n"})


@pytest.mark.parametrize(
    ("corners", "xywh"),
    [
        ((1, 1, 40, 30), (0, 0, 40, 30)),  # the whole of a 40x30 image
        ((3, 4, 4, 9), (2, 3, 2, 6)),  # columns 2 and 3, rows 3 to 8
        ((1.5, 1, 3.5, 2), (0.5, 0, 3, 2)),
        ((5, 5, 5, 5), (4, 4, 0, 0)),  # nothing, as in BCCD: not one pixel
        ((9, 5, 7, 6), (8, 4, -2, 2)),
    ],
)
def test_boxes_are_one_based_and_inclusive(corners: tuple[float, ...], xywh: tuple[float, ...]) -> None:
    assert pixel_box(corners) == xywh


@pytest.mark.parametrize(
    ("corners", "xywh"),
    [
        (("8.34", "1.1", "12.01", "301.4"), (7.34, 0.1, 4.67, 301.3)),  # as floats, 8.34 - 1 is 7.34 - 9e-16
        (("1.000000000000000000000001", "0.5", "2", "1.5"), (1e-24, -0.5, 2.0, 2.0)),
        (("1e-99999999999999999999", "1", "3", "2.5"), (-1.0, 0.0, 4.0, 2.5)),
    ],
)
def test_fractions_are_subtracted_as_decimals(
    tmp_path: Path, corners: tuple[float, ...], xywh: tuple[float, ...]
) -> None:
    (tmp_path / "a.xml").write_text(f"<annotation>{thing('x', corners)}</annotation>")
    image = read_xml(tmp_path / "a.xml", ("x",), ErrorLog())
    assert image is not None
    assert image[1].tolist() == [[0.0, *xywh, 0.0]]


def test_reads_a_folder(voc: Path) -> None:
    source = open_source(voc)
    index = source.index("train")
    assert source.splits == ("test", "train")
    assert index.name == "voc/train"
    assert index.classes == ("bolt", "nut")
    assert index.category_ids.tolist() == [1, 2]
    assert index.starts.tolist() == [0, 2, 2]
    assert index.xywh.tolist() == [[0, 0, 10, 5], [2, 3, 0, 0]]
    assert index.sizes.tolist() == [[40, 30]] * 2
    assert index.ignore.tolist() == [False, True]
    assert "the first in im_1.jpg" in index.notes[0]


def test_difficult_is_ignored_and_a_list_may_have_a_second_column(voc: Path) -> None:
    index = open_source(voc).index("test")
    assert index.ignore.tolist() == [True]
    assert index.image_ids.tolist() == [3]
    assert index.classes == ("bolt", "nut")
    assert index.class_counts() == {"bolt": 0, "nut": 0}


def test_without_lists_everything_is_one_split(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "v", {"a": thing("dog"), "b": ""}, {})
    index = open_source(folder).index("all")
    assert len(index) == 2
    assert index.classes == VOC_CLASSES
    assert index.image_ids.tolist() == [1, 2]


def test_lists_of_single_classes_are_not_splits(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "v", {"a": thing("dog")}, {"val": "a", "dog_val": "a 1", "my_set": "a"})
    assert open_source(folder).splits == ("my_set", "val")


def test_image_numbers() -> None:
    assert image_numbers(["2007_000027", "2007_000032"]).tolist() == [2007000027, 2007000032]
    assert image_numbers(["a1", "b1"]).tolist() == [1, 2]
    assert image_numbers(["a", "b2"]).tolist() == [1, 2]
    assert image_numbers(["1" * 30]).tolist() == [1]
    assert image_numbers(["00000", "00007"]).tolist() == [0, 7]


def test_missing_files_are_named(voc: Path) -> None:
    (voc / "JPEGImages" / "im_2.jpg").unlink()
    index = open_source(voc).index("train")
    assert len(index) == 1
    assert "1 of 2 images have no file" in index.notes[0]
    assert "im_2.jpg" in index.notes[0]
    assert len(open_source(voc).index("train", need_images=False)) == 2
    (voc / "JPEGImages" / "im_1.jpg").unlink()
    with pytest.raises(UserError, match=r"none of its 2 images exists.*im_1\.jpg"):
        open_source(voc).index("train")
    (voc / "Annotations" / "im_2.xml").unlink()
    with pytest.raises(UserError, match=r"1 annotation files cannot be read.*im_2\.xml: No such file"):
        open_source(voc).index("train")


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("<annotation>", "annotation", "no element found"),
        ("<a><object><name>x</name></object></a>", "box", "bndbox is missing"),
        ("<a><object><name>x</name><bndbox><xmin>1</xmin></bndbox></object></a>", "box", "ymin is missing"),
        ("<a><size><width>wide</width><height>2</height></size></a>", "annotation", "wide"),
        ("<a><object><bndbox/></object></a>", "class", "''"),
        ("<a><object><name>y</name></object></a>", "class", "'y' (choose from: x)"),
    ],
)
def test_invalid_annotations(tmp_path: Path, text: str, kind: str, words: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    errors = ErrorLog()
    image = read_xml(tmp_path / "a.xml", ("x",), errors)
    (error,) = errors.records()
    assert (image is None) == (kind == "annotation")
    assert image is None or len(image[1]) == 0
    assert (error.kind, error.count) == (kind, 1)
    assert f"{tmp_path / 'a.xml'}: " in error.examples[0]
    assert words in error.examples[0]


def test_an_external_entity_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden")
    entity = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
    (tmp_path / "a.xml").write_text(f"{entity}<a>{thing('&x;')}</a>")
    errors = ErrorLog()
    read_xml(tmp_path / "a.xml", ("hidden", "x"), errors)
    (error,) = errors.records()
    assert error.kind == "annotation"
    assert "undefined entity" in error.examples[0]


def test_an_xml_entity_bomb_is_refused(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 20}">' for i in range(1, 12))
    (tmp_path / "a.xml").write_text(f'<!DOCTYPE a [<!ENTITY e0 "ha">{levels}]><a>{thing("&e11;")}</a>')
    errors = ErrorLog()
    assert read_xml(tmp_path / "a.xml", ("x",), errors) is None
    assert "amplification" in errors.records()[0].examples[0]


def test_a_list_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "v", {"a": thing("dog")}, {"val": "a\n../../w/Annotations/b\n/etc/passwd"})
    with pytest.raises(UserError, match=r"2 images lie outside .*val\.txt: \.\./\.\./w"):
        open_source(folder).index("val")


@pytest.mark.parametrize(
    ("line", "stem"),
    [
        ("a", "a"),
        ("a.jpg", "a"),
        ("a  1", "a"),
        ("a.jpg 1", "a"),
        ("images/a.jpg", "a"),
        ("x\\y\\a.jpg", "a"),
        ("b.c", "b.c"),
        ("b.c.png", "b.c"),
        ("my image.jpg", "my image"),
        ("my image", "my image"),
        ("d", None),
        ("", None),
    ],
)
def test_a_name_in_a_list(line: str, stem: str | None) -> None:
    assert listed_stem(line, {"a", "b.c", "my image"}) == stem


def test_lines_with_blanks_suffixes_and_a_second_column(tmp_path: Path) -> None:
    names = {"photo (1)": thing("dog"), "photo": "", "b": ""}
    folder = make_voc(tmp_path / "v", names, {"val": "photo (1)\nb.jpg\nphoto 1"})
    index = open_source(folder).index("val")
    assert [Path(path).name for path in index.paths.tolist()] == ["photo (1).jpg", "b.jpg", "photo.jpg"]
    assert index.starts.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("files", "filename", "image"),
    [
        ("a.jpg a.png", "", "a.jpg"),  # a mask
        ("a.jpg a.txt a.xml", "", "a.jpg"),  # labels
        ("a.bmp a.png", "C:\\x\\a.png", "a.png"),
        ("a.jpg a.png", "a.png", "a.png"),
        ("a.JPEG a.png", "b.png", "a.JPEG"),
        ("a.txt", "", "a.jpg"),  # there is none
        ("a.webp", "a.jpg", "a.webp"),
    ],
)
def test_the_image_among_files_of_one_name(tmp_path: Path, files: str, filename: str, image: str) -> None:
    folder = make_voc(tmp_path / "v", {"a": ""}, {})
    (folder / "Annotations/a.xml").write_text(f"<annotation><filename>{filename}</filename>{SIZE}</annotation>")
    (folder / "JPEGImages" / "a.jpg").unlink()
    for name in files.split():
        (folder / "JPEGImages" / name).touch()
    index = open_source(folder).index("all", need_images=False)
    assert index.paths.tolist() == [str(folder / "JPEGImages" / image)]


def test_several_years_together(tmp_path: Path) -> None:
    """VOC07+12: a list of the same name in both years is one split; a YAML names lists by year."""
    make_voc(tmp_path / "VOC2007", {"000005": thing("dog"), "000006": ""}, {"trainval": "000005", "test": "000006"})
    make_voc(tmp_path / "VOC2012", {"2008_000002": thing("cat")}, {"trainval": "2008_000002"})
    make_voc(tmp_path / "other", {"a": thing("wolf")}, {"trainval": "a"})
    source = open_source(tmp_path)
    both = source.index("trainval")
    assert source.splits == ("test", "trainval")
    assert both.image_ids.tolist() == [5, 2008000002]
    assert [Path(path).parent.parent.name for path in both.paths.tolist()] == ["VOC2007", "VOC2012"]
    assert both.classes == VOC_CLASSES
    (tmp_path / "d.yaml").write_text("train: [VOC2007/trainval, VOC2012/trainval]\nval: VOC2007/test\nformat: voc")
    named = open_source(tmp_path / "d.yaml")
    assert named.index("train").image_ids.tolist() == [5, 2008000002]
    assert len(named.index("val")) == 1


def test_bccd(shared_data: Path) -> None:
    source = open_source(shared_data / "bccd")
    assert source.splits == ("test", "train", "trainval", "val")
    everything, test = source.index("trainval"), source.index("test")
    assert everything.classes == test.classes == ("Platelets", "RBC", "WBC")
    assert (len(everything), len(test)) == (292, 72)
    assert everything.num_boxes + test.num_boxes == 4155 + 372 + 361
    bad = everything.image_of_boxes()[everything.degenerate()]
    assert [Path(str(everything.paths[i])).stem for i in bad] == ["BloodImage_00338", "BloodImage_00343"]


def test_voc2012(shared_data: Path) -> None:
    index = open_source(shared_data / "voc2012_sub").index("val")
    assert index.classes == VOC_CLASSES
    assert (len(index), index.num_boxes, int(index.ignore.sum())) == (100, 273, 38)


def first_fault(folder: Path) -> tuple[str, str]:
    error = open_source(folder).index("train", allow_errors=True).annotation_errors[0]
    return error.kind, error.examples[0]


@pytest.mark.parametrize(
    "encoding",
    ["xyz", "utf-7", "rot13", "base64", "zip", "idna", "undefined", "hex", "big5", "utf-16"],
)
def test_an_unknown_encoding_is_an_annotation_error(voc: Path, encoding: str) -> None:
    text = f"<?xml version='1.0' encoding='{encoding}'?><annotation>{SIZE}</annotation>"
    (voc / "Annotations" / "im_1.xml").write_text(text)
    kind, said = first_fault(voc)
    assert kind == "annotation"
    assert re.search(r"im_1\.xml: .*(encoding|decoding)", said)


@pytest.mark.parametrize("number", ["1e300", "inf", "-inf", "nan", "9" * 5000])
def test_sizes_and_corners_beyond_every_image_are_annotation_errors(voc: Path, number: str) -> None:
    file = voc / "Annotations" / "im_1.xml"
    text = file.read_text()
    file.write_text(text.replace("<width>40<", f"<width>{number}<"))
    kind, said = first_fault(voc)
    assert (kind, said.partition("im_1.xml: ")[2][:9]) == ("annotation", "width is ")
    file.write_text(text.replace("<xmin>1<", f"<xmin>{number}<", 1))
    kind, said = first_fault(voc)
    assert (kind, said.partition("im_1.xml: ")[2][:13]) == ("box", "nut: xmin is ")


def test_entities_that_multiply_are_annotation_errors(voc: Path) -> None:
    laughs = "".join(f"<!ENTITY e{i} '{f'&e{i - 1};' * 10}'>" for i in range(1, 10))
    text = f"<!DOCTYPE a [<!ENTITY e0 'lol'>{laughs}]><annotation>{SIZE}{thing('&e9;')}</annotation>"
    (voc / "Annotations" / "im_1.xml").write_text(text)
    kind, said = first_fault(voc)
    assert kind == "annotation"
    assert "amplification" in said


def test_folders_in_the_place_of_files(voc: Path) -> None:
    (voc / "Annotations" / "b.xml").mkdir()
    (voc / "ImageSets" / "Main" / "more.txt").mkdir()
    source = open_source(voc)
    assert source.splits == ("test", "train")
    assert source.index("train").classes == ("bolt", "nut")
    (voc / "ImageSets" / "Main" / "train.txt").write_text("im_1\nb\n")
    assert first_fault(voc) == ("annotation", f"{voc}/Annotations/b.xml: Is a directory")


def test_a_list_that_is_not_utf_8_is_refused_and_names_that_no_file_has_are_annotation_errors(voc: Path) -> None:
    file = voc / "ImageSets" / "Main" / "train.txt"
    file.write_bytes(b"im_1\nim_2\xff\n")
    with pytest.raises(UserError, match=r"train\.txt is not UTF-8 text: invalid start byte at byte 9"):
        open_source(voc).index("train")
    file.write_text(f"im_1\n{'x' * 300}\na\0b\n")
    error = open_source(voc).index("train", allow_errors=True).annotation_errors[0]
    assert (error.kind, error.count) == ("entry", 2)
    assert error.examples[0].endswith("it is longer than a path can be")
    assert error.examples[1].endswith("'a\\x00b': it holds a NUL character")
