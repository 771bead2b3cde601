"""Stopping in good order: at SIGINT or SIGTERM a run leaves what can be done again, saves, and ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from cledet.console import warn


class Stop(Exception):
    """A signal came where work can be left; the run is as it was before that work."""


class Interrupts:
    """The first SIGINT or SIGTERM, once it came; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._abandon = False
        self._before: dict[int, Any] = {}

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Work that may be left half done: a signal within raises Stop there, one that came before at once."""
        self._abandon = True
        try:
            self.check()
            yield
        finally:
            self._abandon = False

    def check(self) -> None:
        """Raise Stop if a signal came."""
        if self.number is not None:
            raise Stop

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        warn("saving and stopping; once more to stop at once")
        if self._abandon:
            raise Stop

    def _watch(self) -> None:
        try:
            for wanted in (signal.SIGINT, signal.SIGTERM):
                self._before[wanted] = signal.signal(wanted, self._catch)
        except ValueError:  # not in the main thread: the caller handles signals
            pass

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Watch for SIGINT and SIGTERM."""
    caught = Interrupts()
    caught._watch()
    try:
        yield caught
    finally:
        caught._restore()
