"""Output for users: messages and progress on stderr, results on stdout; plain if it is not a terminal.

Only the main process prints; another process prints only the error that ends it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TextIO, TypeVar

from cledet.distributed.environment import rank
from cledet.errors import OutputClosed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")
BAR = 12
"""Characters of a full bar in a table."""
WORD = 16
"""Width to which a word in a table may be broken."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal obeys or cannot show: control characters, direction marks, half characters."""


class Bar(NamedTuple):
    """A table cell that is drawn as a bar; a share of 1 fills it."""

    share: float


def _console(stderr: bool) -> Console:
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            """Raise OutputClosed, so that the command exits with the code that shells expect."""
            raise OutputClosed from None

    width = None if _is_terminal(sys.stderr if stderr else sys.stdout) else 160
    # no markup and no emoji: "[red]" and ":cat:" are names like others
    return PipeConsole(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False, width=width)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def printable(text: object) -> str:
    """Write control characters as escapes, so that names in the text cannot start lines, move or recolour others."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def say(*lines: str) -> None:
    """Print messages on stderr, one per line."""
    if rank() == 0:
        _print_lines(lines)


def warn(text: str, *more: str) -> None:
    """Print a warning on stderr, with more lines below it."""
    if rank() == 0:
        _print_lines((f"warning: {text}", *more), style="yellow")


def fail(text: str, *more: str) -> None:
    """Clear progress bars and print the error that ends a command; with the rank, if this is not the main process."""
    clear_bars()
    prefix = f"rank {rank()}: " if rank() else ""
    _print_lines((f"{prefix}error: {text}", *more), style="bold red")


def _print_lines(lines: Iterable[str], style: str = "") -> None:
    text = "\n".join(map(printable, lines))
    if sys.stderr is None or not sys.stderr.isatty():  # without rich, whose import takes as long as a short command
        if sys.stderr is not None:
            sys.stderr.write(f"{text}\n")
        return
    from rich.text import Text

    console = Steps._open[-1]._bar.console if Steps._open else _console(stderr=True)  # above the bar, not into it
    console.print(Text(text, style=style))  # a style of print colors the bar too


def show(*lines: object) -> None:
    """Print results on stdout, one per line."""
    if rank() == 0:
        for line in lines:
            print(printable(line))


def show_json(document: Any) -> None:
    """Print a JSON document on stdout."""
    if rank() == 0:
        print(json.dumps(document, indent=2, default=str, allow_nan=False), flush=True)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout, with numbers right-aligned and floats with four digits.

    Nothing is cut off: on a terminal that is too narrow, each row becomes lines of a name and a value.
    """
    from rich.table import Table

    console, names, rows = _console(stderr=False), [*map(printable, columns)], [*rows]
    numbers = [all(is_number(row[i]) for row in rows) for i in range(len(names))]
    cells = [[_cell(value, console.encoding) for value in row] for row in rows]
    least = [_least_width(*column, whole=whole) for *column, whole in zip(names, *cells, numbers)]
    table = Table(title=printable(title) or None, title_justify="left", title_style="bold")
    if sum(least) + 3 * len(least) >= console.width:
        table.show_header = False
        for row in cells:
            for name, cell in zip(names, row):
                table.add_row(name, cell)
            table.add_section()
    else:
        for name, width, right in zip(names, least, numbers):
            table.add_column(name, justify="right" if right else "left", min_width=width, overflow="fold")
        for row in cells:
            table.add_row(*row)
    if rank() == 0:
        console.print(table)


def show_finding(severity: str, text: str, examples: Sequence[str], more: str = "") -> None:
    """Print a finding on stdout, with examples below it, and a text on those left out."""
    from rich.text import Text

    console = _console(stderr=False)
    style = {"error": "bold red", "warning": "yellow"}.get(severity, "bold")
    console.print(Text.assemble((f"{severity:<8}", style), printable(text)))
    for example in examples:
        console.print(" " * 10 + printable(example))
    if more:
        console.print(f"{'':10}... {more}")


def stdout_is_terminal() -> bool:
    """Return whether results are read on a terminal as they are printed."""
    return _is_terminal(sys.stdout)


