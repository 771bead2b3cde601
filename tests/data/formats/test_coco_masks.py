"""Boxes of annotations without `bbox` are those of their masks; a broken mask is an annotation error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask

from cledet.data.formats.coco import read_coco

HEIGHT, WIDTH = 30, 40
RECTANGLE = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
RECTANGLE[5:15, 8:28] = 1  # x 8, y 5, 20 px wide, 10 px high
COLUMN = HEIGHT - 10
UNCOMPRESSED = [8 * HEIGHT + 5, *([10, COLUMN] * 19), 10, COLUMN - 5 + (WIDTH - 28) * HEIGHT]
COMPRESSED = mask.encode(np.asfortranarray(RECTANGLE))["counts"].decode()
POLYGON = [8, 5, 28, 5, 28, 15, 8, 15]
BOX = [8, 5, 20, 10]


def read(tmp_path, *entries, sizes=True):
    image = {"id": 7, "file_name": "a.jpg"} | ({"width": WIDTH, "height": HEIGHT} if sizes else {})
    annotations = [{"id": i, "image_id": 7, "category_id": 1, **entry} for i, entry in enumerate(entries, 1)]
    content = {"images": [image], "categories": [{"id": 1, "name": "cat"}], "annotations": annotations}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "a.json")


def errors_of(index):
    """Return the examples of all annotation errors."""
    return [text for kind in index.annotation_errors for text in kind.examples]


def rle(counts, size=(HEIGHT, WIDTH)):
    return {"segmentation": {"size": list(size), "counts": counts}}


@pytest.mark.parametrize(
    "entry",
    [{"segmentation": [POLYGON]}, rle(UNCOMPRESSED), rle(COMPRESSED), {"segmentation": [POLYGON], "bbox": None}],
    ids=["polygon", "uncompressed", "compressed", "null box"],
)
def test_boxes_are_those_of_the_mask(tmp_path, entry):
    index = read(tmp_path, entry)
    assert index.xywh.tolist() == [BOX]
    assert index.area.tolist() == [200]
    assert errors_of(index) == []


def test_several_polygons_are_one_object(tmp_path):
    index = read(tmp_path, {"segmentation": [POLYGON, [30, 20, 34, 20, 34, 25, 30, 25]]})
    assert index.xywh.tolist() == [[8, 5, 26, 20]]
    assert index.area.tolist() == [220]


def test_a_box_and_an_area_of_the_file_are_kept(tmp_path):
    """Beside an annotation without box, whose own area is kept too."""
    index = read(tmp_path, {"bbox": [1, 2, 3, 4.5], "segmentation": [POLYGON]}, {"segmentation": [POLYGON], "area": 9})
    assert index.xywh.tolist() == [[1, 2, 3, 4.5], BOX]
    assert index.area.tolist() == [13.5, 9]


def test_crowds_are_read_too(tmp_path):
    assert read(tmp_path, rle(UNCOMPRESSED) | {"iscrowd": 1}).ignore.tolist() == [True]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, "fewer than three points"),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "cannot reshape"),
        ({"segmentation": [["a", 2, 3, 4, 5, 6]]}, "could not convert"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e9]]}, "far outside of the image"),
        ({"segmentation": [[50, 40, 60, 40, 60, 50]]}, "empty or larger"),
        ({"segmentation": "mask"}, "neither polygons nor rle"),
        ({"segmentation": {"counts": COMPRESSED}}, "size"),
        (rle([5, 5]), "do not add up"),
        (rle([-5, 5 + HEIGHT * WIDTH]), "do not add up"),
        (rle(7), "not iterable"),
        (rle(COMPRESSED, (5, 5)), "empty or larger"),
        (rle("é"), "ascii"),
        (rle(COMPRESSED, (0, WIDTH)), "no size in pixels"),
        (rle(COMPRESSED, (HEIGHT,)), "not enough values"),
        ({"segmentation": []}, "missing required field bbox"),
        ({}, "missing required field bbox"),
    ],
)
def test_a_broken_segmentation_is_an_annotation_error(tmp_path, entry, reason):
    index = read(tmp_path, {"segmentation": [POLYGON]}, entry)
    assert index.xywh.tolist() == [BOX]
    (error,) = errors_of(index)
    assert error.startswith("annotation 2: ")
    assert reason in error


def test_a_polygon_needs_the_size_of_its_image_and_an_rle_does_not(tmp_path):
    index = read(tmp_path, rle(COMPRESSED), {"segmentation": [POLYGON]}, sizes=False)
    assert index.xywh.tolist() == [BOX]
    assert "no size in pixels" in errors_of(index)[0]


def test_an_outline_of_any_length_is_not_rasterized(tmp_path):
    index = read(tmp_path, {"segmentation": [[0, 0, 40, 30] * 80_000]})
    assert "outline of a polygon is too long" in errors_of(index)[0]
