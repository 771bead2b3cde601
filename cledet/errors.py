"""What ends a command before its end: a user's mistake, or a signal."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend: one sentence, and what to do about it.

    The command line prints it in red without a traceback and exits with code 2; Python code may catch it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message if not hint else f"{message} ({hint})")
        self.message = message
        self.hint = hint


class Interrupted(Exception):
    """SIGINT or SIGTERM came, and the run, if there was one, was saved."""

    def __init__(self, number: int, run: Path | None = None) -> None:
        advice = f"; go on with: cledet train --resume {run}" if run else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{advice}")
        self.signal_number = number
        self.run = run


class Terminated(KeyboardInterrupt):
    """SIGTERM came where nothing waits for it: it ends a command as Ctrl-C does."""


def interruption(error: KeyboardInterrupt) -> Interrupted:
    """The exception that names the signal."""
    return Interrupted(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


class ProcessFailed(Exception):
    """One of several processes crashed, and ended them all: which, and its traceback."""


COMPARABLE = 100
"""Characters of a choice that is compared with a misspelt word, and shown."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The hint for a misspelt word: the nearest choice if one is near, else all of them."""
    known = [str(choice) for choice in choices]
    short = [choice for choice in known if len(choice) <= COMPARABLE]  # the time is quadratic in the length
    close = difflib.get_close_matches(str(word)[: 2 * COMPARABLE], short, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"choose from: {', '.join(choice[:COMPARABLE] for choice in known[:20])}{' ...' if len(known) > 20 else ''}"
