"""The images of a COCO file: those of its own split, where several folders hold images of one name."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import contents, draw, write_coco

from cledet.data.open import open_source


@pytest.mark.parametrize("images", ["images/{}", "{}", "data/photos/{}", "{}/images", "{}_images"])
@pytest.mark.parametrize(
    "file", ["annotations/instances_{}2017.json", "annotations/{}_coco.json", "annots/instances_{}_v1.json", "{}.json"]
)
def test_images_of_one_name_are_those_of_the_files_split(tmp_path: Path, file: str, images: str) -> None:
    for split in ("train", "val"):
        draw(tmp_path, *(f"{images.format(split)}/{i}.jpg" for i in (1, 2)))
        write_coco(tmp_path / file.format(split), ["1.jpg", "2.jpg"])
    folders = [images.format(split) for split in ("train", "val")]
    assert list(contents(open_source(tmp_path), tmp_path).values()) == [
        [f"{folder}/1.jpg", f"{folder}/2.jpg"] for folder in folders
    ]


def test_a_missing_image_is_not_taken_from_another_split(tmp_path: Path) -> None:
    draw(tmp_path, *(f"images/train/{i}.jpg" for i in range(1, 9)), "images/val/1.jpg")
    write_coco(tmp_path / "annotations/train_coco.json", [f"{i}.jpg" for i in range(1, 9)])
    write_coco(tmp_path / "annotations/val_coco.json", ["1.jpg", "2.jpg", "3.jpg"])
    source = open_source(tmp_path)
    assert contents(source, tmp_path)["val_coco"] == ["images/val/1.jpg"]
    assert "2 of 3 images have no file" in source.index("val").notes[0]


def test_nor_by_a_search_below_the_data_set(tmp_path: Path) -> None:
    draw(tmp_path, "data/photos/train/1.jpg", "data/photos/train/2.jpg", "data/photos/val/1.jpg")
    for split in ("train", "val"):
        write_coco(tmp_path / f"annotations/{split}_coco.json", ["1.jpg", "2.jpg"])
    found = contents(open_source(tmp_path), tmp_path)
    assert found["val_coco"] == ["data/photos/val/1.jpg"]
    assert found["train_coco"] == ["data/photos/train/1.jpg", "data/photos/train/2.jpg"]


@pytest.mark.parametrize("images", ["train", "images/train", "images"])
def test_images_of_all_splits_may_be_in_one_folder(tmp_path: Path, images: str) -> None:
    draw(tmp_path, *(f"{images}/{i}.jpg" for i in range(1, 5)), "images/test/9.jpg")
    write_coco(tmp_path / "annotations/instances_train.json", ["1.jpg", "2.jpg"])
    write_coco(tmp_path / "annotations/instances_val.json", ["3.jpg", "4.jpg"])
    found = contents(open_source(tmp_path), tmp_path)
    assert found == {split: [f"{images}/{i}.jpg" for i in ids] for split, ids in (("train", (1, 2)), ("val", (3, 4)))}
