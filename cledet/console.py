"""What the user sees: messages and progress on stderr, results on stdout; plain where they are no terminal.

Of several processes the first one speaks; another only says what ends it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cledet.group import rank

T = TypeVar("T")


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, soft_wrap=True, highlight=False, width=None if stream.isatty() else 160)


def say(text: str) -> None:
    """A line of news."""
    if rank() == 0:
        _console(stderr=True).print(text, markup=False)


def warn(text: str) -> None:
    """A line of news that the user should not miss."""
    if rank() == 0:
        _console(stderr=True).print(f"warning: {text}", style="yellow", markup=False)


def fail(text: str) -> None:
    """The sentence that ends a command; of a process that is not the first, with its number."""
    who = f"rank {rank()}: " if rank() else ""
    _console(stderr=True).print(f"{who}error: {text}", style="bold red", markup=False)


def show(text: object) -> None:
    """A result in one line, on stdout."""
    if rank() == 0:
        print(text)


def show_json(document: Any) -> None:
    """A result for programs: one JSON document on stdout."""
    if rank() == 0:
        print(json.dumps(document, indent=2, default=str, allow_nan=False), flush=True)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A result for people: a table on stdout; numbers are set to the right, fractions with four digits."""
    rows = [tuple(row) for row in rows]
    table = Table(title=title or None, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        numbers = all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        table.add_column(name, justify="right" if numbers else "left", no_wrap=numbers)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    if rank() == 0:
        _console(stderr=False).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


class Steps:
    """A progress bar with a line of figures; without a terminal, silent (callers `say` what should be kept)."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=_console(stderr=True),
            disable=rank() > 0 or not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, figures="")

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, figures: str = "") -> None:
        """One step further."""
        self._bar.update(self._task, advance=1, figures=figures)

    def set(self, done: int, total: int) -> None:
        """So many steps of so many."""
        self._bar.update(self._task, completed=done, total=total)


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """The same items, with a progress bar."""
    count = total if total is not None else len(items) if isinstance(items, Sized) else 0
    with Steps(title, count) as steps:
        for item in items:
            yield item
            steps.advance()
