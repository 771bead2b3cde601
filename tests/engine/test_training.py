"""Runs of seconds, end to end: what is written, what repeats, what goes on after a stop."""

from __future__ import annotations

import csv
import os
import signal

import pytest
import torch
import yaml

from cledet import Detector
from cledet.config import TrainSettings
from cledet.detector import load_task
from cledet.engine.checkpoint import load_checkpoint
from cledet.engine.setup import initial_model
from cledet.engine.trainer import Trainer
from cledet.errors import Interrupted, UserError
from cledet.resolve import resolve


def weights(run, name="last.pt"):
    return load_checkpoint(run / "weights" / name).model


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_a_run_leaves_what_the_readme_says(tiny_run):
    names = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    assert names == {"config.yaml", "results.csv", "results.png", "val.jpg", "weights/best.pt", "weights/last.pt"}
    with (tiny_run / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [3, 4]  # 6 images in twos: an epoch is 3 steps
    assert float(rows[-1]["loss_cls"]) > 0
    assert 0 <= float(rows[-1]["AP"]) <= 1
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    assert config["backbone"] == "r18"
    assert config["ablation"] == ["iac", "dc", "clb"]


def test_the_checkpoint_says_what_it_is(tiny_run, squares):
    best = load_checkpoint(tiny_run / "weights" / "best.pt")
    assert best.classes == ("blue", "red")
    assert best.category_ids == (3, 7)
    assert best.components == ("iac", "dc", "clb")
    assert best.data == str(squares)
    assert best.training == {}
    assert best.metrics["per_class"].keys() == {"blue", "red"}
    assert load_checkpoint(tiny_run / "weights" / "last.pt").training["step"] == 4


def test_the_same_seed_gives_the_same_run_for_any_number_of_workers(tiny, tiny_run, tmp_path):
    again = Detector().train(**{**tiny, "workers": 2}, project=tmp_path)
    assert_same_weights(weights(again), weights(tiny_run))
    other = Detector().train(**{**tiny, "seed": 1}, project=tmp_path)
    assert not torch.equal(weights(other)["head.regression.predict.weight"],
                           weights(tiny_run)["head.regression.predict.weight"])  # fmt: skip


@pytest.mark.parametrize(
    "extra", [{}, {"ema": 0.9, "optimizer": "adamw", "schedule": "cosine"}], ids=["sgd", "adamw-ema"]
)
def test_a_run_stopped_anywhere_and_resumed_ends_bit_identical(tiny, tmp_path, extra):
    whole = Detector().train(**tiny, **extra, project=tmp_path, name="whole")
    run = tmp_path / "train" / "stopped"
    settings = resolve(TrainSettings, {**tiny, **extra, "project": tmp_path, "name": "stopped"})
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(settings.to_yaml())
    task = load_task(settings)
    trainer = Trainer(settings, task, initial_model(settings, task.train, None), run)
    step = trainer._train_step

    def stop_at_second(batch):
        if trainer.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(batch)

    trainer._train_step = stop_at_second
    with pytest.raises(Interrupted, match=r"SIGINT; go on with: cledet train --resume .*stopped") as stopped:
        trainer.fit()
    assert stopped.value.signal_number == signal.SIGINT
    assert load_checkpoint(run / "weights" / "last.pt").training["step"] == 2
    Detector().train(resume=run)
    assert_same_weights(weights(run), weights(whole))
    rows = [(p / "results.csv").read_text().splitlines() for p in (run, whole)]
    columns = [[line.split(",")[:2] for line in lines] for lines in rows]
    assert columns[0] == columns[1]


def test_resume_refuses_other_settings_and_what_is_no_run(tiny_run, tmp_path):
    with pytest.raises(UserError, match="--lr cannot be changed"):
        Detector().train(resume=tiny_run, lr=1.0)
    with pytest.raises(UserError, match=r"no run to resume: .*last\.pt is missing"):
        Detector().train(resume=tmp_path)


def test_a_second_run_of_a_name_gets_a_number(tiny, tmp_path):
    runs = [Detector().train(**{**tiny, "iters": 1, "val_split": "none"}, project=tmp_path, name="x") for _ in range(2)]
    assert [run.name for run in runs] == ["x", "x-2"]


def test_components_change_what_is_learnt_and_are_recorded(tiny, tiny_run, tmp_path):
    plain = Detector().train(**{**tiny, "ablation": "none"}, project=tmp_path)
    assert load_checkpoint(plain).components == ()
    assert not torch.equal(weights(plain)["neck.inner_blocks.0.0.weight"],
                           weights(tiny_run)["neck.inner_blocks.0.0.weight"])  # fmt: skip


def test_training_further_keeps_the_network_and_the_classes_head(tiny, tiny_run, tmp_path):
    run = Detector().train(**{**tiny, "iters": 1, "lr": 1e-12}, weights=str(tiny_run), project=tmp_path)
    before, after = weights(tiny_run, "best.pt"), weights(run)
    key = "head.classification.predict.weight"
    torch.testing.assert_close(after[key], before[key])


def test_a_flag_that_the_given_weights_overrule_is_refused(tiny, tiny_run, tmp_path):
    with pytest.raises(UserError, match="--backbone r34 does not fit the given weights, which have r18"):
        Detector().train(**{**tiny, "backbone": "r34"}, weights=str(tiny_run), project=tmp_path)
    assert not list(tmp_path.iterdir())


def test_bf16_trains_too(tiny, tmp_path):
    run = Detector().train(**{**tiny, "amp": "bf16", "iters": 2}, project=tmp_path)
    assert all(value.isfinite().all() for value in weights(run).values())


def test_a_loss_that_is_not_finite_names_the_images(tiny, tmp_path):
    with pytest.raises(UserError, match=r"not finite at step \d+ .*images 10\d, 10\d"):
        Detector().train(**{**tiny, "lr": 1e12, "clip": 0, "iters": 50, "warmup": 0}, project=tmp_path)


def test_tensorboard_gets_every_figure(tiny, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = Detector().train(**tiny, project=tmp_path, logger="tensorboard")
    events = accumulator.EventAccumulator(str(run))
    events.Reload()
    assert {"loss_cls", "loss_reg", "lr", "AP", "AP50"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss_cls")] == [3, 4]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"data": "nowhere.yaml"}, r"nowhere\.yaml"),
        ({"split": "trian"}, "has no split 'trian'"),
        ({"backbone": "r5"}, r"unknown backbone 'r5' \(did you mean r50\?\)"),
        ({"weights": "nowhere.pt"}, r"no weights at nowhere\.pt"),
        ({"backbone_weights": "nowhere.pth"}, r"no weights file nowhere\.pth"),
        ({"device": "cuda:99"}, "this machine shows"),
        ({"device": "tpu"}, "names no device"),
        ({"amp": "fp16"}, "fp16 needs a CUDA GPU"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_run(tiny, tmp_path, wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        Detector().train(**{**tiny, **wrong}, project=tmp_path)
    assert not list(tmp_path.rglob("*.pt"))
