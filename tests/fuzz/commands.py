"""Runs a whole command on a case, in a process of its own."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

sys.path.append(str(Path(__file__).parents[1] / "support"))  # as pyproject.toml does for pytest

from command_process import be_command

from cledet.errors import UserError

MEMORY = 2 << 30
"""Bytes that no process may exceed."""
OUT = "out"
"""The folder of a case that may be written to."""


def use_command(words: str, folder: Path, rng: random.Random) -> None:
    """Run the command line in a process of its own: it ends with 0 or 2, and writes no control characters.

    `predict` also ends with 1, if some of the images could not be read.
    """
    process = os.fork()
    if process == 0:
        _be_command(words.split(), folder / OUT / "log")
    try:
        _, status, usage = os.wait4(process, 0)
    except BaseException:
        os.kill(process, signal.SIGUSR1)  # it writes where it is, see the judge
        time.sleep(0.5)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        raise
    log, code = (folder / OUT / "log").read_bytes(), os.waitstatus_to_exitcode(status)
    if code not in ((0, 1, 2) if words.startswith("predict") else (0, 2)) or b"Traceback" in log:
        raise CommandFailed(f"exit code {code}\n{log.decode(errors='replace')}")
    if usage.ru_maxrss > MEMORY >> 10:
        raise CommandFailed(f"too much memory: {usage.ru_maxrss >> 10} MB")
    if set(log) & {0, 7, 8, 13, 27}:
        raise CommandFailed(f"control characters\n{log!r}")
    if code == 2:
        raise UserError(log.decode(errors="replace"))


class CommandFailed(Exception):
    """A command that ended with another code, or wrote characters that a terminal obeys."""


def _be_command(words: list[str], log: Path) -> NoReturn:
    """Be the command in this process, which is a copy, and end it."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    be_command(words)
