"""Means over the steps of an epoch, and results.csv."""

from __future__ import annotations

import math

import pytest
import torch

from cledet.models.criterion import Losses
from cledet.models.signatures import SIGNATURES
from cledet.training.history import COLUMNS, History, Meter, read_history


def losses(coefficient, classification=1.0):
    known = (classification, 2.0, 3, 1, coefficient, coefficient / 4)
    return Losses(
        *map(torch.tensor, known),
        **dict.fromkeys(SIGNATURES, torch.tensor(math.nan)),
        **dict.fromkeys(("compact", "elongated", "n"), torch.tensor(3.0)),
    )


def test_steps_without_positives_do_not_count_for_the_coefficient():
    meter = Meter()
    for coefficient, classification in ((1.0, 1.0), (math.nan, 4.0), (2.0, 1.0)):
        meter.add(losses(coefficient, classification))
    means = meter.means()
    assert means["loss_cls"] == pytest.approx(2)
    assert means["coefficient"] == pytest.approx(1.5)
    assert means["spread"] == pytest.approx(0.375)
    assert (means["positives"], means["recalled"]) == (3, 1)


def test_an_epoch_without_positives_leaves_the_cell_empty(tmp_path):
    meter = Meter()
    meter.add(losses(math.nan))
    History(tmp_path / "results.csv").add({"epoch": 1, "step": 1, **meter.means()})
    (row,) = read_history(tmp_path / "results.csv")
    assert tuple(row) == COLUMNS
    assert (row["coefficient"], row["loss_reg"]) == ("", "2")
    assert read_history(tmp_path / "none.csv") == []


def test_dropped_boxes_are_summed(tmp_path):
    meter = Meter()
    for dropped in (2, 0, 5):
        meter.add(losses(1.0), dropped)
    history = History(tmp_path / "results.csv")
    history.add({"epoch": 1, "step": 3, **meter.means()})
    assert history.rows[0]["dropped"] == "7"
    assert Meter().means()["dropped"] == 0


def test_a_run_without_the_column_is_resumed(tmp_path):
    file = tmp_path / "results.csv"
    old = [name for name in COLUMNS if name != "dropped"]
    file.write_text(",".join(old) + "\n" + ",".join("1" for _ in old) + "\n")
    history = History(file)
    history.truncate(1)
    meter = Meter()
    meter.add(losses(1.0), 3)
    history.add({"epoch": 2, "step": 2, **meter.means()})
    assert [row["dropped"] for row in read_history(file)] == ["", "3"]
