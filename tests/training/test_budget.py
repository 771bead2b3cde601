"""Runs within a time budget, by a clock that the tests turn."""

from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as deadlines
from hypothesis import strategies as st

from cledet import Detector
from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.config.types import LARGEST
from cledet.errors import Interrupted, UserError
from cledet.models.checkpoint import load_checkpoint
from cledet.training import budget as budget_module
from cledet.training.budget import Budget
from cledet.training.schedule import lr_factor
from cledet.training.train_step import TrainStep


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(budget_module, "monotonic", clock)
    return clock


def simulate(
    clock: Clock,
    budget: Budget,
    step_seconds: Callable[[int], float],
    evaluation_seconds: Callable[[int], float],
    step: int = 0,
) -> tuple[int, list[int]]:
    """Run as the trainer does, from `step` to the end; return the last step and the lengths of the run over time."""
    lengths: list[int] = []
    while step < (budget.total or budget.limit):
        clock.now += step_seconds(step)
        step += 1
        if budget.is_due(step):
            budget.total = budget.plan(step)
            lengths += [budget.total] if budget.total is not None and budget.total not in lengths else []
        ends = step * budget.batch // budget.interval > (step - 1) * budget.batch // budget.interval
        if budget.evaluated and (ends or step == (budget.total or budget.limit)):
            begin = budget.used
            clock.now += evaluation_seconds(step)
            budget.add_evaluation(begin)
    return step, lengths


def new(seconds: float, limit: int = LARGEST, *, batch: int = 8, interval: int = 800, evaluated: int = 100) -> Budget:
    return Budget(seconds, limit, batch=batch, interval=interval, evaluated=evaluated)


def test_the_length_by_hand(clock):
    """1000 s, 1 s a step, 10 s an evaluation each 100 steps.

    Decided at step 100, after 100 s and before its evaluation: of the other 900 s, evaluations at 100, 200 ... and at
    the end leave 819 steps with 9 evaluations, which are assumed to take 12.5 s, the time to train 100 images: 787
    steps with 9 (at 100 ... 800 and the end) take 787 + 112.5 s.
    """
    budget = new(1000.0)
    end, lengths = simulate(clock, budget, lambda step: 1.0, lambda step: 10.0)
    assert lengths == [887]
    assert end == 887
    assert clock.now == 887 + 90


def test_a_measured_evaluation_is_counted_as_measured(clock):
    """Epochs of 10 steps: evaluations of 2 s have been measured when a tenth of the budget, 40 s, is used."""
    budget = new(400.0, interval=80)
    end, lengths = simulate(clock, budget, lambda step: 1.0, lambda step: 2.0)
    assert lengths == [end]
    assert end == 332
    assert clock.now == 332 + 2 * 34 == 400


def test_start_up_is_not_measured(clock):
    """A first step of 40 s of 1000, as torch.compile takes, and 1 s for each other one."""
    end, lengths = simulate(clock, new(1000.0, evaluated=0), lambda step: 40.0 if step == 0 else 1.0, lambda step: 0.0)
    assert lengths == [end]
    assert clock.now == 1000


@pytest.mark.parametrize("limit", [5, 60, 886])
def test_the_earlier_of_budget_and_epochs_ends_a_run(clock, limit):
    end, _ = simulate(clock, new(1000.0, limit), lambda step: 1.0, lambda step: 10.0)
    assert end == limit


def test_without_a_budget_nothing_is_measured(clock):
    budget = new(math.inf, 30)
    assert budget.total == 30
    assert not any(budget.is_due(step) for step in range(31))


def test_a_run_that_becomes_slower_is_cut_and_never_lengthened(clock):
    """Twice as slow from step 300 on, then ten times as fast: the end is in time, and lengths only fall."""
    speed = [1.0] * 300 + [2.0] * 300 + [0.1] * 1000
    end, lengths = simulate(clock, new(1000.0), lambda step: speed[step], lambda step: 10.0)
    assert len(lengths) > 1
    assert lengths == sorted(lengths, reverse=True)
    assert end == lengths[-1]
    assert clock.now <= 1000


