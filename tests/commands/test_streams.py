"""Commands whose stdout or stderr is closed, full, or has lost its reader."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")]
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
LONG = "import sys; from cledet import cli; cli.app = lambda: print('x' * 100_000 + '\\n' * 9); cli.main()"
"""More than fits into a buffer, so that the first word fails and not the last."""


def shell(words: str, cwd: Path, **environ: str) -> tuple[int, str]:
    """The exit code, and what arrives at stderr, of a shell's command; $CLEDET is the command."""
    environ = {**ENVIRON, "CLEDET": f"{sys.executable} -m cledet", "PYTHON": sys.executable, **environ}
    done = subprocess.run(["bash", "-c", words], cwd=cwd, env=environ, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("args", ["--help", "check --help", "--version", "data list", "data list --json", "recipes"])
@pytest.mark.parametrize(("to", "reason"), [("/dev/full", "No space left on device"), ("&-", "Bad file descriptor")])
def test_results_that_cannot_be_written_are_said(tmp_path, args, to, reason):
    found = shell(f"$CLEDET {args} >{to}", tmp_path)
    assert found == (2, f"error: cannot write to stdout: {reason}\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_long_result_that_cannot_be_written_is_said_once(tmp_path, unbuffered):
    found = shell(f'$PYTHON -c "{LONG}" >/dev/full', tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert found == (2, "error: cannot write to stdout: No space left on device\n")


def test_a_reader_who_leaves_early_is_no_error(tmp_path):
    assert shell("$CLEDET data list --json | head -1 >/dev/null; exit ${PIPESTATUS[0]}", tmp_path) in (
        (141, ""),
        (0, ""),
    )
    assert shell(f'$PYTHON -c "{LONG}" | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}', tmp_path) == (141, "")


def test_a_closed_stderr_is_no_error_of_the_file_at_hand(squares, tmp_path):
    """The progress of unpacking is printed among its writes, whose errors are told as those of the archive."""
    archive = shutil.make_archive(str(tmp_path / "squares"), "zip", squares)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "cledet", "check", archive]
    environ = {**os.environ, "CLEDET_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, stderr=writing, timeout=300, check=False)
    os.close(writing)
    assert done.returncode == 141


@pytest.mark.parametrize("to", ["/dev/full", "&-"])
def test_news_that_cannot_be_written_stop_no_work(tmp_path, to):
    (tmp_path / "a.py").write_text(
        "import sys; from cledet import cli, console\n"
        "cli.app = lambda: [console.say('news'), console.warn('news'), console.show('result')]; cli.main()"
    )
    assert shell(f"$PYTHON a.py 2>{to} >out", tmp_path) == (0, "")
    assert (tmp_path / "out").read_text() == "result\n"
    assert shell(f"$CLEDET check nowhere 2>{to}", tmp_path) == (2, "")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """Else what is printed lands in the next file that is opened."""
    (tmp_path / "a.py").write_text(
        "from cledet import cli\n"
        "def app():\n    with open('file', 'w') as file:\n        print('result', flush=True)\n"
        "cli.app = app; cli.main()"
    )
    assert shell("$PYTHON a.py 0<&- 1>&-", tmp_path) == (2, "error: cannot write to stdout: Bad file descriptor\n")
    assert (tmp_path / "file").read_text() == ""


def test_names_in_flags_are_shown_escaped(tmp_path):
    code, said = shell("$CLEDET check $'a\\x1b[31mb\\nc'", tmp_path)
    assert (code, said.count("\n")) == (2, 1)
    assert rf"error: data set not found: {tmp_path}/a\x1b[31mb\nc (" in said
    _, said = shell("$CLEDET check a $'b\\x1b[31mc'", tmp_path)
    assert r"(b\x1b[31mc)" in said
    assert "\x1b" not in said
