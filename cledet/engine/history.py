"""Losses of an epoch, and results.csv: a row an epoch, with results.png drawn from it."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

from cledet.engine import distributed
from cledet.engine.evaluator import METRICS
from cledet.engine.plots import plot_history
from cledet.engine.runs import write_whole
from cledet.errors import UserError
from cledet.models.criterion import Losses

LOSSES = ("loss_cls", "loss_reg", "positives", "recalled", "coefficient", "spread")
"""The fields of `Losses`, as columns: means over an epoch's steps."""
COLUMNS = ("epoch", "step", "lr", *LOSSES, "dropped", "seconds", *METRICS)
"""`dropped` is the sum of the boxes that were left out of the epoch's images as degenerate."""


class History:
    """The figures of a run, epoch by epoch, kept in results.csv and, if asked, in TensorBoard's format."""

    def __init__(self, path: Path, logger: str = "none") -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        self.board = tensorboard(path.parent) if logger == "tensorboard" else None

    def add(self, row: dict[str, Any]) -> None:
        """Append an epoch; the file and the picture are written anew, each whole or not at all."""
        self.rows.append({name: _text(row.get(name)) for name in COLUMNS})
        self._write()
        plot_history(self.rows, self.path.with_suffix(".png"))
        if self.board is not None:
            for name in COLUMNS[2:]:
                if row.get(name) is not None:
                    self.board.add_scalar(name, row[name], row["step"])
            self.board.flush()

    def cut(self, step: int) -> None:
        """Read the file back, without epochs after `step`."""
        self.rows = [row for row in read_history(self.path) if int(row["step"]) <= step]

    def line(self) -> str:
        """The newest epoch in a line."""
        row = self.rows[-1]
        text = f"epoch {row['epoch']}: cls {row['loss_cls']}, box {row['loss_reg']}, {row['positives']} positives"
        if float(row["recalled"]):
            text += f" ({row['recalled']} recalled)"
        return text + (f", AP {row['AP']}, AP50 {row['AP50']}" if row["AP"] else "") + f" in {row['seconds']} s"

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.path, text.getvalue())


def read_history(path: Path) -> list[dict[str, str]]:
    """The rows of a results.csv; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard's event files into the folder."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("tensorboard is not installed", "pip install 'cledet[tensorboard]'") from None
    return SummaryWriter(str(folder))


class Meter:
    """Means of the losses, and the sum of boxes dropped, since the last epoch's end.

    A step without positives has no coefficient, and counts not.
    """

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.sums = dict.fromkeys(LOSSES, 0.0)
        self.steps = dict.fromkeys(LOSSES, 0)
        self.dropped = 0

    def add(self, losses: Losses, dropped: int = 0) -> None:
        self.dropped += dropped
        for name, loss in zip(LOSSES, losses):
            value = float(loss.detach())
            if not math.isnan(value):
                self.sums[name] += value
                self.steps[name] += 1

    def means(self) -> dict[str, float]:
        figures = {name: self.sums[name] / self.steps[name] for name in LOSSES if self.steps[name]}
        return figures | {"dropped": self.dropped, "seconds": round(time.perf_counter() - self.start, 2)}

    def over_processes(self) -> dict[str, float]:
        """The means over all processes: of the whole batch."""
        everywhere = distributed.gathered(self.means())
        figures = {}
        for name in dict.fromkeys(name for means in everywhere for name in means):
            values = [means[name] for means in everywhere if name in means]
            figures[name] = sum(values) if name in ("positives", "recalled", "dropped") else sum(values) / len(values)
        return figures

    def state(self) -> dict[str, Any]:
        """What was added up so far."""
        return {
            "sums": self.sums,
            "steps": self.steps,
            "dropped": self.dropped,
            "seconds": time.perf_counter() - self.start,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.sums, self.steps, self.dropped = dict(state["sums"]), dict(state["steps"]), state["dropped"]
        self.start = time.perf_counter() - state["seconds"]

    def figures(self, epoch: float) -> str:
        means = self.means()
        if "loss_cls" not in means:  # no step yet had a finite loss
            return f"epoch {epoch:.1f}"
        return f"epoch {epoch:.1f}  cls {means['loss_cls']:.3f}  box {means['loss_reg']:.3f}"


def _text(value: Any) -> str:
    if value is None:  # nothing was measured
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
