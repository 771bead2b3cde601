"""Only the main process prints; control characters in names never reach the terminal."""

from __future__ import annotations

import io
import json
import re

import pytest

from cledet.console import Steps, fail, printable, say, show, show_finding, show_json, show_table, track, warn


def speak():
    say("news")
    warn("beware")
    show("a line")
    show_json({"a": 1})
    show_table("", ["b"], [(2,)])
    assert list(track([1, 2], "counting", 2)) == [1, 2]
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
    show_finding("error", NAME, [NAME], "and 3 more")
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
    assert steps._bar.tasks[0].fields["statistics"] == [f"figures {SHOWN}"]


def open_terminal(monkeypatch, columns=80):
    """Make stderr a terminal; returns a function for the text that was written to it."""
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    return stream.getvalue


@pytest.mark.parametrize(("columns", "lines"), [(50, 11), (60, 7), (100, 6)])
def test_tables_lose_nothing_on_a_narrow_terminal(monkeypatch, columns, lines):
    """At 50 columns, rows become lines of a name and a value; at 60 the long name is broken."""
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [["a_name_of_thirty_characters_xx", 123456, "12.5 %", 0.5], ["b", None, "-", 0.25]]
    show_table("", ["class", "images", "share", "difference"], rows)
    shown = re.sub(r"\x1b\[\d*m", "", stream.getvalue())
    assert len(shown.splitlines()) == lines
    assert max(map(len, shown.splitlines())) <= columns
    assert "…" not in shown
    for cell in ("class", "images", "share", "difference", "123456", "12.5 %", "0.5000", "0.2500", "_xx"):
        assert cell in shown


def screen(text):
    """The lines that a terminal shows after `text`: cursor movements up, line starts and line erasures are applied."""
    lines, row = [""], 0
    for part in re.split(r"(\n|\r|\x1b\[[\d?;]*[A-Za-z])", text):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part.endswith("A") and part.startswith("\x1b["):
            row -= int(part[2:-1] or 1)
        elif part in ("\x1b[2K", "\r"):
            lines[row] = "" if part == "\x1b[2K" else lines[row]
        elif not part.startswith("\x1b["):
            lines[row] += part
    return [line for line in lines if line.strip()]


PARTS = ("epoch 12.3", "cls loss 0.512", "box loss 0.331", "123.4 images/s", "lr 0.01", "12.3 GB")


@pytest.mark.parametrize(("width", "shown"), [(60, 0), (80, 2), (100, 3), (160, 6)])
def test_a_bar_is_one_line_and_drops_statistics_first(monkeypatch, width, shown):
    terminal = open_terminal(monkeypatch, width)
    with Steps("training", 120_000, 60_000) as steps:
        steps.advance(*PARTS)
        steps._bar.refresh()
        (line,) = [line for line in screen(terminal()) if "training" in line]
    assert len(line) <= width
    assert "60001/120000 ETA" in line
    assert [part in line for part in PARTS] == [True] * shown + [False] * (len(PARTS) - shown)
    assert screen(terminal()) == []


def test_a_bar_inside_a_bar_hides_the_outer(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with Steps("training", 4) as outer:
        with Steps("validation", 2) as inner:
            inner._bar.refresh()
            assert [line.split()[0] for line in screen(terminal())] == ["validation"]
            say("a message")
        outer._bar.refresh()
        assert [line.split()[0] for line in screen(terminal())] == ["a", "training"]
    assert screen(terminal()) == ["a message"]


def test_an_error_leaves_no_bar(monkeypatch):
    """A loop's generator is still open while the error that ended the loop is printed."""
    terminal = open_terminal(monkeypatch)
    items = track([1, 2], "predicting", 2)
    next(items)
    fail("stopped by SIGINT")
    assert next(items) == 2
    assert screen(terminal()) == ["error: stopped by SIGINT"]


def test_without_streams_nothing_is_said_and_nothing_fails(monkeypatch):
    """As under Windows' pythonw."""
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    speak()
