"""Short runs end to end: written files, repeatability, and resuming after a stop."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import yaml

from cledet import Detector
from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.errors import Interrupted, OutputClosed, ProcessFailed, UserError
from cledet.evaluation import evaluator as validator
from cledet.io.run_folders import status_of
from cledet.models import criterion
from cledet.models.checkpoint import load_checkpoint
from cledet.signals import Interrupts
from cledet.training import trainer as trainer_module
from cledet.training.init_model import init_model
from cledet.training.run import _recorded_status
from cledet.training.task import load_task
from cledet.training.train_step import NotFinite, TrainStep
from cledet.training.trainer import Trainer

pytestmark = pytest.mark.slow


def weights(run, name="last.pt"):
    return load_checkpoint(run / "weights" / name).model


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_a_run_writes_the_files_that_the_readme_lists(tiny_run):
    names = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    batches = {f"batches/{step:06d}.jpg" for step in (0, 1, 2)}
    saved = {f"weights/{name}.pt" for name in ("best", "last", "last.previous")}
    assert names == {".lock", "config.yaml", "results.csv", "results.png", "status", "val.jpg"} | saved | batches
    with (tiny_run / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [3, 4]  # 6 images in twos: an epoch is 3 steps
    assert float(rows[-1]["loss_cls"]) > 0
    assert 0 <= float(rows[-1]["AP"]) <= 1
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    assert config["backbone"] == "r18"
    assert config["ablation"] == ["iac", "dc", "clb"]


def test_the_reported_learning_rate_is_that_of_the_flag(tiny, tmp_path, capsys):
    settings = {"iters": 1, "warmup": 0, "val_split": "none", "backbone_lr": 0.1}
    run = Detector().train(**tiny | settings, project=tmp_path)
    assert ", lr 0.01" in " ".join(capsys.readouterr().err.split())
    with (run / "results.csv").open() as file:
        assert [row["lr"] for row in csv.DictReader(file)] == ["0.01"]
    groups = load_checkpoint(run / "weights" / "last.pt").training["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_dropped_boxes_are_counted_and_reported_once(tiny, squares, tmp_path, capsys):
    """One box without width, in an epoch of 3 steps once, and perhaps once more in the fourth."""
    shutil.copytree(squares, tmp_path / "data")
    file = tmp_path / "data" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    run = Detector().train(**{**tiny, "data": str(tmp_path / "data"), "val_split": "none"}, project=tmp_path)
    assert capsys.readouterr().err.count("empty or less than a pixel wide or high: 1 ") == 1
    with (run / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["dropped"] == "1"
    assert rows[1]["dropped"] in ("0", "1")


def test_the_checkpoint_describes_its_model(tiny_run, squares):
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


def begun(settings, run):
    """A trainer in its folder, as it is before the first step."""
    settings = resolve(TrainSettings, {**settings, "project": run.parents[1], "name": run.name})
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(settings.to_yaml())
    task = load_task(settings)
    return Trainer(settings, task, *init_model(settings, task.train, None), run)


@pytest.mark.parametrize(
    "extra", [{}, {"ema": 0.9, "optimizer": "adamw", "schedule": "cosine"}], ids=["sgd", "adamw-ema"]
)
def test_a_run_stopped_anywhere_and_resumed_ends_bit_identical(tiny, tmp_path, extra):
    whole = Detector().train(**tiny, **extra, project=tmp_path, name="whole")
    trainer = begun(tiny | extra, tmp_path / "train" / "stopped")
    run, gradients = trainer.run, trainer.train_step.compute_gradients

    def stop_at_third(parts, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return gradients(parts, step)

    trainer.train_step.compute_gradients = stop_at_third
    with pytest.raises(Interrupted, match=r"SIGINT; go on with: cledet train --resume .*stopped") as stopped:
        trainer.fit()
    assert stopped.value.signal_number == signal.SIGINT
    assert load_checkpoint(run / "weights" / "last.pt").training["step"] == 2
    drawn = [run / "batches" / f"{step:06d}.jpg" for step in (1, 2)]
    assert all(picture.exists() for picture in drawn)
    for picture in drawn:
        picture.write_bytes(b"kept")
    Detector().train(resume=run)
    assert [picture.read_bytes() for picture in drawn] == [b"kept"] * 2
    assert_same_weights(weights(run), weights(whole))
    rows = [(p / "results.csv").read_text().splitlines() for p in (run, whole)]
    columns = [[line.split(",")[:2] for line in lines] for lines in rows]
    assert columns[0] == columns[1]


def test_resume_refuses_other_settings_and_other_folders(tiny_run, tmp_path):
    with pytest.raises(UserError, match="--lr cannot be changed"):
        Detector().train(resume=tiny_run, lr=1.0)
    with pytest.raises(UserError, match=r"no run to resume: .*last\.pt is missing"):
        Detector().train(resume=tmp_path)


def test_a_run_that_was_killed_at_its_very_end_is_completed_by_one_process(tiny_run, tmp_path, monkeypatch):
    """After the last checkpoint and before the previews; another process that trains it is waited for."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "val.jpg").unlink()
    (run / "status").write_text("unfinished\n")
    monkeypatch.setattr("cledet.training.run.PATIENCE", 0.1)
    program = f"from cledet.io.locks import hold_file; f = hold_file(__import__('pathlib').Path('{run}/.lock'), 0)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}; print(f.name, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match=r"another process trains .*run \(wait until it has ended, or stop it\)"):
            Detector().train(resume=run)
        assert not (run / "val.jpg").exists()
        other.communicate(b"\n")
    assert Detector().train(resume=run) == run
    assert (run / "val.jpg").read_bytes() == (tiny_run / "val.jpg").read_bytes()
    assert (run / "status").read_text() == "finished\n"
    assert_same_weights(weights(run), weights(tiny_run))


