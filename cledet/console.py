"""What the user sees: messages and progress on stderr, results on stdout; plain where they are no terminal.

Of several processes the first one speaks; another only says what ends it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, NamedTuple, TextIO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from cledet.distributed.environment import rank

T = TypeVar("T")
BAR = 12
"""Characters of a full bar in a table."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys or cannot show: control characters, marks that turn the direction of text, half characters."""


class Bar(NamedTuple):
    """A cell of a table that is a bar; 1 fills it."""

    share: float


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which ends with the code that shells expect."""
        raise BrokenPipeError


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if _is_terminal(stream) else 160
    # no markup and no emoji: "[red]" and ":cat:" are names like others
    return _Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False, width=width)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def printable(text: object) -> str:
    """Write control characters as escapes, so that names in the text cannot start lines, move or recolour others."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def say(*lines: str) -> None:
    """News on stderr, each argument in a line."""
    if rank() == 0:
        _print_lines(lines)


def warn(text: str, *more: str) -> None:
    """News that the user should not miss, each argument in a line."""
    if rank() == 0:
        _print_lines((f"warning: {text}", *more), style="yellow")


def fail(text: str, *more: str) -> None:
    """The sentence that ends a command; of a process that is not the first, with its number."""
    who = f"rank {rank()}: " if rank() else ""
    _print_lines((f"{who}error: {text}", *more), style="bold red")


def _print_lines(lines: Iterable[str], style: str | None = None) -> None:
    _console(stderr=True).print("\n".join(map(printable, lines)), style=style)


def show(*lines: object) -> None:
    """Results on stdout, each argument in a line."""
    if rank() == 0:
        for line in lines:
            print(printable(line))


def show_json(document: Any) -> None:
    """A result for programs: one JSON document on stdout."""
    if rank() == 0:
        print(json.dumps(document, indent=2, default=str, allow_nan=False), flush=True)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A result for people: a table on stdout; numbers are set to the right, fractions with four digits."""
    rows = [tuple(row) for row in rows]
    console = _console(stderr=False)
    table = Table(title=printable(title) or None, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        numbers = all(is_number(row[i]) for row in rows)
        table.add_column(printable(name), justify="right" if numbers else "left", no_wrap=numbers)
    for row in rows:
        table.add_row(*(_cell(value, console.encoding) for value in row))
    if rank() == 0:
        console.print(table)


def show_finding(severity: str, text: str, examples: Sequence[str], more: int = 0) -> None:
    """A result for people: a sentence on stdout, and below it examples."""
    console = _console(stderr=False)
    style = {"error": "bold red", "warning": "yellow"}.get(severity, "bold")
    console.print(Text.assemble((f"{severity:<8}", style), printable(text)))
    for example in examples:
        console.print(" " * 10 + printable(example))
    if more:
        console.print(f"{'':10}... and {more:,} more")


def is_number(value: Any) -> bool:
    """Whether a cell is a number, written out perhaps ("2.5", "84.9 %"), or stands for none."""
    return value is None or isinstance(value, int | float) or re.fullmatch(r"-|-?[\d.]+( %)?", str(value)) is not None


def _cell(value: Any, encoding: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, Bar):
        return ("█" if encoding.startswith("utf") else "#") * round(BAR * value.share)
    return f"{value:.4f}" if isinstance(value, float) else printable(value)


class Steps:
    """A progress bar with a line of figures; without a terminal, silent (callers `say` what should be kept)."""

    def __init__(self, title: str, total: int, done: int = 0, *, in_bytes: bool = False) -> None:
        counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            *counts,
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=_console(stderr=True),
            disable=rank() > 0 or not _is_terminal(sys.stderr),
            transient=True,
        )
        self._task = self._bar.add_task(printable(title), total=total, completed=done, figures="")

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, figures: str = "") -> None:
        """One step further."""
        self._bar.update(self._task, advance=1, figures=printable(figures))

    def set(self, done: int, total: int) -> None:
        """So many steps of so many."""
        self._bar.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """A line of news that stays above the bar."""
        self._bar.console.print(printable(text), markup=False)


def transfer(title: str, total: int) -> Steps:
    """The progress of so many bytes; the title stays as a line of news, also without a terminal."""
    say(title)
    return Steps(title.partition(",")[0], total, in_bytes=True)


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """The same items, with a progress bar."""
    count = total if total is not None else len(items) if isinstance(items, Sized) else 0
    with Steps(title, count) as steps:
        for item in items:
            yield item
            steps.advance()
