"""Report on a failed launch: the failure that the others followed from, as one exception."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cledet.errors import Interrupted, ProcessFailed, UserError

Record = dict[str, Any]
"""How a worker failed, as `worker.record_of` wrote it; empty if the worker could not write it."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A worker's exit code (negative: a signal), time of failure in seconds, record and last lines of stderr."""

    rank: int
    exitcode: int
    time: float
    record: Record = field(default_factory=dict)
    stderr: str = ""

    @property
    def signal_name(self) -> str:
        """Name of the signal that ended the process; empty if none did."""
        if self.exitcode >= 0:
            return ""
        names = {member.value: member.name for member in signal.Signals}
        return names.get(-self.exitcode, f"signal {-self.exitcode}")

    @property
    def is_consequence(self) -> bool:
        """True if another worker's end explains this one: a lost connection, SIGTERM, or SIGABRT from NCCL."""
        return bool({"lost", "interrupted"} & self.record.keys()) or self.signal_name in ("SIGTERM", "SIGABRT")


def intended_end(records: Sequence[Record]) -> UserError | Interrupted | None:
    """Return the UserError of any worker, or the Interrupted that ended all of them, if there is one."""
    for record in records:
        if "user_error" in record:
            return UserError(*record["user_error"])
    if not records or not all("interrupted" in record for record in records):
        return None
    number, run = records[0]["interrupted"]
    return Interrupted(number, Path(run) if run else None)


def find_cause(failures: Sequence[Failure]) -> Failure:
    """Return the first failure that no other one explains."""
    return min(failures, key=lambda failure: (failure.is_consequence, failure.time))


def report(failures: Sequence[Failure], world_size: int, host: str) -> ProcessFailed:
    """Return the exception that describes the cause: its traceback, or its signal and the end of its stderr."""
    cause = find_cause(failures)
    worker = f"rank {cause.rank} of {world_size} on {host}"
    if "traceback" in cause.record:
        hint = "\na process of another node ended before: its output tells the reason" if "lost" in cause.record else ""
        return ProcessFailed(f"{worker} failed:\n{cause.record['traceback'].rstrip()}{hint}")
    stderr = f":\n{cause.stderr.rstrip()}" if cause.stderr.strip() else ""
    if not cause.signal_name:
        return ProcessFailed(f"{worker} ended with exit code {cause.exitcode}{stderr}")
    memory = ", as the system does when memory runs out" if cause.signal_name == "SIGKILL" else ""
    return ProcessFailed(f"{worker} was killed by {cause.signal_name}{memory}{stderr}")
