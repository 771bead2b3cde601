"""The command line: the typer app, its subcommands, and the exit codes."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from cledet import __version__
from cledet.commands.check import check
from cledet.commands.compare import compare
from cledet.commands.data import data_app
from cledet.commands.explain import explain
from cledet.commands.export import export
from cledet.commands.info import info
from cledet.commands.options import Commands, add_command
from cledet.commands.predict import predict
from cledet.commands.recipes import recipes
from cledet.commands.reproduce import reproduce
from cledet.commands.streams import prepare_streams
from cledet.commands.train import train
from cledet.commands.tune import tune
from cledet.commands.val import val
from cledet.console import clear_bars, fail, warn
from cledet.errors import Interrupted, ProcessFailed, Terminated, UserError

__all__ = ["app", "main"]

app = typer.Typer(
    name="cledet",
    cls=Commands,
    help="Object detection with classification and localization in equilibrium.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
add_command(app, train)
add_command(app, val)
add_command(app, predict)
add_command(app, explain)
add_command(app, export)
add_command(app, compare)
add_command(app, tune)
add_command(app, check)
app.add_typer(data_app)
add_command(app, recipes)
add_command(app, reproduce)
add_command(app, info)


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
