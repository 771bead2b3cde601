"""Exceptions that end a command early: user's mistakes, signals, closed output, failed processes."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path


class UserError(Exception):
    """Mistake that the user can correct: one sentence, and a hint what to do.

    The command line prints it in red without a traceback and exits with code 2; Python code may catch it.
    """

    def __init__(self, message: str, hint: str = "", lines: Sequence[str] = ()) -> None:
        super().__init__(message if not hint else f"{message} ({hint})")
        self.message = message
        self.hint = hint
        self.lines = tuple(lines)
        """Further lines for the terminal, below the sentence."""


class Interrupted(Exception):
    """Stop by SIGINT or SIGTERM, after the run, if any, was saved."""

    def __init__(self, number: int, run: Path | None = None) -> None:
        advice = f"; go on with: cledet train --resume {run}" if run else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{advice}")
        self.signal_number = number
        self.run = run


class Terminated(KeyboardInterrupt):
    """Stop by SIGTERM outside of training, handled as Ctrl-C."""


def interruption(error: KeyboardInterrupt) -> Interrupted:
    """Return the Interrupted that names the signal of a KeyboardInterrupt."""
    return Interrupted(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


class OutputClosed(Exception):
    """Closed pipe behind stdout or stderr, whose reader, such as `head`, has ended.

    It is not an OSError, so that code which handles errors of files or connections does not catch it.
    """


class ProcessFailed(Exception):
    """Crash of one of several processes, which ended all of them: its rank and traceback."""


COMPARABLE = 100
"""Longest choice in characters that is compared with a misspelt word."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint for a misspelt word: the nearest choice, or all choices if none is near."""
    known = [str(choice) for choice in choices]
    short = [choice for choice in known if len(choice) <= COMPARABLE]  # the time is quadratic in the length
    close = difflib.get_close_matches(str(word)[: 2 * COMPARABLE], short, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"choose from: {', '.join(choice[:COMPARABLE] for choice in known[:20])}{' ...' if len(known) > 20 else ''}"
