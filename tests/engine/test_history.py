"""The means of an epoch's steps."""

from __future__ import annotations

import math

import pytest
import torch

from cledet.engine.history import COLUMNS, History, Meter, read_history
from cledet.models.criterion import Losses


def losses(coefficient, classification=1.0):
    return Losses(*(torch.tensor(v) for v in (classification, 2.0, 3, 1, coefficient, coefficient / 4)))


def test_steps_without_positives_do_not_count_for_the_coefficient():
    meter = Meter()
    for coefficient, classification in ((1.0, 1.0), (math.nan, 4.0), (2.0, 1.0)):
        meter.add(losses(coefficient, classification))
    means = meter.means()
    assert means["loss_cls"] == pytest.approx(2)
    assert means["coefficient"] == pytest.approx(1.5)
    assert means["spread"] == pytest.approx(0.375)
    assert (means["positives"], means["recalled"]) == (3, 1)


def test_an_epoch_without_any_leaves_the_cell_empty(tmp_path):
    meter = Meter()
    meter.add(losses(math.nan))
    History(tmp_path / "results.csv").add({"epoch": 1, "step": 1, **meter.means()})
    (row,) = read_history(tmp_path / "results.csv")
    assert tuple(row) == COLUMNS
    assert (row["coefficient"], row["loss_reg"]) == ("", "2")
    assert read_history(tmp_path / "none.csv") == []
