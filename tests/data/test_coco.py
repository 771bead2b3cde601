"""COCO files: odd but legal ones are read, wrong ones are refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cledet.data.coco import find_coco, read_coco
from cledet.data.source import open_source
from cledet.errors import UserError


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
    assert index.to_coco()["annotations"] == []


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
    assert "1 boxes of images that it does not list" in index.notes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"categories": []}, "no categories"),
        ({"images": None}, "no list 'images'"),
        ({"images": [{"id": 1}]}, "no proper 'file_name'"),
        ({"images": [{"id": 1, "file_name": "a"}] * 2}, "image id 1 is given to several"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 1, "bbox": [0] * 4}]}, "unknown class 1.*4, 90"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 4, "bbox": [0, 1]}]}, "annotation 5 has no bbox"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 4}]}, "annotation 5 has no bbox"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_coco(write(tmp_path, {**content(), **change}))


def test_what_is_not_coco_is_refused(tmp_path: Path) -> None:
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
