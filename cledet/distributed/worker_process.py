"""Worker processes of a launch on this machine: started, watched and stopped together, and the report on a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cledet.distributed.worker import SHUTDOWN, Record
from cledet.errors import Interrupted, OutputClosed, ProcessFailed, UserError
from cledet.signals import Interrupts

STDERR_LINES = 30
"""Last lines of stderr in the report on a worker that left no record."""


class Failure(NamedTuple):
    """A worker's rank, exit code (negative: a signal), record and last lines of stderr."""

    rank: int
    exitcode: int
    record: Record
    stderr: str = ""

    @property
    def is_consequence(self) -> bool:
        """True if another worker's end explains this one: a lost connection, SIGTERM, or SIGABRT from NCCL."""
        ended_by_others = self.exitcode in (-signal.SIGTERM, -signal.SIGABRT)
        return bool({"lost", "interrupted"} & self.record.keys()) or ended_by_others


class WorkerProcess:
    """A started worker, its files `rankN.out` and `rankN.err`, and its record, empty if it left none."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], folder: Path) -> None:
        self.rank = int(environ["RANK"])
        self._record, self._err = folder / f"rank{self.rank}.json", folder / f"rank{self.rank}.err"
        environ = {**os.environ, **environ, "CLEDET_FAILURE_RECORD": str(self._record)}
        self._record.unlink(missing_ok=True)  # of an earlier start
        with open(folder / f"rank{self.rank}.out", "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cledet.distributed.worker", *command],
                env=environ,
                stdout=out,
                stderr=None if environ["LOCAL_RANK"] == "0" else err,
                start_new_session=True,  # Ctrl-C reaches the launcher only, which passes it on once
            )

    def record(self) -> Record:
        """Read the failure record."""
        record: Record = json.loads(self._record.read_text()) if self._record.is_file() else {}
        return record

    def failure(self) -> Failure:
        """Describe the failure of a worker that has exited."""
        lines = self._err.read_text(errors="replace").splitlines()[-STDERR_LINES:]
        return Failure(self.rank, self.process.returncode, self.record(), "\n".join(lines))


def watch(workers: Sequence[WorkerProcess], stop: Interrupts, others_failed: Callable[[], bool]) -> list[Failure]:
    """Wait until all workers have succeeded, one or another machine has failed, or a signal came; then stop the rest.

    Returns the first failures of these workers.
    """
    try:
        while stop.number is None and not others_failed():
            codes = [worker.process.poll() for worker in workers]
            if any(codes):
                return [worker.failure() for worker, code in zip(workers, codes) if code]
            if None not in codes:
                break
            time.sleep(0.1)
        return []
    finally:
        _stop_all(workers, stop.number or signal.SIGTERM)


def _stop_all(workers: Sequence[WorkerProcess], number: int) -> None:
    """Send the signal to running workers, and kill those that have not exited after SHUTDOWN seconds."""
    try:
        for worker in workers:
            worker.process.send_signal(number)
        deadline = time.monotonic() + SHUTDOWN
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
    finally:  # also after a second Ctrl-C
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def intended_end(records: Sequence[Record]) -> UserError | OutputClosed | Interrupted | None:
    """Return the UserError or OutputClosed of any worker, the Interrupted that ended all of them, or None."""
    for record in records:
        if "user_error" in record:
            return UserError(*record["user_error"])
        if "output_closed" in record:
            return OutputClosed()
    if not records or not all("interrupted" in record for record in records):
        return None
    number, run = records[0]["interrupted"]
    return Interrupted(number, Path(run) if run else None)


def report(failures: Sequence[Failure], world_size: int, host: str) -> ProcessFailed:
    """Return the exception that describes the first failure that no other one explains.

    It holds the traceback, or the signal and the end of stderr.
    """
    cause = min(failures, key=lambda failure: failure.is_consequence)
    worker = f"rank {cause.rank} of {world_size} on {host}"
    if "traceback" in cause.record:
        hint = "\na process of another node ended before: its output tells the reason" if "lost" in cause.record else ""
        return ProcessFailed(f"{worker} failed:\n{cause.record['traceback'].rstrip()}{hint}")
    stderr = f":\n{cause.stderr.rstrip()}" if cause.stderr.strip() else ""
    if cause.exitcode >= 0:
        return ProcessFailed(f"{worker} ended with exit code {cause.exitcode}{stderr}")
    names = {-member.value: member.name for member in signal.Signals}
    memory = ", as the system does when memory runs out" if cause.exitcode == -signal.SIGKILL else ""
    name = names.get(cause.exitcode, f"signal {-cause.exitcode}")
    return ProcessFailed(f"{worker} was killed by {name}{memory}{stderr}")
