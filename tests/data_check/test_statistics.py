"""Histograms by hand, and objects as training sees them to the last bit."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.config.base import long_side
from cledet.data.dataset import DetectionDataset
from cledet.data.open import open_source
from cledet.data_check.statistics import RATIOS, SIDES, describe_split, objects_of


def describe(index, imgsz: int = 800, parts=()):
    return describe_split("train", index, index.sizes, objects_of(index, index.sizes), imgsz, parts)


def test_counts_by_hand(make_index) -> None:
    index = make_index(
        [(0, 0, 0, 8, 8), (1, 0, 0, 7, 7), (1, 10, 10, 32, 32), (0, 1, 1, 5, 0)],
        [],
        [(0, 0, 0, 100, 80), (0, 0, 0, 20, 80), (0, 5, 5, 9, 9)],
        sizes=[(100, 80), (100, 80), (200, 160)],
        ignore=[6],
    )
    found = describe(index, imgsz=160)
    assert [found[key] for key in ("images", "boxes", "ignored", "empty")] == [3, 7, 1, 1]
    assert (found["image_size"], found["image_size_count"]) == ((100, 80), 2)
    assert found["boxes_per_image"] == {"median": 3, "most": 4}
    assert found["classes"] == {"cat": 4, "dog": 2}
    assert found["sizes"] == {
        "annotated": {"small": 2, "medium": 3, "large": 0},  # areas 64, 49, 1024, 8000, 1600
        "resized": {"small": 2, "medium": 3, "large": 0},  # the first image twice as large: 256, 196, 4096, 8000, 1600
    }
    sides, ratios = found["sides"], found["ratios"]
    assert dict(zip((0, *SIDES), sides["annotated"])) == {
        0: 1, 8: 1, 16: 0, 32: 2, 64: 1, 128: 0, 256: 0, 512: 0, 1024: 0
    }  # fmt: skip
    assert dict(zip((0, *SIDES), sides["resized"])) == {  # sides 16 and 14, 64, then 89 and 40 as before
        0: 0, 8: 1, 16: 1, 32: 1, 64: 2, 128: 0, 256: 0, 512: 0, 1024: 0
    }  # fmt: skip
    assert dict(zip((0, *RATIOS), ratios["annotated"])) == {0: 0, 0.25: 1, 0.5: 0, 1: 4, 2: 0, 4: 0}


def test_the_document_has_its_bounds(make_index) -> None:
    document = describe(make_index([(0, 0, 0, 8, 8)]), parts=("a", "b"))
    assert document["parts"] == ("a", "b")
    assert document["sizes"]["annotated"] == {"small": 1, "medium": 0, "large": 0}
    assert document["sizes"]["resized"] == {"small": 0, "medium": 1, "large": 0}
    assert len(document["sides"]["annotated"]) == len(document["sides"]["bounds"]) + 1
    assert len(document["ratios"]["annotated"]) == len(document["ratios"]["bounds"]) + 1
    assert document["boxes_per_image"] == {"median": 1, "most": 1}


def test_splits_without_boxes_and_of_unknown_size(make_index) -> None:
    none = {"small": 0, "medium": 0, "large": 0}
    empty = describe(make_index([], []))
    assert (empty["boxes"], empty["sizes"]) == (0, {"annotated": none, "resized": none})
    assert sum(empty["sides"]["annotated"]) == sum(empty["ratios"]["annotated"]) == 0
    unknown = describe(make_index([(0, 1, 1, 5, 5)], sizes=[(0, 0)]))
    assert (unknown["image_size"], unknown["image_size_count"], unknown["boxes"]) == (None, 0, 1)
    assert unknown["sizes"]["annotated"] == none


@pytest.mark.parametrize("imgsz", [64, 131, 800])
def test_objects_are_those_of_training(squares: Path, imgsz: int) -> None:
    check_against_training(open_source(squares).index("train"), imgsz)


def test_objects_of_a_wide_image_are_those_of_training(make_index, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((61, 403, 3), dtype=np.uint8))
    index = make_index([(0, 3, 4, 91.5, 7), (1, 390, 50, 20, 20)], sizes=[(403, 61)], paths=[tmp_path / "a.png"])
    check_against_training(index, 128)


def test_objects_of_real_photos_are_those_of_training(shared_data: Path) -> None:
    for data, split in (("coco2017_sub", "val"), ("bccd", "val")):
        index = open_source(shared_data / data).index(split)
        check_against_training(index.subset(range(0, len(index), 9)), 333)


def check_against_training(index, imgsz: int) -> None:
    dataset = DetectionDataset(index, short=imgsz, long=long_side(imgsz))
    samples = [dataset[i] for i in range(len(index))]
    found = objects_of(index, index.sizes).resized(imgsz)
    assert np.array_equal(found.boxes, np.concatenate([sample.boxes.numpy() for sample in samples]))
    sizes = [sample.image.shape[:0:-1] for sample in samples for _ in sample.boxes]
    assert found.sizes.tolist() == [list(size) for size in sizes]
    labels = np.concatenate([sample.labels.numpy() for sample in samples])
    assert index.labels[found.rows].tolist() == labels.tolist()


def test_objects_are_clipped_and_neither_ignored_nor_degenerate(make_index) -> None:
    rows = [(0, 90, 70, 50, 50), (0, 1, 1, 0, 5), (0, 150, 0, 5, 5), (0, 1, 1, 5, 5), (0, float("nan"), 1, 2, 2)]
    objects = objects_of(index := make_index(rows, ignore=[3]), index.sizes)
    assert objects.rows.tolist() == [0]
    assert objects.boxes.tolist() == [[90, 70, 100, 80]]
    assert objects.areas().tolist() == [100]
