"""Runs with repeat-factor sampling and class weights: their epochs, what they log, and what is refused."""

from __future__ import annotations

import csv

import pytest

from cledet import Detector, UserError
from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.data.open import open_source
from cledet.models.checkpoint import load_checkpoint
from cledet.training.train_batches import describe_balance, sampled_images


@pytest.fixture
def squares_index(squares):
    """Six images: the first is empty, both classes are on all others."""
    return open_source(squares).index("train")


def settings(**given):
    return resolve(TrainSettings, given, environ={})


def test_images_of_an_epoch_by_hand(squares_index):
    """f = 5/6 for both classes, so 1 + 5 sqrt(6/5) = 6.48 images at a threshold of 1."""
    assert sampled_images(settings(sampler="repeat-factor", repeat_threshold=1), squares_index) == 7
    assert sampled_images(settings(sampler="repeat-factor"), squares_index) == 6
    assert sampled_images(settings(repeat_threshold=1), squares_index) == 6


def test_repeats_and_weights_are_logged(squares_index, capsys):
    describe_balance(settings(), squares_index)
    assert capsys.readouterr().err == ""
    describe_balance(settings(sampler="repeat-factor", repeat_threshold=1, class_weights="red=3"), squares_index)
    said = capsys.readouterr().err
    assert "class weights of the classification loss: from 0.5 (blue) to 1.5 (red)" in said
    assert "an epoch has 7 images; 5 of 6 are drawn more than once on average, at most 1.1 times" in said
    describe_balance(settings(sampler="repeat-factor"), squares_index)
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: no class is in under 0.001 of the images, so none is repeated (pass a larger --rep" in said


@pytest.mark.slow
def test_a_run_with_both_has_longer_epochs_and_records_them(tiny, tmp_path):
    """Two epochs of 7 images in batches of 2: steps 4 and 7."""
    given = {**tiny, "iters": None, "epochs": 2, "imgsz": 32, "val_split": "none"}
    both = {"sampler": "repeat-factor", "repeat_threshold": 1.0, "class_weights": {"red": 3.0}}
    run = Detector().train(**given, **both, project=tmp_path)
    with (run / "results.csv").open() as file:
        assert [(row["epoch"], row["step"]) for row in csv.DictReader(file)] == [("1", "4"), ("2", "7")]
    recorded = load_checkpoint(run / "weights" / "best.pt").settings
    assert {name: recorded[name] for name in both} == both
    assert 'class_weights: {"red": 3.0}  # flag' in (run / "config.yaml").read_text()
    assert Detector().train(resume=run) == run  # it is finished, and reads its settings


def test_an_unknown_class_is_refused_before_there_is_a_folder(tiny, tmp_path):
    with pytest.raises(UserError, match=r"has no class 'rod' \(did you mean red\?\)"):
        Detector().train(**tiny, class_weights="rod=2", project=tmp_path)
    assert not list(tmp_path.iterdir())
