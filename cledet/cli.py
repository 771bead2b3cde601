"""The command line: the typer app, its subcommands, and the exit codes."""

from __future__ import annotations

import errno
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from cledet import __version__
from cledet.commands.options import Commands
from cledet.commands.streams import prepare_streams
from cledet.console import clear_bars, fail, warn
from cledet.errors import Interrupted, OutputClosed, ProcessFailed, Terminated, UserError
from cledet.io.atomic import NO_ROOM, unwritable

__all__ = ["app", "main"]

app = typer.Typer(
    name="cledet",
    cls=Commands,
    help="Object detection with classification and localization in equilibrium.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", metavar="", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line and exit: 0 success, 1 bug, 2 user's mistake, 130 and 143 interrupted."""
    prepare_streams()
    warnings.showwarning = _show_warning
    try:
        with _terminable():
            _run()
    except UserError as error:
        fail(str(error), *error.lines)
        sys.exit(2)
    except (OutputClosed, BrokenPipeError):  # the latter if a program has replaced the streams
        sys.exit(141)
    except OSError as error:
        if error.errno not in (*NO_ROOM, errno.EROFS):
            raise
        fail(str(unwritable(Path(error.filename or "a file"), error)))
        sys.exit(2)
    except Interrupted as error:
        fail(str(error))
        sys.exit(128 + error.signal_number)
    except ProcessFailed as error:
        fail(*str(error).split("\n"))
        sys.exit(1)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a notice for users in one line; leave other warnings to Python."""
    if category is FutureWarning and "cledet" in filename:
        warn(str(message))
    else:
        print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr)


def _run() -> None:
    """Run the command and flush stdout, so that a failed write raises here."""
    try:
        app()
    finally:
        clear_bars()
        sys.stdout.flush()


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise Terminated on SIGTERM within the context, so that cleanup runs as after Ctrl-C."""
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
