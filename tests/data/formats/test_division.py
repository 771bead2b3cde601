"""A data set with its division is read as two splits that are exactly the lists, beside its other splits."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.data.formats.division import Division, read_division
from cledet.data.open import open_division, open_source
from cledet.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A COCO folder of six images in `train` and two in `test`, and no `val`."""
    root = tmp_path / "photos"
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", 6), ("test", 2)):
        (root / split).mkdir()
        for i in range(count):
            cv2.imwrite(str(root / split / f"{i}.png"), np.full((10, 10, 3), i, np.uint8))
        images = [{"id": 10 + i, "file_name": f"{i}.png", "width": 10, "height": 10} for i in range(count)]
        boxes = [{"id": i + 1, "image_id": 10 + i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(count)]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def divided(photos: Path) -> Path:
    """The YAML of its division: images 1 and 4 are held out."""
    paths = [str(photos / "train" / f"{i}.png") for i in range(6)]
    parts = Division(str(photos), "train", (paths[0], *paths[2:4], paths[5]), (paths[1], paths[4]))
    return write(parts, photos.parent / "run")


def write(parts: Division, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in parts.files("photos").items():
        (folder / name).write_bytes(content)
    return folder / "photos.yaml"


def test_the_parts_are_the_lists(divided: Path) -> None:
    source = open_source(divided)
    assert (source.name, source.splits, source.reader.format) == ("photos", ("train", "val", "test"), "COCO")
    train, val, test = (source.index(split) for split in source.splits)
    assert [index.name for index in (train, val, test)] == ["photos/train", "photos/val", "photos/test"]
    assert [index.image_ids.tolist() for index in (train, val)] == [[10, 12, 13, 15], [11, 14]]
    assert (val.num_boxes, len(test)) == (2, 2)
    assert source.index("valid").name == "photos/val"
    assert train.notes == val.notes == ()
    assert (divided.parent / "val.txt").read_text() == "train/1.png\ntrain/4.png\n"


def test_files_read_back_and_pickle(divided: Path) -> None:
    parts = read_division(divided)
    assert parts is not None
    assert write(parts, divided.parent / "again").read_bytes() == divided.read_bytes()
    assert read_division(divided.parent / "again" / "photos.yaml") == parts
    assert open_division(pickle.loads(pickle.dumps(parts))).index("val").image_ids.tolist() == [11, 14]


def test_other_data_sets_are_no_divisions(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: photos\n")
    for data in (photos, "shapes", tmp_path / "gone.yaml", tmp_path / "data.yaml"):
        assert read_division(data) is None


def test_new_and_missing_images_are_noted(divided: Path, photos: Path) -> None:
    file = photos / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"] = [*content["images"][1:4], {"id": 40, "file_name": "new.png", "width": 10, "height": 10}]
    content["annotations"] = content["annotations"][1:4]
    file.write_text(json.dumps(content))
    train, val = (open_source(divided).index(split) for split in ("train", "val"))
    assert [index.image_ids.tolist() for index in (train, val)] == [[12, 13], [11]]
    assert train.notes == (
        f"train: 2 listed images are no longer in the data set, the first is {photos / 'train' / '0.png'}.",
        "train: 1 images of the data set are in neither part: they are new, or had no file.",
    )
    assert val.notes[0].startswith("val: 1 listed images are no longer")


def test_a_data_set_may_move(divided: Path, photos: Path, tmp_path: Path) -> None:
    shutil.move(photos, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"data set not found: .*photos"):
        open_source(divided)
    divided.write_text(divided.read_text().replace(str(photos), "../elsewhere"))
    assert open_source(divided).index("val").image_ids.tolist() == [11, 14]


def test_the_cache_of_a_large_index_is_of_its_lists(
    divided: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cledet.data.index_cache.MIN_BYTES", 0)
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        assert open_source(divided).index("val").image_ids.tolist() == [11, 14]
        assert open_source(divided).index("train").image_ids.tolist() == [10, 12, 13, 15]
    assert len(list((tmp_path / "cache" / "indices").iterdir())) == 2
    (divided.parent / "val.txt").write_text("train/4.png\r\n")
    assert open_source(divided).index("val").image_ids.tolist() == [14]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"/data/caf\xe9 \xe2\x80\xa8.png ")  # a byte of Latin-1, a line separator, a space at the end
    parts = Division("/data", "all", (name,), ("/data/b.png",))
    assert read_division(write(parts, tmp_path / "run")) == parts
    with pytest.raises(UserError, match="has a line break in its name"):
        Division("/data", "all", ("/data/a\nb.png",), ()).files("x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("split: ", "splits: 7\nsplit: "), "unknown key 'splits'"),
        (('split: "train"\n', ""), "'split' is missing"),
        (('"train"', '"trian"'), "photos has no split 'trian'"),
        (('"val.txt"', '"gone.txt"'), "gone.txt cannot be read: No such file"),
        (('"val.txt"', "7"), "'val' is invalid"),
    ],
)
def test_a_broken_file_is_one_sentence(divided: Path, change: tuple[str, str], message: str) -> None:
    text = divided.read_text()
    assert change[0] in text
    divided.write_text(text.replace(*change))
    with pytest.raises(UserError) as error:
        open_source(divided)
    assert message in str(error.value)


def test_a_division_of_a_division_is_refused(divided: Path) -> None:
    own = divided.with_name("own.yaml")
    own.write_text('divided: "own.yaml"\nsplit: train\ntrain: train.txt\nval: val.txt\n')
    with pytest.raises(UserError, match=r"own.yaml is a division itself"):
        open_source(own)
