"""Plots as PNG; matplotlib without a display."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cledet.engine.runs import write_whole

PANELS = (
    ("classification loss", ("loss_cls",)),
    ("box loss", ("loss_reg",)),
    ("anchors a step", ("positives", "recalled")),
    ("DC's coefficient", ("coefficient", "spread")),
    ("AP", ("AP", "AP50", "AP75")),
    ("AP by size", ("APs", "APm", "APl")),
    ("learning rate", ("lr",)),
)


def plot_history(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """A run's losses, anchors, AP and learning rate over the epochs."""
    figure = Figure(figsize=(15.5, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(2, 4).flat
    places[-1].set_visible(False)
    for axes, (title, names) in zip(places, PANELS):
        for name in names:
            _line(axes, rows, name)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.lines and len(names) > 1:
            axes.legend(fontsize=9)
        if title.startswith("AP"):
            axes.set_ylim(0, 1)
    save_figure(figure, path)


def _line(axes: Axes, rows: Sequence[Mapping[str, str]], name: str) -> None:
    points = [(float(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
    if points:
        axes.plot(*zip(*points), marker="o" if len(points) < 30 else "", markersize=3, linewidth=1.5, label=name)


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names in scripts that the font lacks: boxes, and no news
        figure.set_dpi(110)
        FigureCanvasAgg(figure).print_png(picture)  # savefig draws twice, once for the layout alone
    return picture.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write the PNG whole or not at all."""
    write_whole(path, png(figure))
