"""Training history: mean losses of an epoch, results.csv with one row per epoch, and results.png drawn from it."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cledet.io.atomic import write_whole
from cledet.metrics.evaluation import METRICS
from cledet.metrics.metric_tables import to_csv
from cledet.models.criterion import Losses
from cledet.models.signatures import SIGNATURES
from cledet.training.loggers import Log

LOSSES = ("loss_cls", "loss_reg", "positives", "recalled", "coefficient", "spread", *SIGNATURES)
"""Columns for the fields of `Losses`: means over the steps of an epoch."""
COLUMNS = ("epoch", "step", "lr", *LOSSES, "dropped", "seconds", "images_per_s", "waiting", *METRICS)
"""`dropped` is the number of degenerate boxes dropped in the epoch; `waiting` is the share of time spent waiting for
images."""

PANELS = (
    ("classification loss", ("loss_cls",)),
    ("box loss", ("loss_reg",)),
    ("anchors per step", ("positives", "recalled")),
    ("DC's coefficient", ("coefficient", "spread", "coefficient_iou")),
    ("IoU of positives, recalled share of box loss", ("matched_iou", "recalled_iou", "recalled_box")),
    ("positives per object", ("compact_positives", "elongated_positives")),
    ("AP", ("AP", "AP50", "AP75")),
    ("AP by size", ("APs", "APm", "APl")),
    ("learning rate", ("lr",)),
)


class History:
    """Metrics of a run per epoch, written to results.csv and passed to `loggers`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loggers: Sequence[Log] = ()
        self.rows: list[dict[str, str]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Append an epoch, and rewrite results.csv and results.png atomically."""
        self.rows.append({name: _text(row.get(name)) for name in COLUMNS})
        write_whole(self.path, to_csv(COLUMNS, [[row.get(name) for name in COLUMNS] for row in self.rows]))
        plot_history(self.rows, self.path.with_suffix(".png"))
        measured = {name: float(row[name]) for name in COLUMNS[2:] if row.get(name) is not None}
        for log in self.loggers:
            log(row["step"], measured)

    def truncate(self, step: int) -> None:
        """Read results.csv without epochs that ended after `step`."""
        self.rows = [row for row in read_history(self.path) if int(row["step"]) <= step]

    def line(self) -> str:
        """Summarize the newest epoch in one line, with the best epoch so far."""
        row = self.rows[-1]
        parts = ["no step had a finite loss"]
        if row["loss_cls"]:
            parts = [f"cls loss {float(row['loss_cls']):.3f}, box loss {float(row['loss_reg']):.3f}"]
        if row["AP"]:
            best = max((row for row in self.rows if row["AP"]), key=lambda row: float(row["AP"]))
            parts.append(f"AP {float(row['AP']):.3f}, AP50 {float(row['AP50']):.3f} (best: epoch {best['epoch']})")
        return f"epoch {row['epoch']}: {', '.join(parts)}, {float(row['seconds']):.0f} s"


def read_history(path: Path) -> list[dict[str, str]]:
    """Read the rows of a results.csv; none if the file does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def plot_history(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Plot losses, anchors, AP and learning rate over the epochs."""
    from matplotlib.figure import Figure  # deferred, as processes that train without evaluating need no plots

    from cledet.visualization.plots import save_figure

    figure = Figure(figsize=(15.5, 9.5), layout="constrained")
    places = figure.subplots(3, 3).flat
    for axes, (title, names) in zip(places, PANELS):
        for name in names:
            points = [(float(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
            if points:
                axes.plot(*zip(*points), marker="o" if len(points) < 30 else "", markersize=3, label=name)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
        if axes.lines and len(names) > 1:
            axes.legend(fontsize=9)
        if title.startswith("AP"):
            axes.set_ylim(0, 1)
    save_figure(figure, path)


class Meter:
    """Mean losses, dropped boxes and throughput since the end of the last epoch.

    A step without positives has no coefficient and does not count in the mean.
    """

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.sums = dict.fromkeys(LOSSES, 0.0)
        self.steps = dict.fromkeys(LOSSES, 0)
        self.dropped = self.images = 0
        self.waited = 0.0

    def add(self, losses: Losses, dropped: int = 0, images: int = 0, waited: float = 0.0) -> None:
        """Add a step: its losses, dropped boxes, number of images, and seconds waited for them."""
        self.dropped += dropped
        self.images += images
        self.waited += waited
        for name, loss in zip(LOSSES, losses):
            value = float(loss.detach())
            if not math.isnan(value):
                self.sums[name] += value
                self.steps[name] += 1

    def means(self) -> dict[str, float]:
        """Return the columns of results.csv that are known without evaluation."""
        means = {name: self.sums[name] / self.steps[name] for name in LOSSES if self.steps[name]}
        seconds = time.perf_counter() - self.start
        pace = {"images_per_s": self.images / seconds, "waiting": self.waited / seconds}
        return means | {"dropped": self.dropped, "seconds": round(seconds, 2)} | pace

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far and the time that they took."""
        return {**vars(self), "start": self.start - time.perf_counter()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state, also of a version that knew fewer statistics."""
        known = {name: dict.fromkeys(LOSSES, 0) | state[name] for name in ("sums", "steps")}
        vars(self).update(state | known, start=time.perf_counter() + state["start"])

    def statistics(self, epoch: float, lr: float, device: torch.device) -> list[str]:
        """Format the statistics of the progress bar, most important first; of a GPU also the memory in GB."""
        means = self.means()
        names = {"loss_cls": "cls", "loss_reg": "box"}
        losses = [f"{short} loss {means[name]:.3f}" for name, short in names.items() if name in means]
        pace = [f"{means['images_per_s']:.1f} images/s", f"loading {means['waiting']:.0%}"]
        memory = [f"{torch.cuda.memory_reserved(device) / 1e9:.1f} GB"] if device.type == "cuda" else []
        return [f"epoch {epoch:.1f}", *losses, *pace, f"lr {lr:.2g}", *memory]


def _text(value: Any) -> str:
    if value is None:  # not measured
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
