"""COCO files: odd but legal ones are read, wrong ones are refused in a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cledet.data.formats.coco import read_coco
from cledet.data.formats.coco_files import find_coco
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.evaluation.pycocotools_evaluator import coco_annotations


def content() -> dict[str, Any]:
    """Two images, the second without boxes; category ids with holes, not in order; a crowd; no `area`."""
    return {
        "images": [
            {"id": 7, "file_name": "é 1.jpg", "width": 40, "height": 30},
            {"id": 1234567890, "file_name": "b.jpg"},
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 4, "name": "ant"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1.5, 2, 3, 4.25], "segmentation": [[1, 2, 3]]},
            {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 9, 9], "iscrowd": 1, "area": 5.5,
             "segmentation": {"size": [30, 40], "counts": "abc"}},
        ],
    }  # fmt: skip


def write(folder: Path, data: Any, name: str = "instances_val.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(data), encoding="utf-8")
    return folder / name


def draw(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(cv2.imencode(".jpg", np.zeros((30, 40, 3), np.uint8))[1].tobytes())


def test_reads_holes_crowds_empty_images_and_missing_areas(tmp_path: Path) -> None:
    index = read_coco(write(tmp_path, content()))
    assert index.classes == ("ant", "zebra")
    assert index.category_ids.tolist() == [4, 90]
    assert index.labels.tolist() == [1, 0]
    assert index.ignore.tolist() == [False, True]
    assert index.area.tolist() == [12.75, 5.5]
    assert index.starts.tolist() == [0, 2, 2]
    assert index.image_ids.tolist() == [7, 1234567890]
    assert index.sizes.tolist() == [[40, 30], [0, 0]]


def test_no_annotations_at_all(tmp_path: Path) -> None:
    index = read_coco(write(tmp_path, {**content(), "annotations": []}))
    assert (len(index), index.num_boxes, index.xywh.shape) == (2, 0, (0, 4))
    assert coco_annotations(index)["annotations"] == []


def test_names_give_the_order_and_may_have_more(tmp_path: Path) -> None:
    index = read_coco(write(tmp_path, content()), names=("zebra", "bee", "ant"))
    assert index.labels.tolist() == [0, 2]
    assert index.category_ids.tolist() == [90, 91, 4]
    with pytest.raises(UserError, match=r"class 'zebra' that `names` lacks.*did you mean zebras"):
        read_coco(write(tmp_path, content()), names=("ant", "zebras"))


def test_boxes_of_unlisted_images_are_left_out_and_noted(tmp_path: Path) -> None:
    data = content()
    data["annotations"].append({"id": 3, "image_id": 8, "category_id": 4, "bbox": [0, 0, 1, 1]})
    index = read_coco(write(tmp_path, data))
    assert index.num_boxes == 2
    assert "1 boxes belong to images that it does not list" in index.notes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"categories": []}, "no categories"),
        ({"images": None}, "no list 'images'"),
        ({"images": [{"id": 1, "file_name": "a"}] * 2}, "image id 1 is given to several"),
        ({"categories": [{"id": 4, "name": "a"}, {"id": 9, "name": "a"}]}, "categories 4 and 9 are both called 'a'"),
        ({"annotations": {}}, "no list 'annotations'"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_coco(write(tmp_path, {**content(), **change}))


GOOD = {"id": 5, "image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"category_id": 1}, "class", "annotation 5 has class 1, of 4, 90"),
        ({"bbox": [0, 1]}, "box", "annotation 5: expected array of length 4"),
        ({"bbox": [0, 1, 2, None]}, "box", r"annotation 5: expected float, got null - at $.bbox[3]"),
        ({"bbox": None}, "box", "annotation 5: expected array, got null - at $.bbox"),
        ({"image_id": "seven"}, "entry", "annotation 5: expected int, got str - at $.image_id"),
        ({"id": None, "area": "big"}, "entry", "annotation None: expected float | null, got str - at $.area"),
    ],
)
def test_invalid_annotations(tmp_path: Path, change: dict[str, Any], kind: str, words: str) -> None:
    index = read_coco(write(tmp_path, {**content(), "annotations": [GOOD, {**GOOD, **change}, {**GOOD, **change}]}))
    (error,) = index.annotation_errors
    assert (error.kind, error.count) == (kind, 2)
    assert all(words in example for example in error.examples)
    assert index.xywh.tolist() == [[1, 2, 3, 4]]


def test_an_entry_without_a_key_is_named_by_its_position(tmp_path: Path) -> None:
    data = {**content(), "images": [{"id": 7}, *content()["images"]], "annotations": [{"image_id": 7}, "x"]}
    index = read_coco(write(tmp_path, data))
    image, box, word = (example for error in index.annotation_errors for example in error.examples)
    assert image == "image 7: object missing required field file_name"
    assert box == "annotations[0]: object missing required field category_id"
    assert word == "annotations[1]: expected object, got str"


def test_training_refuses_annotation_errors_and_check_receives_them(tmp_path: Path) -> None:
    draw(tmp_path, "é 1.jpg", "b.jpg")
    source = open_source(write(tmp_path, {**content(), "annotations": [{**GOOD, "category_id": 1}]}))
    with pytest.raises(UserError, match=r"1 boxes are of an unknown class, the first: annotation 5.*cledet check"):
        source.index("val")
    assert source.index("val", allow_errors=True).annotation_errors[0].kind == "class"


def test_numbers_may_be_written_as_words_or_with_a_point(tmp_path: Path) -> None:
    data = {**content(), "annotations": [{**GOOD, "image_id": "7", "category_id": 90.0, "bbox": ["1", 2, 3, 4]}]}
    index = read_coco(write(tmp_path, data))
    assert (index.annotation_errors, index.labels.tolist(), index.xywh.tolist()) == ((), [1], [[1, 2, 3, 4]])


def test_boxes_that_are_no_numbers_are_degenerate(tmp_path: Path) -> None:
    boxes = [[float("nan"), 1, 2, 3], [0, 0, float("inf"), 1], [1, 2, 3, 4]]
    index = read_coco(write(tmp_path, {**content(), "annotations": [{**GOOD, "bbox": box} for box in boxes]}))
    assert index.annotation_errors == ()
    assert index.degenerate().tolist() == [True, True, False]


def test_a_file_of_images_only(tmp_path: Path) -> None:
    """COCO's image_info_test2017.json has no list of annotations."""
    data = content()
    del data["annotations"]
    index = read_coco(write(tmp_path, data))
    assert (len(index), index.num_boxes) == (2, 0)
    assert "its images count as unlabelled" in index.notes[0]


