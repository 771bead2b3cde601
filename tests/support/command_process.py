"""cledet's command line in forked processes, which need not import torch again and can be killed at any moment."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from cledet.__main__ import main
from cledet.errors import OutputClosed


def be_command(words: Sequence[str]) -> NoReturn:
    """Be the command in this process, a copy whose streams are set, and end it."""
    code: Any = 1
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(stream, "w", closefd=False)) for stream in (1, 2))
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
    sys.argv = ["cledet", *words]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, OutputClosed):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


class CommandProcess:
    """A command that runs, in a session of its own; stdout and stderr go to a file unless they are given."""

    def __init__(
        self,
        words: Sequence[object],
        log: Path,
        *,
        prepare: Callable[[], object] = lambda: None,
        streams: tuple[int, int] | None = None,
    ) -> None:
        self.words, self.log, self.code = [*map(str, words)], log, None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._set_streams(streams)
                os.setsid()
                prepare()
            except BaseException:
                traceback.print_exc()
                os._exit(99)
            be_command(self.words)

    def _set_streams(self, streams: tuple[int, int] | None) -> None:
        file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        silence = os.open(os.devnull, os.O_RDONLY)
        for number, stream in enumerate((silence, *(streams or (file, file)))):
            os.dup2(stream, number)

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while the process runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = 300) -> int:
        """Wait for the end. Raises TimeoutError, after a kill, for a process that hangs."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"{self} hangs\n{self.text()}")
            time.sleep(0.01)
        return code

    def kill(self) -> bool:
        """SIGKILL the process alone; return whether that ended it."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)
        return self.code == -signal.SIGKILL

    def kill_after(self, seconds: float) -> bool:
        """Let the process run for this time at most, and then `kill` it."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.kill()

    def children(self) -> list[int]:
        """The ids of the processes that it has started and that still run."""
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdecimal():
                    state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                    found += [int(folder.name)] if int(parent) == self.pid and state != "Z" else []
        return found

    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def __str__(self) -> str:
        return f"cledet {' '.join(self.words)}"
