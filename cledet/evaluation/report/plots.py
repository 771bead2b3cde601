"""Plots of the error analysis, in the colour-blind safe palette of Okabe and Ito."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cledet.console import printable
from cledet.data.index import Floats
from cledet.metrics.analysis import Analysis
from cledet.metrics.average_precision import RECALLS, mean
from cledet.metrics.calibration import BINS
from cledet.metrics.slices import Slice
from cledet.metrics.tide import KINDS, SPECIAL
from cledet.visualization.plots import png

BLUE, VERMILLION, ORANGE, GREEN, GREY, LIGHT = "#0072B2", "#D55E00", "#E69F00", "#009E73", "#606060", "#c4c8cc"
COLORS = (BLUE, VERMILLION, GREEN, "#CC79A7", ORANGE, "#56B4E9")
STYLES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
MOST = 20
"""Largest number of classes by name in a plot; the most relevant are shown."""
FEW = 7
"""Largest number of classes with large text in the confusion matrix."""
WIDTH, HEIGHT, TALL = 6.4, 4.4, 5.4
"""Inches of a plot of half a page's width, and the height of one with a legend below."""


def plots(analysis: Analysis) -> Iterator[tuple[str, bytes]]:
    """Draw the plots that have data; yields the name and the PNG of each."""
    for draw in (errors, precision_recall, f1, size, shape, reliability, confusion):
        if draw is not reliability or analysis.calibration is not None:
            yield draw.__name__, png(draw(analysis))


def errors(analysis: Analysis) -> Figure:
    """Plot the cost of each kind of error."""
    figure, axes = _figure("What AP50 is lost to")
    costs, counts = analysis.errors.cost, analysis.errors.counts
    names = [*KINDS, *SPECIAL]
    places = [*range(len(KINDS)), *(len(KINDS) + 0.6 + i for i in range(len(SPECIAL)))]
    values = [costs[name] for name in names]
    axes.barh(places, values, color=[BLUE] * len(KINDS) + [GREY] * len(SPECIAL), height=0.72)
    for place, name, value in zip(places, names, values):
        many = f"  ({counts[name]:,})" if name in counts else ""
        axes.text(value, place, f" {value:.3f}{many}", va="center", fontsize=10.5)
    axes.set_yticks(places, [*KINDS, "all false positives", "all false negatives"])
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.32 * max(values), 0.01))
    axes.set_xlabel("AP50 gained if all errors of the kind were corrected (number of errors)")
    return figure


def precision_recall(analysis: Analysis) -> Figure:
    """Plot precision over recall at IoU 0.5."""
    figure, axes = _figure("Precision and recall at IoU 0.5", TALL)
    precision = analysis.curves.precision_at[:-1]
    known = np.flatnonzero(analysis.curves.objects[:-1])
    average = precision[known].mean(axis=0) if len(known) else np.zeros(len(RECALLS))
    _classes(axes, analysis, RECALLS, precision, analysis.errors.ap50)
    ap50 = mean(analysis.errors.ap50) or 0.0
    name = _plain(analysis.index.classes[known[0]]) if len(known) == 1 else "mean of classes"
    axes.plot(RECALLS, average, color="k", linewidth=2.4, label=f"{name}  {ap50:.3f}")
    _unit(axes, "recall", "precision at that recall or more")
    _legend(axes, "AP50")
    return figure


def f1(analysis: Analysis) -> Figure:
    """Plot F1 over confidence; for all classes together also precision and recall."""
    figure, axes = _figure("F1 at IoU 0.5", TALL)
    curves = analysis.curves
    best = curves.f1.max(axis=1)
    _classes(axes, analysis, curves.confidence, curves.f1[:-1], best[:-1])
    for values, style, name in ((curves.precision, "--", "precision"), (curves.recall, ":", "recall")):
        axes.plot(
            curves.confidence, values[-1], color="k", linestyle=style, linewidth=1.4, label=f"{name}, all together"
        )
    axes.plot(curves.confidence, curves.f1[-1], color="k", linewidth=2.4, label=f"F1, all together  {best[-1]:.3f}")
    axes.axvline(analysis.confidence, color=GREY, linewidth=1)
    _unit(axes, f"confidence threshold; best {analysis.confidence:.3g}", "F1")
    axes.set_xlim(curves.confidence[0], curves.confidence[-1])
    _legend(axes, "best F1")
    return figure


def size(analysis: Analysis) -> Figure:
    """Plot AP by size."""
    return _slices(analysis.sizes, "square root of the object's area, in pixels", "AP by size")


def shape(analysis: Analysis) -> Figure:
    """Plot AP by aspect ratio."""
    return _slices(analysis.shapes, "width over height of the object", "AP by shape")


