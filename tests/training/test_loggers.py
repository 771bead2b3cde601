"""Metrics go to the selected clients and to the user's callback."""

from __future__ import annotations

import json
import sys

import pytest

from cledet import Detector
from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.errors import UserError
from cledet.training.loggers import load_callback, open_loggers
from cledet.training.train_step import TrainStep

pytestmark = pytest.mark.slow

FIGURES = [(3, {"loss_cls": 1.5}), (4, {"loss_cls": 1.25, "AP": 0.5})]


def settings(logger):
    return resolve(TrainSettings, {"logger": logger}, environ={})


def test_tensorboard_gets_the_metrics(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_loggers(settings("tensorboard"), tmp_path) as (log,):
        for step, figures in FIGURES:
            log(step, figures)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss_cls")] == [(3, 1.5), (4, 1.25)]
    assert [(event.step, event.value) for event in events.Scalars("AP")] == [(4, 0.5)]


def test_mlflow_gets_the_metrics_and_resumes_its_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    for step, figures in FIGURES:  # as if the run had been resumed between
        with open_loggers(settings("mlflow"), tmp_path / "run") as (log,):
            log(step, figures)
        assert mlflow.active_run() is None
    (run,) = mlflow.search_runs(experiment_names=["cledet"], output_format="list")
    assert run.data.metrics == {"loss_cls": 1.25, "AP": 0.5}
    assert run.data.params["backbone"] == "r50"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss_cls")
    assert [(point.step, point.value) for point in history] == [(3, 1.5), (4, 1.25)]


def test_wandb_gets_the_metrics_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with open_loggers(settings("wandb"), tmp_path) as (log,):
        for step, figures in FIGURES:
            log(step, figures)
        assert wandb.run.summary["AP"] == 0.5
        assert wandb.run.summary["loss_cls"] == 1.25
        assert wandb.run.summary["_step"] == 4
    assert wandb.run is None
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


class Client:
    """A stand-in for wandb: a run per `init`, which notes its end."""

    def __init__(self):
        self.events = []

    def init(self, name, **others):
        self.name = name
        return self

    def __enter__(self):
        return self

    def log(self, metrics, **others):
        self.events.append(self.name)

    def __exit__(self, kind, *others):
        self.events.append((self.name, kind))


def test_each_run_of_a_grid_ends_its_loggers(tiny, tmp_path, monkeypatch):
    client = Client()
    monkeypatch.setitem(sys.modules, "wandb", client)
    given = {**tiny, "iters": 1, "val_split": "none", "logger": "wandb", "ablation": "none;dc", "project": tmp_path}
    Detector().train(**given)
    assert client.events == ["none-seed0", ("none-seed0", None), "dc-seed0", ("dc-seed0", None)]

    def fail(self, step):
        raise ArithmeticError

    client.events.clear()
    monkeypatch.setattr(TrainStep, "update", fail)
    with pytest.raises(ArithmeticError):
        Detector().train(**given)
    assert client.events == [("none-seed0", ArithmeticError)]


def test_a_logger_that_does_not_exist_or_is_not_installed(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"unknown logger 'tensorbord' \(did you mean tensorboard\?\)"):
        settings("wandb,tensorbord")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb is not installed \(pip install 'cledet\[wandb\]'\)"):
        open_loggers(settings("wandb"), tmp_path).__enter__()
    assert settings("none").loggers == ()
    assert settings("wandb,mlflow").loggers == ("wandb", "mlflow")


def test_a_callback_is_called_for_every_step_and_epoch(tiny, tmp_path, monkeypatch):
    (tmp_path / "mine_for_cledet.py").write_text(
        "import json\n"
        "def hear(event, facts):\n"
        "    with open('heard.jsonl', 'a') as file:\n"
        "        print(json.dumps([event, facts['step'], sorted(facts)]), file=file)\n"
    )
    monkeypatch.chdir(tmp_path)
    Detector().train(**tiny, project=tmp_path, callback="mine_for_cledet:hear")
    heard = [json.loads(line) for line in (tmp_path / "heard.jsonl").read_text().splitlines()]
    assert [(event, step) for event, step, _ in heard] == [
        ("step", 0), ("step", 1), ("step", 2), ("epoch", 3), ("step", 3), ("epoch", 4), ("end", 4),
    ]  # fmt: skip
    assert {"classification", "regression", "lr"} <= set(heard[0][2])
    assert {"AP", "per_class", "loss_cls", "images_per_s"} <= set(heard[3][2])


@pytest.mark.parametrize("name", ["nomodule:f", "json:nothing", "json", "json:__name__", ":", "json:"])
def test_a_callback_that_cannot_be_imported_is_refused(name):
    with pytest.raises(UserError, match=r"--callback "):
        load_callback(name)
