"""The splits of a run."""

from __future__ import annotations

import pytest

from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.training.task import load_task


@pytest.mark.parametrize(
    ("given", "trained", "evaluated"),
    [({}, 6, 4), ({"few": 2}, 2, 4), ({"val_split": "train"}, 6, 6), ({"few": 2, "val_split": "train"}, 2, 2)],
)
def test_few_training_images_are_those_that_are_evaluated(squares, capsys, given, trained, evaluated):
    task = load_task(resolve(TrainSettings, {"data": str(squares), **given}, environ={}))
    assert (len(task.train), len(task.val)) == (trained, evaluated)
    same = task.train.paths.tolist() == task.val.paths.tolist()
    assert same is (given.get("val_split") == "train")
    assert ("shares images with" in " ".join(capsys.readouterr().err.split())) is same