@deadlines(deadline=None, max_examples=50)
@given(
    pace=st.floats(0.2, 3),
    evaluation=st.floats(0, 60),
    interval=st.integers(8, 5000),
    evaluated=st.sampled_from([0, 100]),
    noise=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 99),
)
def test_a_budget_is_kept(pace, evaluation, interval, evaluated, noise, seed):
    """For any pace and noise, but for 3 %, a step and an unforeseen evaluation; without noise, all of it is used."""
    clock, seconds, rng = Clock(), 1000.0, np.random.default_rng(seed)
    factors = rng.uniform(1 - noise, 1 + noise, 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget_module, "monotonic", clock)
        budget = new(seconds, interval=interval, evaluated=evaluated)
        simulate(clock, budget, lambda step: pace * factors[step % 1000], lambda step: evaluation)
    assert clock.now <= 1.03 * seconds + pace * (1 + noise) + evaluation
    if noise == 0 and not evaluated:
        assert clock.now > seconds - 1.001 * pace


def test_an_impossible_budget_ends_after_the_first_step(clock):
    end, lengths = simulate(clock, new(2.0), lambda step: 5.0, lambda step: 1.0)
    assert (end, lengths) == (1, [1])


def test_a_saved_budget_continues_with_the_time_used(clock):
    """A day between the interruption and the resume does not count; the length stays."""
    budget = new(1000.0)
    for step in range(1, 151):
        clock.now += 1.0
        if budget.is_due(step):
            budget.total = budget.plan(step)
    saved, total = budget.state_dict(), budget.total
    clock.now += 86_400
    again = new(1000.0)
    again.load_state_dict(saved)
    assert again.used == 150
    assert again.total == total is not None
    assert again.state_dict() == saved
    end, lengths = simulate(clock, again, lambda step: 1.0, lambda step: 10.0, step=150)
    assert (end, lengths) == (total, [total])


def settings(**given):
    return resolve(TrainSettings, given, environ={})


def test_hours_alone_leave_the_epochs_open():
    assert (settings().epochs, settings().steps(80)) == (12, 120)
    assert (settings(hours=2).epochs, settings(hours="2").steps(80)) == (None, LARGEST)
    assert settings(hours=2, epochs=3).steps(80) == 30
    assert settings(hours=2, iters=7).steps(80) == 7
    assert settings(hours=2).origins["epochs"] == "default"
    with pytest.raises(UserError, match=r"--lr-steps 100.0,8e may lie beyond the end of --hours; give fractions"):
        settings(hours=2, lr_steps="100,8e")
    with pytest.raises(UserError, match=r"--hours 0 \(from the flag\): input should be greater than 0"):
        settings(hours=0)


def test_the_schedule_warms_up_before_the_length_is_known_and_ends_with_the_run():
    for schedule, last in (("cosine", 0.0101), ("step", 0.01), ("onecycle", 1e-4)):
        chosen = settings(hours=1, schedule=schedule)
        assert lr_factor(chosen, 250, LARGEST) == pytest.approx(0.04 if schedule == "onecycle" else 0.5005)
        assert lr_factor(chosen, 999, 1000) == pytest.approx(last, rel=0.1, abs=1e-4)


def timed_run(monkeypatch, clock, seconds, stop_at=None):
    """Let each update of the weights take `seconds`; send SIGTERM after `stop_at` steps."""
    update = TrainStep.update

    def slow(self, step):
        update(self, step)
        clock.now += seconds
        if step + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainStep, "update", slow)


