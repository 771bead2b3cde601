"""Seconds per stage, and their summary."""

from __future__ import annotations

import pytest
import torch

from cledet.evaluation import timing as module
from cledet.evaluation.timing import EVALUATION, NETWORK, StageTimer


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances only when it is set forward."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_seconds_add_up_by_stage_in_the_order_they_came(clock):
    timer = StageTimer()
    for seconds in (2.0, 0.5):
        clock[0] += 16  # between timer: counted as none
        with timer(NETWORK):
            clock[0] += seconds
    with timer(EVALUATION):
        pass
    assert list(timer.seconds.items()) == [("network", 2.5), ("evaluation", 0.0)]


def test_time_before_an_error_is_counted_and_the_error_is_raised(clock):
    def broken():
        clock[0] += 3
        raise KeyError

    timer = StageTimer()
    with pytest.raises(KeyError), timer("data"):
        broken()
    assert timer.seconds == {"data": 3}


def test_a_stage_ends_when_its_device_is_synchronized(clock, monkeypatch):
    """Which takes this one 4 s more; and the CPU is never waited for."""
    asked = []

    def synchronize(device):
        asked.append(device)
        clock[0] += 4

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    timer = StageTimer(torch.device("meta"))
    with timer(NETWORK):
        clock[0] += 1
    assert timer.seconds == {"network": 5}
    with StageTimer()(NETWORK):
        pass
    assert asked == [torch.device("meta")]


def test_the_summary_gives_milliseconds_per_image_except_for_the_evaluation():
    timer = StageTimer()
    timer.seconds = {"network": 3.0, "evaluation": 0.25}
    assert timer.summary(60) == "network 3.00 s (50.0 ms/image), evaluation 0.25 s"
