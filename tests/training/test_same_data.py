"""A run is resumed only on the data that it was started on, at any location."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cledet import Detector
from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.training.init_model import init_model
from cledet.training.task import load_task
from cledet.training.train_state import require_same_data
from cledet.training.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture
def stopped(tiny, squares, tmp_path) -> Path:
    """A run on a copy of the squares, saved before its first step."""
    shutil.copytree(squares, tmp_path / "data")
    run = tmp_path / "train" / "run"
    given = {**tiny, "data": str(tmp_path / "data"), "val_split": "none", "iters": 1}
    settings = resolve(TrainSettings, {**given, "project": tmp_path, "name": "run"}, environ={})
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(settings.to_yaml())
    task = load_task(settings)
    Trainer(settings, task, *init_model(settings, task.train, None), run)._save("last.pt")
    return run


def changed(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = run.parents[1] / "data" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def reverse_names(content: dict[str, Any]) -> None:
    first, second = content["categories"]
    first["name"], second["name"] = second["name"], first["name"]


def reverse_ids(content: dict[str, Any]) -> None:
    for entry in content["categories"]:
        entry["id"] = 10 - entry["id"]
    for entry in content["annotations"]:
        entry["category_id"] = 10 - entry["category_id"]


def renumber(content: dict[str, Any]) -> None:
    for entry in content["categories"]:
        entry["id"] += 1
    for entry in content["annotations"]:
        entry["category_id"] += 1


def cut(content: dict[str, Any]) -> None:
    del content["annotations"][4:]


def move(content: dict[str, Any]) -> None:
    content["annotations"][3]["bbox"][0] += 0.5


def relabel(content: dict[str, Any]) -> None:
    content["annotations"][0]["category_id"] = 3


def make_crowd(content: dict[str, Any]) -> None:
    content["annotations"][0]["iscrowd"] = 1


def swap_images(content: dict[str, Any]) -> None:
    first, second = content["images"][1:3]
    first["id"], second["id"] = second["id"], first["id"]


def resize_image(content: dict[str, Any]) -> None:
    content["images"][0]["width"] += 1


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (reverse_names, "classes"),
        (reverse_ids, "classes and boxes"),
        (renumber, "classes"),
        (cut, "boxes"),
        (move, "boxes"),
        (relabel, "boxes"),
        (make_crowd, "boxes"),
        (swap_images, "images and boxes"),
        (resize_image, "images"),
    ],
)
def test_other_data_is_refused_by_what_has_changed(stopped, change, parts):
    changed(stopped, change)
    sentence = rf"train has other {parts} than at the start of the run \(restore the data set, or start a new run"
    with pytest.raises(UserError, match=sentence):
        Detector().train(resume=stopped)


def test_fewer_images_are_refused_by_their_number(stopped):
    changed(stopped, lambda content: content["images"].pop())
    with pytest.raises(UserError, match="was trained on 6 images and data/train now has 5"):
        Detector().train(resume=stopped)


def test_a_data_set_that_has_moved_is_the_same(stopped):
    data = stopped.parents[1] / "data"
    data.rename(data.with_name("elsewhere"))
    file = stopped / "config.yaml"
    file.write_text(file.read_text().replace(str(data), str(data.with_name("elsewhere"))))
    assert Detector().train(resume=stopped) == stopped
    assert load_checkpoint(stopped / "weights" / "last.pt").step == 1


def test_a_checkpoint_without_digests_knows_its_classes_and_the_number_of_images(squares):
    index = open_source(squares).index("train")
    old = Checkpoint(
        architecture=None,  # type: ignore[arg-type]
        model={},
        classes=("blue", "red"),
        category_ids=(3, 7),
        training={"images": 6},
    )
    moved = replace(index, xywh=index.xywh + 1)
    require_same_data(old, moved)
    with pytest.raises(UserError, match=r"on 6 images and .*/train now has 2"):
        require_same_data(old, index.subset([0, 1]))
    with pytest.raises(UserError, match="other classes than"):
        require_same_data(old, replace(index, category_ids=np.array([7, 3])))
    old.training["digests"] = index.digests()
    with pytest.raises(UserError, match="other boxes than"):
        require_same_data(old, moved)
