"""Entry point of a worker process: `python -m cledet.distributed.worker MODULE:FUNCTION ARGUMENTS`.

The launcher reports a failure, so the worker records it in a file instead of printing it. A worker also exits when its
launcher is gone.
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
from typing import Any, NoReturn

from cledet.errors import Interrupted, OutputClosed, UserError

Record = dict[str, Any]
"""How a worker failed, as `record_of` wrote it; empty if the worker could not write it."""
SHUTDOWN = 30
"""Seconds in which a worker can save and exit after a signal, or after its launcher is gone; then it is killed."""
LOST_DELAY = 3
"""Seconds by which a worker with a lost connection delays its exit, so that the crashed worker exits first."""
LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL", "nccl", "TCPStore")
"""Words in exceptions that report a lost connection to another process."""


def main() -> None:
    """Call the function, which reads `sys.argv` as a command does."""
    entry, *arguments = sys.argv[1:]
    module, _, name = entry.partition(":")
    sys.argv = [module.partition(".")[0], *arguments]
    faulthandler.enable(all_threads=False)
    if sys.platform != "win32":  # where an orphan keeps its parent's number
        threading.Thread(target=end_with_launcher, args=(os.getppid(),), daemon=True).start()
    try:
        getattr(import_module(module), name)()
    except SystemExit:
        raise
    except BaseException as error:
        record_and_exit(error)


def end_with_launcher(launcher: int) -> None:
    """Wait until the launcher is gone, for example by SIGKILL; then let this process save, and end it."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SHUTDOWN)
    os._exit(128 + signal.SIGTERM)


def record_and_exit(error: BaseException) -> NoReturn:
    """Write the failure record and exit.

    After a crash the interpreter is not shut down: the threads of a broken process group could abort or block it.
    """
    file = Path(os.environ["CLEDET_FAILURE_RECORD"])
    part = file.with_suffix(".part")  # the launcher reads a complete record or none
    part.write_text(json.dumps(record_of(error)))
    part.replace(file)
    if isinstance(error, UserError | Interrupted | KeyboardInterrupt | OutputClosed):
        sys.exit(1)
    if lost_peer(error):
        time.sleep(LOST_DELAY)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def record_of(error: BaseException) -> Record:
    """Return the exception as plain data: its traceback, and the arguments of cledet's own exceptions."""
    frames = error.__traceback__ and error.__traceback__.tb_next  # without this file's frame
    record: Record = {"traceback": "".join(traceback.format_exception(type(error), error, frames))}
    if lost_peer(error):
        record["lost"] = True
    if isinstance(error, UserError):
        record["user_error"] = [error.message, error.hint]
    if isinstance(error, Interrupted):
        record["interrupted"] = [error.signal_number, str(error.run) if error.run else None]
    if isinstance(error, OutputClosed):
        record["output_closed"] = True
    return record


def lost_peer(error: BaseException) -> bool:
    """Return whether the exception, like all that led to it, reports a lost connection to another process."""
    lost = isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)
    before = error.__cause__ or error.__context__
    return lost and (before is None or lost_peer(before))


if __name__ == "__main__":
    main()
