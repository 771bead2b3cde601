"""Of several processes the first one speaks; what names hold is never obeyed by the terminal."""

from __future__ import annotations

import io
import json

import pytest

from cledet.console import Steps, fail, printable, say, show, show_finding, show_json, show_table, track, warn


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


NAME = "a\x1b[31mb\nc"
SHOWN = r"a\x1b[31mb\nc"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (NAME, SHOWN),
        ("\x00\x07\x08\t\r\x7f\x85\x9b", r"\x00\x07\x08\t\r\x7f\x85\x9b"),
        ("photo\u202egpj.exe\u2066\u2069\u200f\u061c", r"photo\u202egpj.exe\u2066\u2069\u200f\u061c"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("caf\udce9.jpg", r"caf\udce9.jpg"),
        ("caf\u00e9 \u732b \u0642\u0637 \U0001f469\u200d\U0001f52c \u2588 [red] C:\\n", None),
    ],
)
def test_what_a_terminal_would_obey_is_escaped_and_nothing_else(text, shown):
    assert printable(text) == (text if shown is None else shown)


def test_names_are_shown_escaped_everywhere_and_kept_in_json(capsys):
    say(NAME, "second line")
    warn(NAME, "second line")
    fail(NAME, "second line")
    show(NAME, "second line")
    show_table(NAME, [NAME], [(NAME,)])
    show_finding("error", NAME, [NAME], 3)
    out, err = capsys.readouterr()
    assert err == f"{SHOWN}\nsecond line\nwarning: {SHOWN}\nsecond line\nerror: {SHOWN}\nsecond line\n"
    assert "\x1b" not in out
    assert out.startswith(f"{SHOWN}\nsecond line\n")
    assert out.count(SHOWN) == 6
    assert f"error   {SHOWN}\n          {SHOWN}\n          ... and 3 more\n" in out
    show_json({NAME: "caf\udce9.jpg"})
    written = capsys.readouterr().out
    assert json.loads(written) == {NAME: "caf\udce9.jpg"}
    assert written.isascii()
    assert "\x1b" not in written


def test_names_beside_a_progress_bar_are_escaped(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "dumb")
    with Steps(f"reading {NAME}", 2) as steps:
        steps.note(f"note {NAME}")
        steps.advance(f"figures {NAME}")
    assert f"note {SHOWN}\n" in stream.getvalue()
    assert steps._bar.tasks[0].description == f"reading {SHOWN}"
    assert steps._bar.tasks[0].fields["figures"] == f"figures {SHOWN}"


def test_without_streams_nothing_is_said_and_nothing_fails(monkeypatch):
    """As under Windows' pythonw."""
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    speak()