def reliability(analysis: Analysis) -> Figure:
    """Plot precision over confidence, and the number of detections."""
    data = analysis.calibration
    assert data is not None
    figure, axes = _figure(f"Reliability: expected calibration error {data.ece:.3f}")
    middles, known = (np.arange(BINS) + 0.5) / BINS, np.flatnonzero(data.count)
    low, high = np.sort([data.precision[known], data.confidence[known]], axis=0)
    axes.bar(middles[known], data.precision[known], width=0.9 / BINS, color=BLUE, label="precision")
    axes.bar(
        middles[known], high - low, bottom=low, width=0.9 / BINS, color="none", edgecolor=VERMILLION, hatch="////",
        linewidth=0.8, label="gap to the mean confidence",
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color="k", linestyle="--", linewidth=1, label="precision = confidence")
    names = [f"{middle:g}\n{_short(count)}" for middle, count in zip(middles, data.count.tolist())]
    axes.set_xticks(middles, names, fontsize=9.5)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="precision at IoU 0.5", xlabel="confidence, in ten bins; detections")
    axes.legend(fontsize=9.5, loc="upper left", frameon=False)
    return figure


def confusion(analysis: Analysis) -> Figure:
    """Plot the confusion matrix, with counts in the cells if they fit."""
    matrix, names = analysis.confusion, [*map(_plain, analysis.index.classes), "background"]
    count, few, numbers = len(names), len(names) <= FEW + 1, len(names) <= MOST + 1
    side = 5.4 if few else 8.6 if numbers else min(9.5 + 0.03 * max(count - 81, 0), 16)
    title = f"Confusion from confidence {analysis.confidence:.3g} on"
    figure, axes = _figure(title, side * 0.95, side * (1.1 if few else 0.96))
    shares = matrix / np.maximum(matrix.sum(axis=0), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    font = 11 if few else 9 if numbers else max(60 * (side - 2.2) / count, 3.5)
    axes.set_xticks(range(count), names, fontsize=min(font, 10), rotation=20 if few else 90)
    axes.set_yticks(range(count), names, fontsize=min(font, 10))
    axes.set_xlabel("true class (background: no object); colour: share of the column")
    axes.set_ylabel("predicted class (background: missed)")
    for row, column in np.argwhere(matrix) if numbers else ():
        color = "w" if shares[row, column] > 0.6 else "k"
        text = axes.text(column, row, _short(matrix[row, column]), ha="center", va="center", fontsize=font - 1)
        text.set(color=color, in_layout=False)  # it is inside the axes, so layout can skip it
    return figure


def _slices(slices: Sequence[Slice], label: str, title: str) -> Figure:
    """Plot bars of AP and AP50 for each bin, with its number of objects."""
    figure, axes = _figure(title, 3.8)
    places = np.arange(len(slices))
    for shift, name, color, hatch in ((-0.2, "AP", BLUE, ""), (0.2, "AP50", LIGHT, "//")):
        values = [getattr(one, name) for one in slices]
        height = [value or 0 for value in values]
        axes.bar(places + shift, height, width=0.38, color=color, hatch=hatch, edgecolor="w", label=name)
        for place, value in zip(places, values):
            if value is not None:
                axes.text(place + shift, value, f"{value:.2f}", ha="center", va="bottom", fontsize=9.5)
    axes.set_xticks(
        places, [f"{one.name.replace(' ', chr(10), 1)}\n{one.objects:,} obj." for one in slices], fontsize=9.5
    )
    axes.set_ylim(0, max(one.AP50 or 0 for one in slices) * 1.1 + 0.02)
    axes.set_xlabel(label)
    axes.legend(fontsize=10, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.99), borderaxespad=0)
    return figure


def _classes(axes: Axes, analysis: Analysis, x: Floats, rows: Floats, metric: Floats) -> None:
    """Plot a line per class: few classes all by name, else the three best and worst by name and the others thin."""
    known = np.flatnonzero(analysis.curves.objects[:-1])
    order = known[np.argsort(-metric[known], kind="stable")].tolist()
    if len(order) == 1:
        return
    few = len(order) <= len(COLORS)
    named = order if few else [*order[:3], *order[-3:]]
    for k in order:
        if k not in named:
            axes.plot(x, rows[k], color=LIGHT, linewidth=0.7)
    for i, k in enumerate(named):
        style: Any = STYLES[i % len(STYLES)] if few else ("-" if i < 3 else "--")
        label = f"{_plain(analysis.index.classes[k])}  {metric[k]:.3f}"
        axes.plot(x, rows[k], color=COLORS[i], linestyle=style, linewidth=1.5, label=label)
    if not few:
        axes.plot([], [], color=LIGHT, linewidth=0.7, label=f"{len(order) - len(named)} other classes")


def _figure(title: str, height: float = HEIGHT, width: float = WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=12, fontweight="bold", loc="left")
    return figure, axes


def _unit(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)


def _legend(axes: Axes, title: str) -> None:
    """Draw the legend below the axes, because curves may be anywhere in them."""
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
    axes.legend(fontsize=9, frameon=False, ncols=2, title=title, title_fontsize=9, **below)


def _plain(name: str, most: int = 18) -> str:
    """Escape a class name for matplotlib and shorten it in the middle."""
    half = most // 2
    short = name if len(name) <= most else f"{name[:half]}…{name[-half + 1 :]}"
    return printable(short).replace("$", r"\$")


def _short(count: int) -> str:
    """Format a count in at most four characters."""
    return f"{count}" if count < 10_000 else f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.0f}M"