def rows(run):
    with (run / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def hourly(tiny, tmp_path):
    """A run of 18 s in steps of 1 s, with mosaics, epochs of three steps and evaluations that take no time."""
    own = {"iters": None, "hours": 0.005, "imgsz": 32, "val_every": 3, "mosaic": 0.5, "schedule": "cosine"}
    return {**tiny, **own, "project": tmp_path}


@pytest.mark.slow
def test_a_run_ends_with_its_budget_fully_annealed(hourly, clock, monkeypatch, capsys):
    """Decided at half of the budget, step 9, before an evaluation of four images, assumed to take two steps, is due.

    14 steps and two evaluations take 18 s. The evaluations take no time in the end.
    """
    timed_run(monkeypatch, clock, 1.0)
    run = Detector().train(**hourly)
    found = rows(run)
    assert [int(row["epoch"]) for row in found] == [1, 2, 3, 4, 5]
    assert [int(row["step"]) for row in found] == [3, 6, 9, 12, 14]
    assert float(found[-1]["lr"]) == pytest.approx(hourly["lr"] * lr_factor(settings(**hourly), 13, 14), rel=1e-4)
    assert [bool(row["AP"]) for row in found] == [False, False, True, False, True]
    assert (run / "status").read_text() == "finished\n"
    said = capsys.readouterr().err
    assert "steps of 2 within 0.005 h at 32 px" in said
    assert "--hours 0.005: the run has 14 steps (1 s per step, 2 s per evaluation)" in said
    config = (run / "config.yaml").read_text()
    assert "hours: 0.005  # flag" in config
    assert "epochs: null  # default" in config


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_keeps_its_length_and_ends_bit_identical(hourly, clock, monkeypatch, workers):
    """Stopped after its length was fixed and resumed at the same pace, with a day between."""
    hourly = {**hourly, "workers": workers, "mosaic": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        timed_run(patch, clock, 1.0)
        whole = Detector().train(**hourly, name="whole")
    with pytest.MonkeyPatch.context() as patch:
        timed_run(patch, clock, 1.0, stop_at=12)
        with pytest.raises(Interrupted) as stopped:
            Detector().train(**hourly, name="stopped")
    run = stopped.value.run
    assert load_checkpoint(run / "weights" / "last.pt").training["budget"]["total"] == 14
    clock.now += 86_400
    timed_run(monkeypatch, clock, 1.0)
    Detector().train(resume=run)
    a, b = (load_checkpoint(folder / "weights" / "last.pt") for folder in (run, whole))
    assert a.step == b.step == 14
    assert all(torch.equal(a.model[name], b.model[name]) for name in b.model)
    assert [row["loss_cls"] for row in rows(run)] == [row["loss_cls"] for row in rows(whole)]


@pytest.mark.slow
def test_a_slower_resumed_run_is_cut_and_evaluated_at_its_end(hourly, clock, capsys):
    with pytest.MonkeyPatch.context() as patch:
        timed_run(patch, clock, 1.0, stop_at=12)
        with pytest.raises(Interrupted) as stopped:
            Detector().train(**hourly)
    with pytest.MonkeyPatch.context() as patch:
        timed_run(patch, clock, 6.0)
        before = clock.now
        run = Detector().train(resume=stopped.value.run)
    assert "the run is slower than measured and is cut to 13 steps" in capsys.readouterr().err
    assert clock.now - before == 6
    assert rows(run)[-1]["AP"]
    assert int(rows(run)[-1]["step"]) == load_checkpoint(run / "weights" / "last.pt").step == 13


@pytest.mark.slow
def test_two_processes_end_together(tiny, tmp_path):
    """A real clock: the main process decides for both, so neither waits for the other."""
    given = {**tiny, "iters": None, "hours": 0.002, "imgsz": 32, "device": "cpu,cpu", "val_every": 1000}
    run = Detector().train(**given, project=tmp_path)
    state = load_checkpoint(run / "weights" / "last.pt")
    assert state.step == state.training["budget"]["total"] == int(rows(run)[-1]["step"])
    assert state.training["finished"]
