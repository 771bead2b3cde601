"""Which epochs a run has: their numbers and ends, for any size of the set and the batch."""

from __future__ import annotations

import csv

import pytest
import torch

from cledet import Detector
from cledet.config.train import TrainSettings
from cledet.training.train_step import NotFinite, TrainStep
from cledet.training.trainer import Trainer, TrainState

pytestmark = pytest.mark.slow


def ends(images: int, **settings: int) -> list[tuple[int, int]]:
    """(step, epoch) of each end of an epoch in a run over so many images."""
    trainer = Trainer.__new__(Trainer)
    trainer.settings = TrainSettings(**settings)
    trainer.epoch_images = trainer.settings.epoch_images(images)
    trainer.total_steps = trainer.settings.steps(images)
    found = []
    for step in range(1, trainer.total_steps + 1):
        trainer.state = TrainState(step=step)
        if trainer._epoch_ended():
            found.append((step, trainer._epoch_number()))
    return found


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "expected"),
    [
        (6, 2, 2, [(3, 1), (6, 2)]),
        (3, 4, 2, [(1, 1), (2, 2)]),  # once counted 1 and 3
        (5, 4, 1, [(2, 1)]),  # once counted 2
        (5, 4, 2, [(2, 1), (3, 2)]),
        (3, 8, 4, [(1, 1), (2, 2), (3, 3), (4, 4)]),  # a step is more than two passes over the set
        (1, 8, 2, [(1, 1), (2, 2)]),
        (8, 8, 2, [(1, 1), (2, 2)]),
        (7, 3, 3, [(3, 1), (5, 2), (7, 3)]),
    ],
)
def test_the_ends_of_epochs(images, batch, epochs, expected):
    assert ends(images, batch=batch, epochs=epochs) == expected


@pytest.mark.parametrize("images", [1, 2, 3, 5, 7, 16, 33, 100])
def test_epochs_increase_by_one_up_to_the_requested_number(images):
    for batch in (1, 2, 3, 4, 7, 8, 16, 40):
        for epochs in (1, 2, 3, 12):
            numbers = [epoch for _, epoch in ends(images, batch=batch, epochs=epochs)]
            assert numbers == list(range(1, epochs + 1)), (batch, epochs)


@pytest.mark.parametrize(
    ("images", "batch", "iters", "expected"),
    [
        (6, 2, 4, [(3, 1), (4, 2)]),  # the last epoch ends with the run; once both were counted 1
        (6, 2, 1, [(1, 1)]),
        (5, 4, 4, [(2, 1), (3, 2), (4, 3)]),
        (3, 8, 3, [(1, 1), (2, 2), (3, 3)]),
    ],
)
def test_the_ends_of_epochs_of_a_run_with_iters(images, batch, iters, expected):
    assert ends(images, batch=batch, iters=iters) == expected


def rows(run):
    with (run / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_batch_of_more_than_two_sets_is_an_epoch_each(tiny, tmp_path):
    settings = {**tiny, "iters": None, "batch": 13, "epochs": 3, "val_every": 2, "imgsz": 32}
    run = Detector().train(**settings, project=tmp_path)
    found = rows(run)
    assert [(row["epoch"], row["step"]) for row in found] == [("1", "1"), ("2", "2"), ("3", "3")]
    assert [bool(row["AP"]) for row in found] == [False, True, True]


def test_a_run_with_an_older_count_of_epochs_is_resumed(tiny, tmp_path):
    """Existing rows are kept; new ones are counted as they are now."""
    settings = {**tiny, "iters": None, "batch": 8, "epochs": 3, "val_split": "none", "imgsz": 32}
    run = Detector().train(**settings, project=tmp_path)
    state = torch.load(run / "weights" / "last.pt", weights_only=True)
    del state["training"]["finished"]
    state["training"].update(step=2, best_epoch=3, last_eval_epoch=3)
    state["step"] = 2
    torch.save(state, run / "weights" / "last.pt")
    (run / "results.csv").write_text((run / "results.csv").read_text().replace("\n2,2,", "\n3,2,"))
    Detector().train(resume=run)
    assert [(row["epoch"], row["step"]) for row in rows(run)] == [("1", "1"), ("3", "2"), ("3", "3")]


def test_an_epoch_whose_steps_are_all_skipped_is_reported(tiny, tmp_path, monkeypatch, capsys):
    """The second of three: its row has no losses, and the run goes on."""
    gradients = TrainStep.compute_gradients

    def sick(self, parts, step):
        if step in (3, 4, 5):
            raise NotFinite("the classification loss is nan")
        return gradients(self, parts, step)

    monkeypatch.setattr(TrainStep, "compute_gradients", sick)
    run = Detector().train(**{**tiny, "iters": 9}, project=tmp_path)
    found = rows(run)
    assert [bool(row["loss_cls"]) for row in found] == [True, False, True]
    assert found[1]["AP"]
    assert "epoch 2: no step had a finite loss, AP " in capsys.readouterr().err
