"""The figure of an explanation: five panels and a note as one PNG, in Okabe and Ito's colour-blind safe palette."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from cledet.config.types import ablation_name
from cledet.console import printable
from cledet.explain.explanation import SHOWN_SCORE, Explanation
from cledet.visualization.plots import save_figure

BLUE, VERMILLION, BLACK, GREY = "#0072B2", "#D55E00", "#000000", "#606060"
WEIGHTS = LinearSegmentedColormap.from_list("weights", [BLUE, "#8a8a8a", VERMILLION])
MAX_CLUSTERS = 40
"""Most clusters that are drawn, to keep the panel legible."""
PANEL = 4.9
"""Width of a panel in inches, without its colour bar."""
MAX_NAMED = 20
"""Most objects whose class names are drawn."""


def draw(explanation: Explanation, path: Path) -> None:
    """Write the figure of an explanation as PNG."""
    save_figure(make_figure(explanation), path)


def make_figure(explanation: Explanation) -> Figure:
    """Draw five panels and a note."""
    height, width = explanation.image.shape[:2]
    panel_height = PANEL * min(max(height / width, 0.45), 1.5)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(3 * PANEL + 3.1, 2 * (panel_height + 1.3)), layout=layout)
    *panels, note = figure.subplots(2, 3).flat
    grey = explanation.image @ np.array([0.299, 0.587, 0.114]) / 255  # light grey, so that colours stand out
    for axes, draw_panel in zip(panels, PANELS):
        axes.imshow(0.45 + 0.55 * grey, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
        axes.set(xticks=[], yticks=[], autoscale_on=False)
        title, text = draw_panel(axes, explanation)
        axes.set_title(title, fontsize=12, fontweight="bold", loc="left")
        _caption(axes, text)
    _note(note, explanation)
    return figure


def _positives(axes: Axes, explanation: Explanation) -> tuple[str, str]:
    """Draw the positive anchors of the assignment and of IAC; return the title and the caption, as all panels do."""
    rule = {"iou": "IoU", "atss": "ATSS", "fcos": "FCOS's rule", "paa": "PAA", "tal": "TAL"}[explanation.assignment]
    anchors, recalled = explanation.positives.anchors, explanation.positives.recalled
    count = int(recalled.sum())
    _boxes(axes, anchors[~recalled], BLUE, 0.8, alpha=_alpha(len(anchors)), label=f"by {rule}")
    _boxes(axes, anchors[recalled], VERMILLION, 0.8, alpha=_alpha(count), label="recalled by IAC")
    _objects(axes, explanation)
    possible, on = "iac" in explanation.settings.possible, "iac" in explanation.components
    and_iac = f", {count} by IAC" if possible else ""
    off = " IAC was off in training: shown are the anchors that it would recall." if possible and not on else ""
    return (
        f"1  Positive anchors: {len(anchors) - count} by {rule}{and_iac}",
        f"The anchors that are trained to detect an object.{off}",
    )


def _weights(axes: Axes, explanation: Explanation) -> tuple[str, str]:
    """Draw the predicted boxes of the positives, coloured by DC's coefficient."""
    weight = explanation.positives.weight
    span = "no positives"
    if len(weight):
        limit = max(float(torch.maximum(weight, 1 / weight).max()), 1.25)
        scale = ScalarMappable(LogNorm(1 / limit, limit), WEIGHTS)
        order = weight.log().abs().argsort()  # weights farthest from 1 on top
        _boxes(axes, explanation.positives.boxes[order], scale.to_rgba(weight[order].numpy(), alpha=0.8), 0.9)
        _bar(axes, scale, "weight of the classification loss", [1 / limit, limit**-0.5, 1, limit**0.5, limit])
        span = f"{float(weight.min()):.2f} to {float(weight.max()):.2f}"
    _objects(axes, explanation)
    off = "" if "dc" in explanation.components else " DC was off in training."
    return (
        f"2  Coefficient of each positive: {span}",
        "The box predicted by each positive, coloured by DC's λ′ (Eq. 3), the factor of its classification loss: "
        f"above 1 for well placed boxes, below 1 for badly placed ones.{off}",
    )


def _clusters(axes: Axes, explanation: Explanation) -> tuple[str, str]:
    """Draw the best clusters, their centres, and the boxes that standard NMS and CL-B keep."""
    clusters, shown = explanation.clusters, min(explanation.clusters.count_shown(), MAX_CLUSTERS)
    standard, balanced = clusters.standard[:shown], clusters.balanced[:shown]
    differ = standard != balanced
    members = clusters.boxes[clusters.cluster_index < shown]
    _boxes(axes, members, GREY, 0.5, alpha=_alpha(len(members)), label="candidates")
    _boxes(axes, clusters.boxes[standard[~differ]], BLACK, 1.6, label="both keep")
    _boxes(axes, clusters.boxes[standard[differ]], VERMILLION, 1.8, style="dashed", label="standard NMS keeps")
    _boxes(axes, clusters.boxes[balanced[differ]], BLUE, 1.8, label="CL-B keeps")
    _marks(axes, clusters.centers[:shown].numpy(), "x", BLACK, "centre (Eq. 8)")
    if not shown:
        _empty(axes, "no candidate")
    off = "" if "clb" in explanation.components else " CL-B is off in this model."
    chosen = f"{shown} of {len(clusters.standard)} clusters: those whose best box scores {SHOWN_SCORE:g} or more"
    limit = f", {MAX_CLUSTERS} at most" if shown == MAX_CLUSTERS else ""
    return (
        f"3  NMS clusters: {shown}; CL-B keeps another box in {int(differ.sum())}",
        f"{chosen}{limit}.{off}",
    )