@pytest.mark.parametrize("steps", [2, 3])  # within an epoch, and at its end, whose metrics are kept
def test_a_run_whose_images_vanish_is_saved_and_goes_on(tiny, tiny_run, squares, tmp_path, monkeypatch, capsys, steps):
    data, update = shutil.copytree(squares, tmp_path / "data"), TrainStep.update

    def lose(self, step):
        update(self, step)
        if step == steps - 1:
            shutil.move(data / "train", tmp_path / "images")

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "update", lose)
        with pytest.raises(UserError, match=r"image not found: .*data/train"):
            Detector().train(**{**tiny, "data": str(data)}, project=tmp_path, name="run")
    run = tmp_path / "train" / "run"
    assert f"go on with: cledet train --resume {run}" in capsys.readouterr().err
    saved = load_checkpoint(run / "weights" / "last.pt")
    assert (saved.training["step"], "AP" in saved.metrics) == (steps, steps == 3)
    shutil.move(tmp_path / "images", data / "train")
    Detector().train(resume=run)
    assert_same_weights(weights(run), weights(tiny_run))


def test_a_second_run_of_a_name_gets_a_number(tiny, tmp_path):
    runs = [Detector().train(**{**tiny, "iters": 1, "val_split": "none"}, project=tmp_path, name="x") for _ in range(2)]
    assert [run.name for run in runs] == ["x", "x-2"]


def test_components_change_the_weights_and_are_recorded(tiny, tiny_run, tmp_path):
    plain = Detector().train(**{**tiny, "ablation": "none"}, project=tmp_path)
    assert load_checkpoint(plain).components == ()
    assert not torch.equal(weights(plain)["neck.inner_blocks.0.0.weight"],
                           weights(tiny_run)["neck.inner_blocks.0.0.weight"])  # fmt: skip


