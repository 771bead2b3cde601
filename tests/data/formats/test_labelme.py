"""LabelMe's files: shapes by hand, places of images, splits, invalid entries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import draw, write

from cledet.data.formats.labelme import LabelMeFiles, find_labelme, sniff


def shape(kind: str | None, points: list[list[float]], label: str = "dog", **more: Any) -> dict[str, Any]:
    kinds = {} if kind is None else {"shape_type": kind}
    return {"label": label, "points": points, "group_id": None, "flags": {}, **kinds, **more}


def content(*shapes: Any, image: str | None = "a.jpg", **more: Any) -> str:
    fields = {"imagePath": image, "imageData": "AAAA" * 9, "imageHeight": 30, "imageWidth": 40}
    return json.dumps({"version": "5.4.1", "flags": {}, "shapes": shapes, **fields, **more})


def make(folder: Path, files: dict[str, str], images: tuple[str, ...] = ()) -> LabelMeFiles:
    for name, text in files.items():
        write(folder / name, text)
    draw(folder, *images)
    reader = find_labelme(folder, [folder / name for name in sorted(files)])
    assert reader is not None
    return reader


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("rectangle", [[1, 2], [11, 22.5]], [1, 2, 10, 20.5]),
        ("rectangle", [[11, 22.5], [1, 2]], [1, 2, 10, 20.5]),  # drawn from the lower right corner
        ("rectangle", [[1, 22], [11, 22], [11, 2], [1, 2]], [1, 2, 10, 20]),
        ("polygon", [[5, 2], [9, 12], [1, 7]], [1, 2, 8, 10]),
        (None, [[5, 2], [9, 12], [1, 7]], [1, 2, 8, 10]),
        ("circle", [[10, 20], [13, 24]], [5, 15, 10, 10]),  # the radius is 5
        ("mask", [[1, 2], [11, 22]], [1, 2, 10, 20]),
        ("rotation", [[5, 2], [9, 7], [5, 12], [1, 7]], [1, 2, 8, 10]),
        ("rectangle", [[3, 4], [3, 9]], [3, 4, 0, 5]),
    ],
)
def test_shapes(tmp_path: Path, kind: str | None, points: list[list[float]], box: list[float]) -> None:
    index = make(tmp_path, {"a.json": content(shape(kind, points))}, ("a.jpg",)).read("all")
    assert index.xywh.tolist() == [box]
    assert index.sizes.tolist() == [[40, 30]]
    assert index.paths.tolist() == [str(tmp_path / "a.jpg")]
    assert index.ignore.tolist() == [box[2] == 0]
    assert not index.annotation_errors
    assert not index.notes


def test_points_and_lines_have_no_box_and_are_noted(tmp_path: Path) -> None:
    shapes = [shape("point", [[1, 2]]), shape("line", [[1, 2], [3, 4]]), shape("line", [[1, 2], [3, 4]], "cat")]
    index = make(tmp_path, {"a.json": content(*shapes)}).read("all")
    assert index.notes == ("all: shapes without a box are skipped: 2 line, 1 point.",)
    assert index.classes == ()
    assert len(index) == 1


def test_anylabelings_difficult_shapes_are_ignored(tmp_path: Path) -> None:
    rectangle = [[1, 2], [11, 22]]
    shapes = [shape("rectangle", rectangle, difficult=True), shape("rectangle", rectangle, difficult=False)]
    assert make(tmp_path, {"a.json": content(*shapes)}).read("all").ignore.tolist() == [True, False]


@pytest.mark.parametrize("path", ["a.jpg", "../images/a.jpg", "..\\images\\a.jpg", "C:\\Users\\me\\a.jpg", "/x/a.jpg"])
def test_images_are_found_by_path_or_name(tmp_path: Path, path: str) -> None:
    reader = make(tmp_path, {"labels/deep/a.json": content(image=path)}, ("images/a.jpg",))
    index = reader.read("all")
    assert index.paths.tolist() == [str(tmp_path / "images" / "a.jpg")]
    assert not index.annotation_errors


def test_a_file_without_a_path_is_of_the_image_of_its_name(tmp_path: Path) -> None:
    index = make(tmp_path, {"b.json": content(image=None)}, ("b.png",)).read("all")
    assert index.paths.tolist() == [str(tmp_path / "b.png")]


def test_folders_are_splits_and_classes_are_those_of_all(tmp_path: Path) -> None:
    rectangle = [[1, 2], [11, 22]]
    files = {
        "train/test_1.json": content(shape("rectangle", rectangle, "dog"), image="test_1.jpg"),
        "train/2.json": content(image="2.jpg"),
        "val/1.json": content(shape("rectangle", rectangle, "cat"), image="1.jpg"),
    }
    reader = make(tmp_path, files)
    assert list(reader.splits) == ["train", "val"]
    train = reader.read("train")
    assert (train.classes, len(train), train.labels.tolist()) == (("cat", "dog"), 2, [1])
    assert len(reader.inputs("val")[0]) == 3


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("{", "annotation", "a.json: "),
        ('{"shapes": 5}', "annotation", "shapes"),
        (content(5), "entry", "shapes[0]: expected"),
        (content({"points": []}), "entry", "label"),
        (content(shape("rectangle", [[1, 2]])), "box", "1 and 1 coordinates"),
        (content(shape("rectangle", [[1, 2], [3]])), "box", "points"),
        (content(shape("circle", [[1, 2]])), "box", "a circle of 1 points"),
        (content(shape("rectangle", [[1, 2], [1e300, 4]])), "box", "1e+300"),
        (content(shape("rectangle", [[1, 2], [3, 4]], "")), "class", "no class name"),
        (content(shape("rectangle", [[1, 2], [3, 4]], "\ud800")), "annotation", "a.json: "),
        (content(imageWidth=-5), "entry", "width and height are -5 and 30"),
        (content(image="a\0.jpg"), "entry", "NUL"),
        ("[" * 5000, "annotation", "a.json: "),
    ],
)
def test_invalid_files_and_shapes(tmp_path: Path, text: str, kind: str, words: str) -> None:
    (error,) = make(tmp_path, {"a.json": text}).read("all").annotation_errors
    assert (error.kind, error.count) == (kind, 1)
    assert words in error.examples[0]


def test_files_are_recognised_by_their_keys(tmp_path: Path) -> None:
    texts = {
        "a.json": content(),
        "data_first.json": json.dumps({"imageData": "A" * 100_000, "shapes": [], "imagePath": "a.jpg"}),
        "coco.json": '{"images": [], "annotations": [], "categories": []}',
        "list.json": '[{"shapes": []}]',
        "a.txt": content(),
        "deep.json": '{"a": [{"shapes": []}]}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert {name for name in texts if sniff(tmp_path / name)} == {"a.json", "data_first.json"}


number = st.floats(-1000, 1000)


@given(st.lists(st.tuples(number, number, number, number)))
def test_round_trip_of_corners(tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[float, ...]]) -> None:
    shapes = [shape("rectangle", [[a, b], [c, d]]) for a, b, c, d in boxes]
    index = make(tmp_path_factory.mktemp("labelme"), {"a.json": content(*shapes)}).read("all")
    expected = [[min(a, c), min(b, d), max(a, c) - min(a, c), max(b, d) - min(b, d)] for a, b, c, d in boxes]
    assert index.xywh.tolist() == expected


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    text = "\ufeff" + content(shape("rectangle", [[1, 2], [11, 22]]))
    index = make(tmp_path, {"a.json": text}, ("a.jpg",)).read("all")
    assert sniff(tmp_path / "a.json")
    assert (index.xywh.tolist(), index.annotation_errors) == ([[1, 2, 10, 20]], ())