def is_number(value: Any) -> bool:
    """Check for a number, as a value or as text ("2.5", "84.9 %"), or a placeholder for none (None, "-")."""
    return value is None or isinstance(value, int | float) or re.fullmatch(r"-|-?[\d.]+( %)?", str(value)) is not None


def _cell(value: Any, encoding: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, Bar):
        return ("█" if encoding.startswith("utf") else "#") * round(BAR * value.share)
    return f"{value:.4f}" if isinstance(value, float) else printable(value)


def _least_width(name: str, *cells: str, whole: bool) -> int:
    """Return the width that a column needs: that of its longest cell if they stay `whole`, else of its longest word.

    Words of more than WORD characters may be broken.
    """
    from rich.cells import cell_len

    broken = (min(cell_len(word), WORD) for cell in cells for word in cell.split())
    return max([*map(cell_len, name.split()), *(map(cell_len, cells) if whole else broken)], default=1)


def _progress(in_bytes: bool, hidden: bool) -> Progress:
    """Build a bar of one line, whose statistics take the width that the bar, the count and the time leave."""
    from rich import progress
    from rich.console import ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Column
    from rich.text import Text

    class Statistics:
        """Parts of a line, most important first, of which those that fit are rendered."""

        def __init__(self, parts: Sequence[str]) -> None:
            self.parts = parts

        def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
            lines = ["  ".join(self.parts[:n]) for n in range(len(self.parts), -1, -1)]
            yield Text(next(line for line in lines if len(line) <= options.max_width), no_wrap=True)

        def __rich_measure__(self, _: Console, options: ConsoleOptions) -> Measurement:
            return Measurement(0, min(len("  ".join(self.parts)), options.max_width))

    class StatisticsColumn(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Statistics:
            return Statistics(task.fields["statistics"])

    in_items = (progress.MofNCompleteColumn(),)
    return progress.Progress(
        progress.TextColumn(
            "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", max_width=28)
        ),
        progress.BarColumn(bar_width=16),
        *((progress.DownloadColumn(), progress.TransferSpeedColumn()) if in_bytes else in_items),
        progress.TextColumn("ETA"),
        progress.TimeRemainingColumn(),
        StatisticsColumn(table_column=Column(no_wrap=True, ratio=1)),
        console=_console(stderr=True),
        disable=hidden or rank() > 0 or not _is_terminal(sys.stderr),
        transient=True,
        expand=True,
    )


class Steps:
    """Progress bar with statistics; silent without a terminal (callers `say` lines that should be kept).

    The total may be unknown (None). The bar takes one line of the terminal. One inside another hides the outer until it
    ends.
    """

    _open: ClassVar[list[Steps]] = []
    """Bars that have begun and not ended; the last one is shown."""

    def __init__(
        self, title: str, total: int | None, done: int = 0, *, in_bytes: bool = False, hidden: bool = False
    ) -> None:
        self._bar = _progress(in_bytes, hidden)
        self._task = self._bar.add_task(printable(title), total=total, completed=done, statistics=())

    def __enter__(self) -> Steps:
        if self._open:
            self._open[-1]._bar.stop()
        self._open.append(self)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self in self._open:
            self._open.remove(self)
            if self._open:
                self._open[-1]._bar.start()

    def advance(self, *statistics: str) -> None:
        """Advance by one step; of the statistics, the last are dropped if the line is too long."""
        self._bar.update(self._task, advance=1, statistics=[printable(part) for part in statistics])

    def set(self, done: int, total: int) -> None:
        """Set the count of finished steps and their total."""
        self._bar.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """Print a message above the bar."""
        self._bar.console.print(printable(text))


def clear_bars() -> None:
    """Remove all progress bars from the terminal, as before an error message."""
    while Steps._open:
        Steps._open.pop()._bar.stop()


def transfer(title: str, total: int) -> Steps:
    """Print the title and return a progress bar of `total` bytes."""
    say(title)
    return Steps(title.partition(",")[0], total, in_bytes=True)


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Iterate over items with a progress bar."""
    with Steps(title, total) as steps:
        for item in items:
            yield item
            steps.advance()
