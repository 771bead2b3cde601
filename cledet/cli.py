"""The command line: flags become settings, settings go to the Detector, results are shown. Nothing else.

Every flag is a field of the command's settings; no file here imports torch before it must.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from cledet.commands import models, compare, data, recipes, info  # isort: skip  # noqa: F401 - in the order of --help
from cledet.commands.options import app
from cledet.commands.streams import prepare_streams
from cledet.console import fail, warn
from cledet.errors import Interrupted, ProcessFailed, Terminated, UserError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line: 0 done, 1 a bug, 2 a user's mistake, 130 and 143 interrupted."""
    prepare_streams()
    warnings.showwarning = _show_warning
    try:
        with _terminable():
            _run()
    except UserError as error:
        fail(str(error))
        sys.exit(2)
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        sys.exit(141)
    except Interrupted as error:
        fail(str(error))
        sys.exit(128 + error.signal_number)
    except ProcessFailed as error:
        fail(*str(error).split("\n"))
        sys.exit(1)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """Print a notice for users in one line; leave other warnings to Python."""
    if category is FutureWarning and "cledet" in filename:
        warn(str(message))
    else:
        print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr)


def _run() -> None:
    """Run the command, and know before its end whether its last words were read."""
    try:
        app()
    finally:
        sys.stdout.flush()


@contextmanager
def _terminable() -> Iterator[None]:
    """Within it SIGTERM is an exception, so that what is half done is cleared away as after Ctrl-C."""
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
