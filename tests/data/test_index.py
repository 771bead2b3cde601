"""The columnar index against numbers worked by hand, and against pycocotools on the file itself."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cledet.data.formats.coco import read_coco
from cledet.data.index import DetectionIndex, group_by_image, labels_of
from cledet.errors import UserError
from cledet.evaluation.pycocotools_evaluator import coco_annotations


def make_index(**changes: object) -> DetectionIndex:
    """Three images: one crowd and one box, nothing, one box."""
    columns = {
        "name": "t/val",
        "classes": ("cat", "dog"),
        "category_ids": np.array([3, 17]),
        "paths": np.array(["/a.jpg", "/b.jpg", "/c.jpg"]),
        "image_ids": np.array([10, 9_999_999_999, 5]),
        "sizes": np.array([[40, 30], [50, 60], [8, 9]], dtype=np.int32),
        "starts": np.array([0, 2, 2, 3]),
        "xywh": np.array([[1.25, 2, 10, 20], [0, 0, 40, 30], [3, 4, 5, 0]], dtype=np.float64),
        "labels": np.array([1, 0, 1]),
        "ignore": np.array([False, True, False]),
        "area": np.array([150.0, 1200, 0]),
    }
    return DetectionIndex(**{**columns, **changes})  # type: ignore[arg-type]


def test_counts_and_boxes() -> None:
    index = make_index()
    assert len(index) == 3
    assert index.num_boxes == 3
    assert index.class_counts() == {"cat": 0, "dog": 2}
    assert index.boxes(0).tolist() == [[1.25, 2, 11.25, 22], [0, 0, 40, 30]]
    assert index.boxes(1).shape == (0, 4)
    assert index.boxes(2).dtype == np.float32
    assert index.image_of_boxes().tolist() == [0, 0, 2]


def test_class_counts_sum_classes_of_one_name() -> None:
    index = make_index(classes=("cat", "cat", "fish"), labels=np.array([1, 0, 0]))
    assert index.class_counts() == {"cat": 2, "fish": 0}


def test_degenerate_boxes_are_those_without_extent_or_not_numbers() -> None:
    index = make_index(xywh=np.array([[0, 0, 1, 1], [0, np.nan, 5, 5], [0, 0, 5, -1.0]]))
    assert index.degenerate().tolist() == [False, True, True]
    assert index.degenerate(slice(0, 1)).tolist() == [False]


def test_subset_takes_images_in_the_order_asked() -> None:
    subset = make_index().subset([2, 0])
    assert subset.image_ids.tolist() == [5, 10]
    assert subset.starts.tolist() == [0, 1, 3]
    assert subset.labels.tolist() == [1, 1, 0]
    assert make_index().subset([]).num_boxes == 0


def test_the_annotated_size_is_unknown_where_it_was_read_from_the_file() -> None:
    index = make_index(upright=np.array([False, True, False]))
    assert [index.size(image) for image in range(3)] == [(40, 30), (50, 60), (8, 9)]
    assert [index.annotated_size(image) for image in range(3)] == [(40, 30), None, (8, 9)]
    assert index.subset([1, 2]).upright.tolist() == [True, False]
    assert make_index().upright.tolist() == [False] * 3


def test_of_classes_keeps_all_images_and_names() -> None:
    index = make_index()
    dogs = index.of_classes([1])
    assert dogs.labels.tolist() == [1, 1]
    assert dogs.starts.tolist() == [0, 1, 1, 2]
    assert dogs.xywh[:, 0].tolist() == [1.25, 3]
    assert (dogs.image_ids.tolist(), dogs.classes) == (index.image_ids.tolist(), index.classes)
    assert index.of_classes([]).num_boxes == 0


def test_labels_of_names() -> None:
    names = ("cat", "dog", "cat")
    assert labels_of(["dog"], names, "t/val") == (1,)
    assert labels_of(["cat"], names, "t/val") == (0, 2)
    with pytest.raises(UserError, match=re.escape("t/val has no class 'dgo' (did you mean dog?)")):
        labels_of(["cat", "dgo"], names, "t/val")


def test_group_by_image_keeps_the_files_order_within_an_image() -> None:
    order, starts = group_by_image(np.array([2, 0, 2, 0]), 4)
    assert order.tolist() == [1, 3, 0, 2]
    assert starts.tolist() == [0, 2, 2, 4, 4]


def figures(truth: dict, detections: list) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize(
    ("truth", "results"),
    [
        ("coco2017_sub/annotations/instances_val2017.json", "coco2017_sub/detections/yolox_nano_raw.json"),
        (
            "coco_val2014_100/instances_val2014_100.json",
            "coco_val2014_100/instances_val2014_fakebbox100_results.json",
        ),
    ],
)
@pytest.mark.slow
def test_pycocotools_computes_the_same_on_the_index_and_on_the_file(
    shared_data: Path, truth: str, results: str
) -> None:
    content = json.loads((shared_data / truth).read_text())
    detections = json.loads((shared_data / results).read_text())
    detections = [d for d in detections if d.get("score", 1) > 0.1]
    index = read_coco(shared_data / truth)
    for_file = figures({**content, "info": {}}, [dict(d) for d in detections])
    for_index = figures(coco_annotations(index), [dict(d) for d in detections])
    assert for_file[0] > 0.1
    assert np.array_equal(for_file, for_index)
