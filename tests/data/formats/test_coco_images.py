"""The images of a COCO file: those of its own split, where several folders hold images of one name."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import contents, draw, write, write_coco

from cledet.data.open import open_source
from cledet.errors import UserError


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


@pytest.mark.parametrize("home", ["/home/nobody/set/{}", "//server/set/{}", "\\\\server\\set\\{}"])
def test_absolute_paths_of_another_machine_are_found_by_name(tmp_path: Path, home: str) -> None:
    draw(tmp_path, *(f"images/{split}/{i}.jpg" for split in ("train", "val") for i in (1, 2)))
    for split in ("train", "val"):
        names = [home.format(f"{split}/{i}.jpg") for i in (1, 2, 3)]
        write_coco(tmp_path / f"annotations/instances_{split}.json", names)
    source = open_source(tmp_path)
    assert contents(source, tmp_path) == {
        split: [f"images/{split}/{i}.jpg" for i in (1, 2)] for split in ("train", "val")
    }
    assert "1 of 3 images have no file" in source.index("train").notes[0]


@pytest.mark.parametrize("home", ["", "/nowhere/"])
def test_two_paths_are_not_one_image(tmp_path: Path, home: str) -> None:
    draw(tmp_path, "images/1.jpg", "images/2.jpg")
    write_coco(tmp_path / "labels.json", [f"{home}{name}.jpg" for name in ("a/1", "b/1", "a/2")])
    assert contents(open_source(tmp_path), tmp_path) == {"labels": ["images/2.jpg"]}


def test_an_absolute_path_that_exists_outside_is_refused_unless_the_image_is_here(tmp_path: Path) -> None:
    draw(tmp_path, "set/images/1.jpg", "other/1.jpg", "other/2.jpg")
    write_coco(tmp_path / "set/labels.json", [f"{tmp_path}/other/1.jpg"])
    assert contents(open_source(tmp_path / "set"), tmp_path / "set") == {"labels": ["images/1.jpg"]}
    write_coco(tmp_path / "set/labels.json", [f"{tmp_path}/other/1.jpg", f"{tmp_path}/other/2.jpg"])
    with pytest.raises(UserError, match=r"1 images lie outside the data set's folder, the first: .*other/2\.jpg"):
        open_source(tmp_path / "set").index("all")
    write(tmp_path / "set/d.yaml", "val: labels.json\noutside: true")
    index = open_source(tmp_path / "set/d.yaml").index("val")
    assert index.paths.tolist() == [f"{tmp_path}/other/1.jpg", f"{tmp_path}/other/2.jpg"]
