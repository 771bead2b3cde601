"""Of several processes the first one speaks."""

from __future__ import annotations

import pytest

from cledet.console import Steps, fail, say, show, show_json, show_table, track, warn


def speak():
    say("news")
    warn("beware")
    show("a line")
    show_json({"a": 1})
    show_table("", ["b"], [(2,)])
    assert list(track([1, 2], "counting")) == [1, 2]
    fail("the end")


def test_the_first_process_speaks(capsys, monkeypatch):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    speak()
    out, err = capsys.readouterr()
    assert err == "news\nwarning: beware\nerror: the end\n"
    assert [word in out for word in ("a line", '"a": 1', "2")] == [True] * 3


@pytest.mark.parametrize("number", [0, 1])
def test_a_terminal_has_the_bar_of_the_first_process_only(monkeypatch, number):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for key, value in {"RANK": str(number), "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    assert Steps("counting", 2)._bar.disable is (number == 1)


@pytest.mark.parametrize(
    "environ",
    [
        {"RANK": "3", "WORLD_SIZE": "4"},
        {"SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"},
    ],
)
def test_another_only_says_what_ends_it(capsys, monkeypatch, environ):
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    speak()
    assert capsys.readouterr() == ("", "rank 3: error: the end\n")
