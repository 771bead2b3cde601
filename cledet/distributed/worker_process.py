"""Worker processes of a launch on this machine: started, watched and stopped together."""

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

from cledet.distributed.failure_report import Failure, Record
from cledet.signals import Interrupts

SHUTDOWN = 30.0
"""Seconds in which a worker can save and exit after a signal; then it is killed."""
STDERR_LINES = 30
"""Last lines of stderr in the report on a worker that left no record."""


class WorkerProcess:
    """A started worker and its files: `rankN.out`, `rankN.err` and, after a failure, the record `rankN.json`."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], folder: Path, start: int) -> None:
        self.rank = int(environ["RANK"])
        self.stem = folder / (f"rank{self.rank}" + (f"-start{start + 1}" if start else ""))
        environ = {**os.environ, **environ, "CLEDET_FAILURE_RECORD": str(self._file("json"))}
        with open(self._file("out"), "wb") as out, open(self._file("err"), "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cledet.distributed.worker", *command],
                env=environ,
                stdout=out,
                stderr=None if environ["LOCAL_RANK"] == "0" else err,
                start_new_session=True,  # Ctrl-C reaches the launcher only, which passes it on once
            )

    def _file(self, kind: str) -> Path:
        return self.stem.with_suffix(f".{kind}")

    def record(self) -> Record:
        """Read the failure record; empty if the worker left none."""
        file = self._file("json")
        record: Record = json.loads(file.read_text()) if file.is_file() else {}
        return record

    def failure(self) -> Failure:
        """Describe the failure of a worker that has just exited."""
        record = self.record()
        return Failure(
            rank=self.rank,
            exitcode=self.process.returncode,
            time=record.get("time", time.time()),
            record=record,
            stderr="\n".join(self._file("err").read_text(errors="replace").splitlines()[-STDERR_LINES:]),
        )


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
