"""Why a group of processes ended: of all that failed, the one whose failure came first and not of another's."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cledet.errors import Interrupted, ProcessFailed, UserError

BLOWS = {"SIGKILL", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE"}
"""Signals that no process gets because another failed, but for SIGKILL, long after."""
LONG_AFTER = 15.0
"""Seconds after the first failure from which on a SIGKILL is the launcher's, to one that would not end."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How a process failed: its exit code (negative: a signal), when (seconds), what it left, the end of its stderr."""

    rank: int
    exitcode: int
    moment: float
    record: dict[str, Any] = field(default_factory=dict)
    said: str = ""

    @property
    def signal_name(self) -> str:
        """The signal that ended it, if one did."""
        if self.exitcode >= 0:
            return ""
        known = {member.value: member.name for member in signal.Signals}
        return known.get(-self.exitcode, f"signal {-self.exitcode}")


def extra_of(content: dict[str, Any]) -> dict[str, Any]:
    """What `worker.record_of` added to torch elastic's error file; nothing if another wrote it."""
    message = content.get("message")
    return message.get("extraInfo", {}) if isinstance(message, dict) else {}


def deliberate(records: Sequence[dict[str, Any]]) -> UserError | Interrupted | None:
    """A user's mistake that any of the processes met, or the interruption that ended them all."""
    for record in records:
        if "mistake" in record:
            return UserError(*record["mistake"])
    if not records or not all("interrupted" in record for record in records):
        return None
    number, run = records[0]["interrupted"]
    return Interrupted(number, Path(run) if run else None)


def verdict(failures: Sequence[Failure], world: int, host: str) -> UserError | Interrupted | ProcessFailed:
    """The exception that tells the user why the group of `world` processes ended."""
    ended = deliberate([failure.record for failure in sorted(failures, key=lambda failure: failure.rank)])
    return ended or ProcessFailed(describe(cause(failures), world, host))


def cause(failures: Sequence[Failure]) -> Failure:
    """The failure that the others follow from.

    Those that lost a peer fail with an exception of their own, or end by the launcher's SIGTERM or NCCL's SIGABRT.
    """
    first = min(failure.moment for failure in failures)

    def order(failure: Failure) -> tuple[int, float]:
        blow = failure.signal_name in BLOWS
        late = failure.signal_name == "SIGKILL" and failure.moment - first > LONG_AFTER
        silent = failure.exitcode > 0 and not failure.record  # it called os._exit, or a library did
        if (blow and not late) or silent:
            return 0, failure.moment
        if not failure.record or "interrupted" in failure.record:
            return 3, failure.moment
        return 2 if "lost" in failure.record else 1, failure.moment

    return min(failures, key=order)


def describe(failure: Failure, world: int, host: str) -> str:
    """Which process failed, and how: its traceback, or the signal and the end of its stderr."""
    who = f"rank {failure.rank} of {world} on {host}"
    if trace := failure.record.get("py_callstack"):
        elsewhere = (
            "\na process of another node has ended before: its output says why" if "lost" in failure.record else ""
        )
        return f"{who} failed:\n{trace.rstrip()}{elsewhere}"
    said = f":\n{failure.said.rstrip()}" if failure.said.strip() else ""
    if not failure.signal_name:
        return f"{who} ended with exit code {failure.exitcode}{said}"
    why = ", as the system does when memory runs out" if failure.signal_name == "SIGKILL" else ""
    return f"{who} was killed by {failure.signal_name}{why}{said}"