def test_the_parent_class_of_a_roboflow_export_is_dropped(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "red", "supercategory": "cells"},
        {"id": 2, "name": "white", "supercategory": "cells"},
    ]
    data = {**content(), "categories": categories, "annotations": [{**GOOD, "category_id": 2}]}
    assert read_coco(write(tmp_path, data)).classes == ("red", "white")
    data["annotations"].append({**GOOD, "category_id": 0})
    assert read_coco(write(tmp_path, data)).classes == ("cells", "red", "white")


def test_a_class_without_boxes_that_shares_its_parents_name_stays(tmp_path: Path) -> None:
    """COCO's person is of the supercategory person."""
    categories = [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 2, "name": "cat"}]
    data = {**content(), "categories": categories, "annotations": [{**GOOD, "category_id": 2}]}
    assert read_coco(write(tmp_path, data)).classes == ("person", "cat")


def test_a_label_studio_export_from_windows(tmp_path: Path) -> None:
    """result.json names images\\NAME; a folder with one file of annotations is any split."""
    draw(tmp_path / "images", "é 1.jpg", "b.jpg")
    data = content()
    for image in data["images"]:
        image["file_name"] = f"images\\{image['file_name']}"
    write(tmp_path, data, "result.json")
    source = open_source(tmp_path)
    assert source.splits == ("result",)
    index = source.index("train")
    assert index.paths.tolist() == [str(tmp_path / "images" / name) for name in ("é 1.jpg", "b.jpg")]


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "a/../../../../b.jpg", "..\\..\\x.jpg"])
def test_images_outside_of_the_data_set_are_not_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set"
    draw(folder, "b.jpg")
    data = content()
    data["images"][0]["file_name"] = name
    write(folder / "annotations", data)
    with pytest.raises(UserError, match=r"1 images lie outside the data set's folder.*outside: true"):
        open_source(folder).index("val")
    (folder / "d.yaml").write_text("val: annotations/instances_val.json\noutside: true")
    index = open_source(folder / "d.yaml").index("val", need_images=False)
    assert len(index) == 2
    assert index.annotation_errors == ()


def test_an_absolute_name_inside_of_the_data_set_is_read(tmp_path: Path) -> None:
    draw(tmp_path, "é 1.jpg", "b.jpg")
    data = content()
    data["images"][0]["file_name"] = str(tmp_path / "é 1.jpg")
    assert len(open_source(write(tmp_path, data)).index("val")) == 2


def test_json_that_is_not_coco_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a list, as detections are"):
        read_coco(write(tmp_path, []))
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match=r"x\.json is not valid JSON"):
        read_coco(tmp_path / "x.json")
    with pytest.raises(UserError, match=r"not found.*did you mean x.json"):
        read_coco(tmp_path / "y.json")


@pytest.mark.parametrize("images", ["annotations", "annotations/images", "val", "images", "images/val", "photos"])
def test_the_image_folder_is_found(tmp_path: Path, images: str) -> None:
    draw(tmp_path / images, "é 1.jpg", "b.jpg")
    index = open_source(write(tmp_path / "annotations", content())).index("test")
    assert index.paths.tolist() == [str(tmp_path / images / name) for name in ("é 1.jpg", "b.jpg")]
    assert index.name == f"{tmp_path.name}/val"


