"""Orderly stop at SIGINT or SIGTERM: work that can be repeated is abandoned, the run is saved, and the process ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from cledet.console import warn


class Stop(Exception):
    """A signal arrived during work that can be abandoned; the run's state is the one from before that work."""


class Interrupts:
    """The first SIGINT or SIGTERM that arrived; a second one ends the process at once."""

    def __init__(self, announce: bool = True) -> None:
        self.number: int | None = None
        self._announce = announce
        self._abandon = False
        self._handlers: dict[int, Any] = {}

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Mark work that may be abandoned: a signal raises Stop within it, an earlier one before it."""
        self._abandon = True
        try:
            self.check()
            yield
        finally:
            self._abandon = False

    def check(self) -> None:
        """Raise Stop if a signal has arrived."""
        if self.number is not None:
            raise Stop

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        if self._announce:
            warn("saving and stopping; once more to stop at once")
        if self._abandon:
            raise Stop

    def _install(self) -> None:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._handle)
        except ValueError:  # not in the main thread: the caller handles signals
            pass

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


@contextmanager
def interrupts(announce: bool = True) -> Iterator[Interrupts]:
    """Catch SIGINT and SIGTERM within the block; `announce` warns the user that the run is saved."""
    caught = Interrupts(announce)
    caught._install()
    try:
        yield caught
    finally:
        caught._restore()
