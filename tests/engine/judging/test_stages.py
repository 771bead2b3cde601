"""Where time goes, and what it is called."""

from __future__ import annotations

import time

import pytest

from cledet.engine.judging.stages import EVALUATION, NETWORK, Stages


def test_seconds_add_up_by_stage_in_the_order_they_came():
    stages = Stages()
    for _ in range(2):
        with stages(NETWORK):
            time.sleep(0.02)
    with stages(EVALUATION):
        pass
    assert list(stages.seconds) == ["network", "evaluation"]
    assert 0.04 <= stages.seconds["network"] < 1
    assert stages.seconds["evaluation"] < 0.02


def test_waiting_counts_what_values_take_and_not_what_is_done_with_them():
    def slow():
        for i in range(3):
            time.sleep(0.02)
            yield i

    stages, seen = Stages(), []
    for value in stages.waiting("data", slow()):
        time.sleep(0.05)
        seen.append(value)
    assert seen == [0, 1, 2]
    assert 0.06 <= stages.seconds["data"] < 0.15


def test_what_goes_wrong_within_is_counted_and_goes_on():
    stages = Stages()
    with pytest.raises(KeyError), stages("data"):
        raise KeyError
    assert "data" in stages.seconds


def test_the_sentence_gives_milliseconds_an_image_but_for_the_figures():
    stages = Stages()
    stages.seconds = {"network": 3.0, "evaluation": 0.25}
    assert stages.sentence(60) == "network 3.00 s (50.0 ms an image), evaluation 0.25 s"