def test_training_further_keeps_the_network_and_the_classes_head(tiny, tiny_run, tmp_path):
    run = Detector().train(**{**tiny, "iters": 1, "lr": 1e-12}, weights=str(tiny_run), project=tmp_path)
    before, after = weights(tiny_run, "best.pt"), weights(run)
    key = "head.classification.predict.weight"
    torch.testing.assert_close(after[key], before[key])


def test_a_flag_that_contradicts_the_given_weights_is_refused(tiny, tiny_run, tmp_path):
    with pytest.raises(UserError, match="--backbone r34 does not fit the given weights, which have r18"):
        Detector().train(**{**tiny, "backbone": "r34"}, weights=str(tiny_run), project=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("classes", ["the same", "others"])
def test_weights_with_missing_or_extra_tensors_are_one_sentence_and_leave_no_run(tiny, tiny_run, tmp_path, classes):
    name = "head.regression.predict.bias"
    for change, wrong in (({name: None}, f"it lacks {name}"), ({"extra.w": torch.zeros(1)}, "extra.w has no place")):
        start = load_checkpoint(tiny_run)
        model = {key: value for key, value in (start.model | change).items() if value is not None}
        renamed = start.classes if classes == "the same" else ("cat", "dog")
        replace(start, model=model, classes=renamed).save(tmp_path / "start.pt")
        with pytest.raises(UserError, match=f"these weights are of no r18 detector: {wrong}"):
            Detector().train(**tiny, weights=str(tmp_path / "start.pt"), project=tmp_path / "project")
    assert not (tmp_path / "project").exists()


def test_bf16_trains_too(tiny, tmp_path):
    run = Detector().train(**{**tiny, "amp": "bf16", "iters": 2}, project=tmp_path)
    assert all(value.isfinite().all() for value in weights(run).values())


def test_steps_without_a_finite_loss_are_skipped_and_too_many_end_the_run(tiny, tmp_path, capfd):
    with pytest.raises(UserError, match=r"step \d+: the .* images 10\d, 10\d; the last 5 steps had no finite loss"):
        Detector().train(**{**tiny, "lr": 1e12, "clip": 0, "iters": 50, "warmup": 0}, project=tmp_path)
    assert capfd.readouterr().err.count(": step skipped") == 4
    (run,) = (tmp_path / "train").iterdir()
    assert all(value.isfinite().all() for value in weights(run).values())
    assert status_of(run) == "diverged"


def test_a_run_has_a_status(tiny, tmp_path, monkeypatch):
    short = {**tiny, "iters": 1, "val_split": "none", "project": tmp_path}
    assert status_of(Detector().train(**short, name="good")) == "finished"
    for name, error, status in (("bad", ValueError, "failed"), ("stopped", KeyboardInterrupt, "unfinished")):

        def end(*_, error=error):
            raise error

        monkeypatch.setattr(Trainer, "_step", end)
        with pytest.raises(error):
            Detector().train(**short, name=name)
        assert status_of(tmp_path / "train" / name) == status
    monkeypatch.undo()
    assert status_of(Detector().train(resume=tmp_path / "train" / "bad")) == "finished"


@pytest.mark.parametrize(
    ("by_worker", "error", "status"),
    [("diverged", UserError, "diverged"), ("unfinished", ProcessFailed, "failed"), ("finished", None, "finished"),
     ("unfinished", KeyboardInterrupt, "unfinished"), ("unfinished", OutputClosed, "unfinished"),
     ("unfinished", BrokenPipeError, "unfinished")],
)  # fmt: skip
def test_the_launching_process_keeps_what_a_worker_wrote(tmp_path, by_worker, error, status):
    with nullcontext() if error is None else pytest.raises(error), _recorded_status(tmp_path):
        assert status_of(tmp_path) == "unfinished"
        (tmp_path / "status").write_text(by_worker)
        if error is not None:
            raise error("x")
    assert status_of(tmp_path) == status


def test_a_step_without_a_finite_loss_changes_nothing(tiny, tmp_path):
    trainer = begun(tiny | {"val_split": "none"}, tmp_path / "train" / "x")
    learner, losses = trainer.train_step, trainer.train_step._losses
    before = {key: value.clone() for key, value in learner.network.state_dict().items()}

    def poisoned(batch, criterion):
        losses(batch, criterion)  # which has moved batch norm's statistics
        raise NotFinite("the classification loss is nan")

    learner._losses = poisoned
    parts = next(trainer._batches(Interrupts()))
    trainer._step(parts, Interrupts())
    assert_same_weights(learner.network.state_dict(), before)
    assert (trainer.state.step, trainer.state.bad_steps) == (1, 1)
    learner._losses = losses
    trainer._step(parts, Interrupts())
    assert (trainer.state.step, trainer.state.bad_steps) == (2, 0)
    assert not torch.equal(
        learner.network.state_dict()["backbone.bn1.running_mean"], before["backbone.bn1.running_mean"]
    )


@pytest.mark.parametrize("when", ["learning", "evaluating", "loading"])
def test_a_stop_is_at_once_and_resumed_bit_identical(tiny, tiny_run, tmp_path, monkeypatch, when):
    """In the middle of a step, of an evaluation, and while waiting for a batch, once each."""
    trainer = begun(tiny, tmp_path / "train" / "stopped")
    module, name = {
        "learning": (criterion.Criterion, "__call__"),
        "evaluating": (validator, "from_network"),
        "loading": (trainer_module, "islice"),
    }[when]
    original, calls = getattr(module, name), []

    def stopping(*args):
        calls.append(1)
        if len(calls) == (1 if when == "evaluating" else 3):
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("went on after the signal")
        return original(*args)

    monkeypatch.setattr(module, name, stopping)
    with pytest.raises(Interrupted) as stopped:
        trainer.fit()
    assert stopped.value.signal_number == signal.SIGTERM
    monkeypatch.setattr(module, name, original)
    Detector().train(resume=trainer.run)
    assert_same_weights(weights(trainer.run), weights(tiny_run))
    assert_same_weights(weights(trainer.run, "best.pt"), weights(tiny_run, "best.pt"))
    assert losses_of(trainer.run) == losses_of(tiny_run)


def losses_of(run):
    with (run / "results.csv").open() as file:
        return [(row["step"], row["loss_cls"], row["loss_reg"], row["AP"]) for row in csv.DictReader(file)]


def test_a_run_without_a_better_ap_stops(tiny, tmp_path):
    settings = {**tiny, "lr": 1e-12, "iters": 60, "patience": 2}
    run = Detector().train(**settings, project=tmp_path)
    assert [int(row[0]) for row in losses_of(run)] == [3, 6, 9]  # the first epoch is the best, and two more
    Detector().train(resume=run)
    assert len(losses_of(run)) == 3


def test_without_objects_to_evaluate_on_the_newest_weights_are_the_best(tiny, squares, tmp_path, capsys):
    data = shutil.copytree(squares, tmp_path / "data")
    file = data / "annotations" / "instances_val.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    run = Detector().train(**{**tiny, "data": str(data), "iters": 9, "patience": 1}, project=tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("data/val has no objects, so it gives no AP: best.pt will hold the newest weights") == 1
    assert [(row[0], row[3]) for row in losses_of(run)] == [("3", ""), ("6", ""), ("9", "")]
    assert load_checkpoint(run / "weights" / "best.pt").step == 9
    assert_same_weights(weights(run, "best.pt"), weights(run))


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
        ({"lr_steps": "4"}, "--lr-steps 4 is not before the end of the run, which has 4 steps"),
        ({"amp": "fp16"}, "fp16 needs a CUDA GPU"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_run(tiny, tmp_path, wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        Detector().train(**{**tiny, **wrong}, project=tmp_path)
    assert not list(tmp_path.rglob("*.pt"))
