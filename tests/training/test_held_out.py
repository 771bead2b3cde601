"""Runs on data without a validation split hold out images by themselves, and say so."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from trees import draw, write

from cledet.config.loading import resolve
from cledet.config.train import GridSettings, TrainSettings
from cledet.data.formats.division import read_division
from cledet.data.index import DetectionIndex
from cledet.data.open import DataSource, open_source
from cledet.data.splitting import divide
from cledet.errors import UserError
from cledet.training.held_out import first_images, hold_out, lacks_val, record_division, require_objects
from cledet.training.run import load_task


def coco_folder(root: Path, splits: dict[str, int]) -> Path:
    """A folder of these splits with so many different images, each with one object of class cat."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    for split, count in splits.items():
        for i in range(count):
            cv2.imwrite(str(root / "images" / f"{split}{i}.png"), rng.integers(0, 255, (32, 36, 3), np.uint8))
        images = [{"id": i, "file_name": f"{split}{i}.png", "width": 36, "height": 32} for i in range(count)]
        boxes = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [2, 2, 20, 20]} for i in range(count)]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def settings_of(**given: object) -> GridSettings:
    return resolve(GridSettings, given, environ={})


SOURCES = {
    "undivided": DataSource("x", type("R", (), {"splits": ("all",)})()),
    "one file": DataSource("x", type("R", (), {"splits": ("val2017",)})(), single=True),
    "train": DataSource("x", type("R", (), {"splits": ("train",)})()),
    "train test": DataSource("x", type("R", (), {"splits": ("train2017", "test2017")})()),
    "train valid": DataSource("x", type("R", (), {"splits": ("train", "valid")})()),
    "trainval test": DataSource("x", type("R", (), {"splits": ("trainval", "test")})()),
}
DIVIDED, KEPT = True, False


@pytest.mark.parametrize(
    ("data", "given", "expected"),
    [
        ("undivided", {}, DIVIDED),
        ("undivided", {"split": "all"}, DIVIDED),
        ("undivided", {"val_split": "test"}, DIVIDED),
        ("undivided", {"val_split": "train"}, KEPT),
        ("undivided", {"val_split": "all"}, KEPT),
        ("undivided", {"val_split": "none"}, KEPT),
        ("undivided", {"val_fraction": 0}, KEPT),
        ("one file", {}, DIVIDED),
        ("one file", {"val_split": "train"}, KEPT),
        ("train", {}, DIVIDED),
        ("train test", {}, DIVIDED),
        ("train test", {"val_split": "validation"}, DIVIDED),
        ("train test", {"val_split": "test"}, KEPT),
        ("train test", {"val_split": "train"}, KEPT),
        ("train test", {"val_split": "vall"}, KEPT),
        ("train test", {"val_fraction": 0}, KEPT),
        ("train valid", {}, KEPT),
        ("train valid", {"split": "valid"}, KEPT),
        ("trainval test", {"split": "trainval"}, DIVIDED),
    ],
)
def test_only_data_that_lack_the_wanted_split_are_divided(data: str, given: dict[str, object], expected: bool) -> None:
    assert lacks_val(SOURCES[data], settings_of(**given)) is expected


def test_the_division_is_by_content_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coco_folder(tmp_path / "photos", {"train": 40, "test": 5})
    settings = settings_of(data=str(data), val_fraction=0.25)
    division = hold_out(settings)
    said = " ".join(capsys.readouterr().err.split())
    assert division is not None
    held = len(division.val)
    assert f"photos has no val split: {held} of its 40 images are held out for evaluation (--val-fraction 0.25" in said
    assert "--val-split train holds out none" in said
    assert "warning" not in said
    index = open_source(data).index("train")
    mask = divide(index, 0.25).val
    assert (list(division.train), list(division.val)) == (index.paths[~mask].tolist(), index.paths[mask].tolist())
    recorded = record_division(division, settings, tmp_path / "run")
    assert read_division(recorded.data) == division
    assert (recorded.origins["data"], Path(recorded.data).name) == ("flag", "photos.yaml")
    assert {path.name for path in (tmp_path / "run" / "splits").iterdir()} == {"photos.yaml", "train.txt", "val.txt"}
    source = open_source(recorded.data)
    assert source.splits == ("train", "val", "test")
    assert hold_out(recorded) is None
    assert (len(source.index("train")), len(source.index("val")), len(source.index("test"))) == (40 - held, held, 5)


def test_classes_on_one_side_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coco_folder(tmp_path / "photos", {"train": 10})
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][3]["category_id"] = 2
    file.write_text(json.dumps(content))
    assert hold_out(settings_of(data=str(data))) is not None
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: dog: 1 classes of photos have no object in held-out images" in said


def test_images_alike_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coco_folder(tmp_path / "photos", {"train": 12})
    scene = np.kron(np.random.default_rng(1).integers(0, 255, (8, 9, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    for i in range(12):
        scene[0, 0] = 20 * i
        cv2.imwrite(str(data / "images" / f"train{i}.png"), scene)
    division = hold_out(settings_of(data=str(data)))
    assert division is not None
    assert 2 <= len(division.val) <= 3
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: most images of photos are near-duplicates of one another" in said
    assert "identical images together" in said


def test_data_that_cannot_be_divided_are_an_error(tmp_path: Path) -> None:
    data = coco_folder(tmp_path / "photos", {"train": 1})
    with pytest.raises(UserError, match=r"photos/train cannot be divided: .*--val-split train or none"):
        hold_out(settings_of(data=str(data)))


def test_the_first_images_in_the_order_of_the_split(make_index, capsys: pytest.CaptureFixture[str]) -> None:
    index: DetectionIndex = make_index([(0, 1, 1, 5, 5)], [], [(1, 2, 2, 6, 6)])
    for few in (0, 3, 4):
        assert first_images(index, few) is index
    assert capsys.readouterr().err == ""
    first = first_images(index, 2)
    assert (first.image_ids.tolist(), first.num_boxes, first.classes) == ([0, 1], 1, index.classes)
    assert "only the first 2 of 3 images are trained on (--few)" in " ".join(capsys.readouterr().err.split())


def test_images_without_any_object_are_not_trained_on(make_index, tmp_path: Path) -> None:
    index: DetectionIndex = make_index([(0, 1, 1, 5, 5)], [], [(1, 2, 2, 0, 6)], [(1, 2, 2, 6, 6)], ignore=[2])
    assert require_objects(index) is index
    with pytest.raises(UserError, match=r"set/train has no object to train on in its 3 images \(`cledet check` counts"):
        require_objects(index.subset([1, 2, 3]))  # nothing, a degenerate box, a crowd
    for split in ("train", "val"):  # the labels are beside the images, not in labels/
        write(tmp_path / f"images/{split}/1.txt", "0 0.5 0.5 0.2 0.2")
        draw(tmp_path, f"images/{split}/1.jpg")
    write(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: [nut]")
    words = r"no object to train on in its 1 images \(.*has a label file, the first would be .*/labels/train/1\.txt\)"
    with pytest.raises(UserError, match=words):
        load_task(TrainSettings(data=str(tmp_path)))