def _heat(axes: Axes, explanation: Explanation, name: str, title: str) -> tuple[str, str]:
    """Draw a map of the peaks over the image, and a line between the two peaks of each object."""
    peaks, boxes = explanation.peaks, explanation.objects.boxes
    text = "The maximum over all anchors at a position, of any level and shape."
    if not len(boxes):
        _empty(axes, "no object")
        return title, text
    values, extent = getattr(peaks, name.lower()).numpy(), axes.images[0].get_extent()
    image = axes.imshow(values, norm=Normalize(0, 1), alpha=0.72, extent=extent, interpolation="bilinear")
    _bar(axes, image, name, [0, 0.25, 0.5, 0.75, 1])
    _boxes(axes, boxes, "white", 0.8)
    if len(boxes) <= MAX_NAMED:
        _names(axes, explanation)
    overlapped = ~peaks.classified_at.isnan().any(-1)
    ends = torch.stack([peaks.classified_at, peaks.localized_at], 1)[overlapped].numpy()
    axes.add_collection(LineCollection(list(ends), colors="white", linewidths=1))
    _marks(axes, ends[:, 0], "o", VERMILLION, "best classified position", size=8)
    _marks(axes, ends[:, 1], "D", "white", "best localized position", size=4)
    return title, text


def _note(axes: Axes, explanation: Explanation) -> None:
    """Write the name of the image, the source of the objects and the components in the place of a sixth panel."""
    axes.axis("off")
    count, source = len(explanation.objects.boxes), explanation.objects.source
    objects = f"{count} object{'' if count == 1 else 's'} annotated in {source}"
    if not source:
        objects = f"the model's own detections of score {SHOWN_SCORE:g} or more are used as objects ({count})"
    name = explanation.path.name if explanation.path is not None else "The image"
    components = ablation_name(explanation.components).replace(",", ", ")
    text = printable(f"{name}: {objects}. Components on in training: {components}.")
    axes.text(0, 1, textwrap.fill(text, 62), va="top", fontsize=11, parse_math=False, transform=axes.transAxes)


def _empty(axes: Axes, text: str) -> None:
    """Write in the middle of a panel why it is empty."""
    axes.text(0.5, 0.5, text, ha="center", fontsize=12, transform=axes.transAxes)


def _boxes(
    axes: Axes,
    boxes: Tensor,
    color: Any,
    width: float,
    *,
    alpha: float | None = None,
    style: str = "solid",
    label: str = "",
) -> None:
    """Draw the outlines of boxes [N, 4]; without any, the label is not in the legend."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 5, 2).numpy()
    lines = LineCollection(list(corners), colors=color, linewidths=width, alpha=alpha, linestyles=style, label=label)
    lines.set_visible(len(boxes) > 0)
    axes.add_collection(lines)


def _objects(axes: Axes, explanation: Explanation) -> None:
    label = "object" if explanation.objects.source else "detection"
    _boxes(axes, explanation.objects.boxes, BLACK, 1.8, style="dotted", label=label)


def _names(axes: Axes, explanation: Explanation) -> None:
    """Write the class of each object inside its upper left corner."""
    for (x, y, _, _), label in zip(explanation.objects.boxes.tolist(), explanation.objects.labels.tolist()):
        name = printable(explanation.names[label])
        text = axes.annotate(name, (max(x, 0), max(y, 0)), (2, -2), textcoords="offset points")
        text.set(va="top", fontsize=8, color="white", clip_on=True, parse_math=False)


def _marks(axes: Axes, points: Any, marker: str, color: str, label: str, size: float = 5.5) -> None:
    """Draw marks at points [N, 2], legible on any background."""
    edge = color if marker == "x" else BLACK
    axes.plot(
        *points.T, marker, markersize=size, color=color, label=label, markeredgecolor=edge, visible=len(points) > 0
    )


def _bar(axes: Axes, scale: Any, label: str, ticks: list[float]) -> None:
    """Draw a colour bar as high as the panel."""
    bar = axes.figure.colorbar(scale, cax=axes.inset_axes((1.02, 0, 0.035, 1)))
    bar.minorticks_off()
    bar.set_ticks(ticks, labels=[f"{tick:.2f}" for tick in ticks])
    bar.set_label(label, fontsize=10)


def _caption(axes: Axes, text: str) -> None:
    """Write a legend of the visible lines and marks under the panel, and a sentence below it."""
    handles = [handle for handle in axes.get_legend_handles_labels()[0] if handle.get_visible()]
    rows = -(-len(handles) // 3)
    axes.set_xlabel(textwrap.fill(text, 76), fontsize=10, loc="left", labelpad=4 + 16 * rows)
    if not handles:
        return
    legend = axes.legend(
        handles=handles, ncols=3, loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=0.2, borderpad=0,
        columnspacing=1.2, fontsize=10, frameon=False,
    )  # fmt: skip
    for handle in legend.get_lines():
        handle.set_alpha(1)


def _alpha(count: int) -> float:
    """Compute the opacity of `count` lines: the more, the fainter."""
    return float(min(0.9, max(0.12, 6 / max(count, 1) ** 0.5)))


PANELS: tuple[Callable[[Axes, Explanation], tuple[str, str]], ...] = (
    _positives,
    _weights,
    _clusters,
    partial(_heat, name="probability", title="4  Highest probability of the true class"),
    partial(_heat, name="IoU", title="5  Highest IoU with the object"),
)
