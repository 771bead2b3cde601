"""What a process started by `launch` runs: `python -m cledet.distributed.worker MODULE:FUNCTION ARGUMENTS`.

How it ended it leaves in the file that torch elastic names, for the launcher to tell the user; and it does not outlive
its launcher.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from cledet.errors import Interrupted, UserError

PATIENCE = 30
"""Seconds that a process has to save and end after its launcher is gone."""
DEFERENCE = 3
"""Seconds that a process which lost its connection leaves to the one that crashed, to leave its record first."""
LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL", "nccl", "TCPStore")
"""What exceptions say of a connection to another process that is gone."""


class Recorded:
    """What ends the block with an exception is left in a file and not printed; the process ends with its exit code.

    After a crash it does so at once: the threads of a broken group may abort Python's clearing up, or hang it.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, where: TracebackType | None) -> None:
        if error is None or isinstance(error, SystemExit):
            return
        if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            _write(Path(file), record_of(error, where))
        code = exit_code(error)
        if code != 1:
            sys.exit(code)
        if lost_peer(error):
            time.sleep(DEFERENCE)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def exit_code(error: BaseException) -> int:
    """As the command line has it: 1 a bug, 2 a user's mistake, 128 and the signal's number if interrupted."""
    if isinstance(error, UserError):
        return 2
    if isinstance(error, Interrupted):
        return 128 + error.signal_number
    return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def lost_peer(error: BaseException) -> bool:
    """Whether the exception, and what it came of, follows from another process's end."""
    lost = isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)
    before = error.__cause__ or error.__context__
    return lost and (before is None or lost_peer(before))


def record_of(error: BaseException, where: TracebackType | None) -> dict[str, Any]:
    """The exception as torch elastic's error files have it, with what is needed to raise ours again."""
    lines = traceback.format_exception(type(error), error, where and where.tb_next)
    extra: dict[str, Any] = {"py_callstack": "".join(lines), "timestamp": str(int(time.time())), "moment": time.time()}
    if lost_peer(error):
        extra["lost"] = True
    if isinstance(error, UserError):
        extra["mistake"] = [error.message, error.hint]
    if isinstance(error, Interrupted):
        extra["interrupted"] = [error.signal_number, str(error.run) if error.run else None]
    return {"message": {"message": f"{type(error).__name__}: {error}", "extraInfo": extra}}


def _write(path: Path, record: dict[str, Any]) -> None:
    """Whole or not at all: the launcher may look at any time."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record))
    part.replace(path)


def follow(launcher: int) -> None:
    """Wait until the launcher is gone, as by SIGKILL; then ask this process to save and end, and end it."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(128 + signal.SIGTERM)


def main() -> None:
    """Call the function, which reads `sys.argv` as a command does."""
    entry, *arguments = sys.argv[1:]
    module, _, name = entry.partition(":")
    sys.argv = [module.partition(".")[0], *arguments]
    faulthandler.enable(all_threads=False)
    if sys.platform != "win32":  # where a process keeps its parent's number
        threading.Thread(target=follow, args=(os.getppid(),), daemon=True).start()
    with Recorded():
        getattr(import_module(module), name)()


if __name__ == "__main__":
    main()
