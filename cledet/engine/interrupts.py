"""Stopping in good order: SIGINT and SIGTERM let a run finish its step and save."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cledet.console import warn


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM in a list; a second one ends the process at once."""
    caught: list[int] = []
    before: dict[int, Any] = {}

    def catch(number: int, _frame: object) -> None:
        caught.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)
        warn("stopping after this step; once more to stop at once")

    try:
        for wanted in (signal.SIGINT, signal.SIGTERM):
            before[wanted] = signal.signal(wanted, catch)
    except ValueError:  # not in the main thread: the caller handles signals
        pass
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