@pytest.mark.parametrize(
    ("name", "split"),
    [("annotations/instances_val2017.json", "val2017"), ("annotations/train.json", "train"), ("test.json", "test"),
     ("valid/_annotations.coco.json", "valid")],
)  # fmt: skip
def test_the_splits_of_a_folder_are_found(tmp_path: Path, name: str, split: str) -> None:
    write((tmp_path / name).parent, content(), Path(name).name)
    assert list(find_coco(tmp_path)) == [split]


def test_degenerate_boxes_stay_and_are_noted(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0]["bbox"] = [3, 3, 0, 5]
    draw(tmp_path, "é 1.jpg", "b.jpg")
    index = open_source(write(tmp_path, data)).index("val")
    assert index.num_boxes == 2
    assert not index.ignore[0]
    assert "1 of 2 boxes without width or height, the first in é 1.jpg" in index.notes[0]


def test_the_official_subset(shared_data: Path) -> None:
    source = open_source(shared_data / "coco2017_sub")
    index = source.index("val")
    assert source.splits == ("train2017", "val2017")
    assert (index.name, len(index), index.num_boxes) == ("coco2017_sub/val2017", 206, 1786)
    assert len(index.classes) == 80
    assert index.category_ids[-1] == 90
    assert int(index.ignore.sum()) == 21
    assert int(source.index("train").ignore.sum()) == 19
    assert index.notes == ()


BIG, LONG = 2**70, "x" * 300


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        ("images", {"id": BIG}, "image "),
        ("images", {"id": 2**63 - 1}, "image 9223372036854775807: expected int <="),
        ("images", {"id": 1.5}, "image 1.5|images"),
        ("images", {"width": 2**31}, "image 7: expected int <= 1000000000"),
        ("images", {"height": -BIG}, "image 7: "),
        ("images", {"file_name": LONG}, r"\.json: 'xxx.*it is longer than a path can be"),
        ("images", {"file_name": "a/" * 700}, "it is longer than a path can be"),
        ("images", {"file_name": "a\0b"}, "it holds a NUL character"),
        ("images", {"file_name": "\ud800"}, "it holds a character that file names cannot have"),
        ("categories", {"name": "\ud800"}, "category 90: a lone surrogate in its name"),
        ("categories", {"id": BIG}, "category "),
        ("annotations", {"image_id": BIG}, "annotation 1: "),
        ("annotations", {"image_id": -(2**63)}, "annotation 1: "),
        ("annotations", {"category_id": BIG}, "annotation 1: "),
        ("annotations", {"id": [["x" * 5000]], "bbox": 3}, r"annotations\[0\]: expected int"),
        ("annotations", {"id": "x" * 5000, "image_id": None}, "annotation x{40}: expected int"),
    ],
)
def test_values_beyond_the_columns_are_annotation_errors(
    tmp_path: Path, place: str, change: dict[str, Any], words: str
) -> None:
    data = content()
    data[place][0].update(change)
    index = open_source(write(tmp_path, data)).index("val", need_images=False, allow_errors=True)
    first = index.annotation_errors[0]
    assert first.kind in ("entry", "box")
    assert re.search(words, first.examples[0])
    assert len(first.examples[0]) <= 300


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"images": ' + b"[" * 100_000,
        b'{"images": [{"id": 1, "file_name": "\xff"}]}',
        b'{"images": [{"id": 1, "file_name": "\xed\xa0\x80"}]}',
        b'{"images": [' + b"9" * 5000 + b"]}",
        b'{"images"',
        b"\0",
        b"\xff\xfe",
        b"",
    ],
)
def test_invalid_json_is_a_user_error(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.json is not (valid JSON|a COCO annotation file)"):
        open_source(file).index("train")


@pytest.mark.filterwarnings("error")
def test_boxes_beyond_every_image_are_degenerate(tmp_path: Path) -> None:
    boxes = [[0, 0, 1e308, 1e308], [1e308, 0, 1e308, 5], [-2e9, 0, 4, 4], [0, 0, 9e8, 4]]
    index = read_coco(write(tmp_path, {**content(), "annotations": [{**GOOD, "bbox": box} for box in boxes]}))
    assert index.degenerate().tolist() == [True, True, True, False]
    assert index.boxes(0).shape == (4, 4)


def test_a_name_without_category_beside_the_largest_id(tmp_path: Path) -> None:
    data = content()
    data["categories"][0]["id"] = 2**62
    data["annotations"][0]["category_id"] = 2**62
    index = read_coco(write(tmp_path, data), names=("zebra", "ant", "bee", "cow"))
    assert index.category_ids.tolist() == [2**62, 4, 2**62 + 1, 2**62 + 2]
