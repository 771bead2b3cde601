"""The walk of a folder, and the look-up of images by the names that annotations give."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trees import draw, write

from cledet.data.formats.walk import divide, is_of_another_split, walk_folder
from cledet.errors import UserError


def test_hidden_entries_are_left_out_and_links_are_followed_once(tmp_path: Path) -> None:
    draw(tmp_path, "b.jpg", "a.jpg", ".c.jpg", ".git/d.jpg", "__MACOSX/e.jpg", "in/f.jpg")
    (tmp_path / "in" / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    walk = walk_folder(tmp_path)
    assert walk.folders == {str(tmp_path): ["a.jpg", "b.jpg", "gone"], str(tmp_path / "in"): ["f.jpg"]}
    assert list(walk.files((".jpg",))) == [(str(tmp_path), ["a.jpg", "b.jpg"]), (str(tmp_path / "in"), ["f.jpg"])]
    assert not walk_folder(write(tmp_path / "x/a.txt", "").parent).has_images()


def test_a_folder_without_end_is_refused(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg", "in/b.jpg")
    assert len(walk_folder(tmp_path, 3).folders) == 2
    with pytest.raises(UserError, match=r"holds more than 2 files and folders \(name the data set's folder"):
        walk_folder(tmp_path, 2)
    with pytest.raises(UserError, match="the whole file system"):
        walk_folder(Path("/"))


@pytest.mark.parametrize(
    ("images", "name", "near", "found"),
    [
        (["x/1.jpg"], "1.jpg", "y", "x/1.jpg"),
        (["x/1.jpg"], "1", "y", "x/1.jpg"),
        (["x/1.JPG"], "1.png", "y", "x/1.JPG"),  # converted
        (["x/a.b.jpg"], "a.b", "y", "x/a.b.jpg"),
        (["x/1.jpg"], "C:\\old\\1.jpg", "y", "x/1.jpg"),
        (["x/1.jpg"], "2.jpg", "y", None),
        (["x/1.jpg"], "", "y", None),
        (["train/1.jpg", "val/1.jpg"], "val/1.jpg", "train", "val/1.jpg"),  # the name's own folder
        (["a/val/1.jpg", "b/val/1.jpg"], "b/val/1.jpg", "a/val", "b/val/1.jpg"),
        (["train_images/1.jpg", "test_images/1.jpg"], "1.jpg", "train_xml", "train_images/1.jpg"),  # the split
        (["images/1.jpg", "masks/1.png"], "1.jpg", "masks", "images/1.jpg"),  # the suffix
        (["images/1.png", "masks/1.png"], "1.png", "xml", "images/1.png"),  # a usual name
        (["a/photos/1.png", "b/photos/1.png"], "1.png", "b/xml", "b/photos/1.png"),  # the same folder above
        (["a/1.png", "images/1.png"], "1.png", "a", "a/1.png"),  # beside
    ],
)
def test_the_image_of_a_name(tmp_path: Path, images: list[str], name: str, near: str, found: str | None) -> None:
    for order in (images, images[::-1]):
        folder = tmp_path / str(order is images)
        draw(folder, *order)
        path = walk_folder(folder).images().find(name, str(folder / near))
        assert path == (None if found is None else str(folder / found))


@pytest.mark.parametrize(
    ("images", "name", "near", "found"),
    [
        (["images/val/1.jpg", "images/train/2.jpg"], "1.jpg", "annotations/train", None),
        (["val/1.jpg", "train/2.jpg"], "1.jpg", "train", None),  # beside the annotations
        (["val/images/1.jpg", "test/images/1.jpg", "train/images/2.jpg"], "images/1.jpg", "train/xml", None),
        (["images/val/1.jpg", "images/train/2.jpg"], "val/1.jpg", "annotations/train", "images/val/1.jpg"),  # named
        (["images/train/1.jpg", "images/test/2.jpg"], "1.jpg", "annotations/val", "images/train/1.jpg"),
        (["train/1.jpg"], "1.jpg", "val", "train/1.jpg"),  # all images are in one folder
        (["images/1.jpg", "images/train/2.jpg"], "1.jpg", "annotations/train", "images/1.jpg"),
    ],
)
def test_an_image_of_another_split_is_not_taken(
    tmp_path: Path, images: list[str], name: str, near: str, found: str | None
) -> None:
    draw(tmp_path, *images)
    path = walk_folder(tmp_path).images().find(name, str(tmp_path / near))
    assert path == (None if found is None else str(tmp_path / found))


def test_a_unique_image_is_in_the_folders_of_its_name(tmp_path: Path) -> None:
    draw(tmp_path, "val/1.jpg", "val/2.jpg", "train/2.jpg")
    images = walk_folder(tmp_path).images()
    assert images.find("1.jpg", "", unique=True) == images.find("val/1.jpg", "", unique=True)
    assert images.find("1.jpg", "", unique=True) == str(tmp_path / "val/1.jpg")
    assert images.find("train/1.jpg", "", unique=True) is None
    assert images.find("2.jpg", "", unique=True) is None
    assert images.find("3.jpg", "", unique=True) is None


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        ("a b", {"all": "a b"}),
        ("train val", {"train": "train", "val": "val"}),
        ("xml_train xml_val", {"train": "xml_train", "val": "xml_val"}),
        ("x/train/a x/train/b x/val/a", {"train": "x/train/a x/train/b", "val": "x/val/a"}),
        ("train/val2017/x test/x", {"val2017": "train/val2017/x", "test": "test/x"}),  # the nearest folder
        ("train bus", {"all": "train bus"}),  # classes
        ("train val more", {"train": "train", "val": "val", "more": "more"}),
        ("Train-2 VALIDATION", {"Train-2": "Train-2", "VALIDATION": "VALIDATION"}),
        ("training_set/a testing/a", {"training": "training_set/a", "testing": "testing/a"}),
        ("latest contest retrain", {"all": "latest contest retrain"}),
        ("train", {"train": "train"}),
    ],
)
def test_splits_in_names(paths: str, splits: dict[str, str]) -> None:
    root = Path(os.sep, "home", "test")
    divided = divide((root / path for path in paths.split()), root)
    assert {name: [str(path.relative_to(root)) for path in group] for name, group in divided.items()} == {
        name: group.split() for name, group in splits.items()
    }


@pytest.mark.parametrize(
    ("folder", "near", "folders", "other"),
    [
        ("images/train", "annotations/val", "images/train images/val", True),
        ("images/train", "annotations/val", "images/train images/test", False),  # the split has no folder of its own
        ("train", "val", "train val", True),  # beside the annotations
        ("train/images", "val/labels", "train/images val/images", True),
        ("images/train", "annotations/validation", "images/train images/val2017", True),
        ("images", "annotations/val", "images images/val", False),
        ("images/val", "annotations/val", "images/train images/val", False),
        ("images/train", "annotations", "images/train images/val", False),
    ],
)
def test_a_folder_is_of_another_split_if_the_split_has_one(folder: str, near: str, folders: str, other: bool) -> None:
    root = Path(os.sep, "home", "test")
    paths = [str(root / path) for path in (folder, near, *folders.split())]
    assert is_of_another_split(paths[0], paths[1], frozenset(paths[2:])) is other
