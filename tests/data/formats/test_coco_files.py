"""COCO files among other JSON, and which of them is the annotation file of a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trees import contents, draw, write, write_coco

from cledet.data.formats.coco_files import find_coco, sniff_coco
from cledet.data.open import open_source
from cledet.errors import UserError

LISTS = {"images": [], "annotations": [], "categories": []}


@pytest.mark.parametrize(
    ("content", "coco"),
    [
        (LISTS, True),
        ({"info": {}, "licenses": [{"id": 1}], "images": [{"id": 1}], "categories": []}, True),
        ({"categories": [], "images": []}, True),
        ({"images": [], "annotations": [{"image_id": 1, "caption": "a nut"}]}, False),  # captions
        ({"version": "5.0", "shapes": [], "imagePath": "a.jpg"}, False),  # LabelMe's
        ([{"image_id": 1, "bbox": [1, 2, 3, 4]}], False),  # results
        ([{"data": {"image": "a.jpg"}, "annotations": []}], False),  # Label Studio's
        ({"images": {}, "categories": 3}, False),
        ({}, False),
        ({"filler": "x" * 200_000, **LISTS}, True),
    ],
)
def test_sniff(tmp_path: Path, content: Any, coco: bool) -> None:
    for text in (json.dumps(content), json.dumps(content, indent=1), f"\ufeff\n {json.dumps(content)}\n\n"):
        assert sniff_coco(write(tmp_path / "a.json", text)) == coco


@pytest.mark.parametrize(
    ("data", "coco"),
    [
        (b'{"images": [{"id": 1}, {"id"', True),  # cut off, so that reading it tells where
        (json.dumps(LISTS).encode("utf-16"), True),
        (b"", False),
        (b"{", False),
        (b"\xff\xfe", False),
        (b"\0" * 100, False),
    ],
)
def test_sniff_damaged_files(tmp_path: Path, data: bytes, coco: bool) -> None:
    assert sniff_coco(write(tmp_path / "a.json", data)) == coco
    assert not sniff_coco(tmp_path)
    assert not sniff_coco(tmp_path / "b.json")


def test_two_files_of_one_split_are_ambiguous(tmp_path: Path) -> None:
    draw(tmp_path, "images/1.jpg")
    files = [write_coco(tmp_path / "json" / name, ["1.jpg"]) for name in ("a_train.json", "b_train.json", "val.json")]
    with pytest.raises(UserError, match=r"several COCO .* the split 'train': .*a_train.json and .*b_train.json \(pass"):
        open_source(tmp_path)
    assert contents(open_source(files[0]), tmp_path) == {"a_train": ["images/1.jpg"]}


def test_files_without_a_split_in_their_names_are_splits_by_name(tmp_path: Path) -> None:
    draw(tmp_path, "images/1.jpg", "images/2.jpg")
    write_coco(tmp_path / "json/cats.json", ["1.jpg"])
    write_coco(tmp_path / "json/dogs.json", ["2.jpg"])
    assert contents(open_source(tmp_path), tmp_path) == {"cats": ["images/1.jpg"], "dogs": ["images/2.jpg"]}
    write_coco(tmp_path / "more/dogs.json", ["2.jpg"])
    with pytest.raises(UserError, match="for the split 'dogs'"):
        open_source(tmp_path)


def test_other_json_beside_coco_files_is_no_split(tmp_path: Path) -> None:
    write_coco(tmp_path / "annotations/train.json", [])
    write(tmp_path / "annotations/captions_train.json", json.dumps({"images": [], "annotations": []}))
    write(tmp_path / "annotations/results.json", "[]")
    assert list(find_coco(tmp_path)) == ["train"]
    write(tmp_path / "annotations/instances_val.json", "{damaged")
    assert list(find_coco(tmp_path)) == ["val"]  # by its name, so that the damage is told


def test_an_image_that_is_missing_is_not_replaced_by_that_of_another_split(tmp_path: Path) -> None:
    draw(tmp_path, "train/1.jpg", "val/2.jpg")
    write_coco(tmp_path / "annotations/instances_train.json", ["1.jpg", "2.jpg"])
    write_coco(tmp_path / "annotations/instances_val.json", ["2.jpg"])
    index = open_source(tmp_path).index("train")
    assert index.paths.tolist() == [str(tmp_path / "train/1.jpg")]
    assert "1 of 2 images have no file" in index.notes[0]


def test_of_one_file_alone_only_unambiguous_images_are_searched_for(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg", "b/x/4.jpg", "c/4.jpg", "c/5.jpg")
    write_coco(tmp_path / "labels.json", ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "d/5.jpg"])
    index = open_source(tmp_path).index("train")
    assert [Path(path).relative_to(tmp_path).as_posix() for path in index.paths] == ["a/1.jpg", "a/2.jpg", "b/3.jpg"]


def test_images_are_not_searched_for_in_a_folder_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path, "deep/in/a/1.jpg")
    write_coco(tmp_path / "labels.json", ["1.jpg"])
    assert contents(open_source(tmp_path), tmp_path) == {"labels": ["deep/in/a/1.jpg"]}
    monkeypatch.setattr("cledet.data.formats.coco_images.SEARCHED", 3)
    with pytest.raises(UserError, match="none of its 1 images exists"):
        open_source(tmp_path).index("labels")
