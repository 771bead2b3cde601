"""The figure of an explanation: five panels and a note as one PNG, in Okabe and Ito's colour-blind safe palette."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from torch import Tensor

from cledet.config.types import ablation_name
from cledet.console import printable
from cledet.explain.explanation import IAC_OPTIONS, SHOWN_SCORE, Explanation
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
    FigureCanvasAgg(figure)
    for axes, draw_panel in zip(figure.subplots(2, 3).flat, PANELS):
        draw_panel(axes, explanation)
    return figure


def _positives(axes: Axes, explanation: Explanation) -> None:
    """Draw the positive anchors of the assignment and of IAC."""
    rule = {"iou": "IoU", "atss": "ATSS", "fcos": "FCOS's rule", "paa": "PAA", "tal": "TAL"}[explanation.assignment]
    anchors, recalled = explanation.positives.anchors, explanation.positives.recalled
    count = int(recalled.sum())
    _photo(axes, explanation)
    handles = [
        _boxes(axes, anchors[~recalled], BLUE, 0.8, alpha=_alpha(len(anchors)), label=f"by {rule}"),
        _boxes(axes, anchors[recalled], VERMILLION, 0.8, alpha=_alpha(count), label="recalled by IAC"),
        _objects(axes, explanation),
    ]
    possible, on = "iac" in explanation.settings.possible, "iac" in explanation.components
    and_iac = f", {count} by IAC" if possible else ""
    _title(axes, f"1  Positive anchors: {len(anchors) - count} by {rule}{and_iac}")
    off = " IAC was off in training: shown are the anchors that it would recall." if possible and not on else ""
    _caption(axes, f"The anchors that are trained to detect an object.{off}", handles)


def _weights(axes: Axes, explanation: Explanation) -> None:
    """Draw the predicted boxes of the positives, coloured by DC's coefficient."""
    weight = explanation.positives.weight
    _photo(axes, explanation)
    span = "no positives"
    if len(weight):
        limit = max(float(torch.maximum(weight, 1 / weight).max()), 1.25)
        scale = ScalarMappable(LogNorm(1 / limit, limit), WEIGHTS)
        order = weight.log().abs().argsort()  # weights farthest from 1 on top
        _boxes(axes, explanation.positives.boxes[order], scale.to_rgba(weight[order].numpy(), alpha=0.8), 0.9)
        ticks = [1 / limit, limit**-0.5, 1, limit**0.5, limit]
        _bar(axes, scale, "weight of the classification loss", ticks, [f"{tick:.2f}" for tick in ticks])
        span = f"{float(weight.min()):.2f} to {float(weight.max()):.2f}"
    _objects(axes, explanation)
    _title(axes, f"2  Coefficient of each positive: {span}")
    off = "" if "dc" in explanation.components else " DC was off in training."
    _caption(
        axes,
        "The box predicted by each positive, coloured by DC's λ′ (Eq. 3), the factor of its classification loss: "
        f"above 1 for well placed boxes, below 1 for badly placed ones.{off}",
    )


def _clusters(axes: Axes, explanation: Explanation) -> None:
    """Draw the best clusters, their centres, and the boxes that standard NMS and CL-B keep."""
    clusters, shown = explanation.clusters, min(explanation.clusters.count_shown(), MAX_CLUSTERS)
    standard, balanced = clusters.standard[:shown], clusters.balanced[:shown]
    differ = standard != balanced
    _photo(axes, explanation)
    members = clusters.boxes[clusters.cluster_index < shown]
    centers = clusters.centers[:shown].numpy()
    handles = [
        _boxes(axes, members, GREY, 0.5, alpha=_alpha(len(members)), label="candidates"),
        _boxes(axes, clusters.boxes[standard[~differ]], BLACK, 1.6, label="both keep"),
        _boxes(axes, clusters.boxes[standard[differ]], VERMILLION, 1.8, style="dashed", label="standard NMS keeps"),
        _boxes(axes, clusters.boxes[balanced[differ]], BLUE, 1.8, label="CL-B keeps"),
        _marks(axes, centers, "x", BLACK, "centre (Eq. 8)"),
    ]
    if not shown:
        _empty(axes, "no candidate")
    _title(axes, f"3  NMS clusters: {shown}; CL-B keeps another box in {int(differ.sum())}")
    off = "" if "clb" in explanation.components else " CL-B is off in this model."
    chosen = f"{shown} of {len(clusters.standard)} clusters: those whose best box scores {SHOWN_SCORE:g} or more"
    limit = f", {MAX_CLUSTERS} at most" if shown == MAX_CLUSTERS else ""
    _caption(axes, f"{chosen}{limit}.{off}", handles)


def _classified(axes: Axes, explanation: Explanation) -> None:
    """Draw the map of the highest probability."""
    handles = _heat(axes, explanation, explanation.peaks.probability, "probability")
    _title(axes, "4  Highest probability of the true class")
    _caption(axes, "The maximum over all anchors at a position, of any level and shape.", handles)


def _localized(axes: Axes, explanation: Explanation) -> None:
    """Draw the map of the highest IoU."""
    handles = _heat(axes, explanation, explanation.peaks.iou, "IoU")
    _title(axes, "5  Highest IoU with the object")
    _caption(axes, "The maximum over all boxes predicted at a position, of any level and shape.", handles)


def _heat(axes: Axes, explanation: Explanation, values: Tensor, name: str) -> list[Any]:
    """Draw a map over the image, and a line between the two peaks of each object."""
    peaks, scale = explanation.peaks, Normalize(0, 1)
    _photo(axes, explanation)
    if not len(explanation.objects.boxes):
        return _empty(axes, "no object")
    image = axes.imshow(
        values.numpy(), cmap="viridis", norm=scale, alpha=0.72, extent=_extent(explanation), interpolation="bilinear"
    )
    _bar(axes, image, name, [0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    _boxes(axes, explanation.objects.boxes, "white", 0.8)
    if len(explanation.objects.boxes) <= MAX_NAMED:
        _names(axes, explanation)
    overlapped = ~peaks.classified_at.isnan().any(-1)
    ends = torch.stack([peaks.classified_at, peaks.localized_at], 1)[overlapped].numpy()
    axes.add_collection(LineCollection(list(ends), colors="white", linewidths=1))
    return [
        _marks(axes, ends[:, 0], "o", VERMILLION, "best classified position", size=8),
        _marks(axes, ends[:, 1], "D", "white", "best localized position", size=4),
    ]


def _note(axes: Axes, explanation: Explanation) -> None:
    """Write the source of the objects, the settings and the mean distance of the peaks."""
    axes.axis("off")
    objects = explanation.objects
    count = f"{len(objects.boxes)} object{'' if len(objects.boxes) == 1 else 's'}"
    source = f"{count} annotated in {objects.source}"
    if not objects.source:
        source = f"No annotations: the model's own detections of score {SHOWN_SCORE:g} or more are used as objects"
        source += f" ({len(objects.boxes)})"
    value = {name: f"{name.replace('_', ' ')} {getattr(explanation.settings, name)}" for name in explanation.options}
    lines = [
        source,
        f"Components on in training: {ablation_name(explanation.components).replace(',', ', ')}",
        "IAC: " + (", ".join(value[name] for name in IAC_OPTIONS if name in value) or "not used with this assignment"),
        "DC: " + value["center_unit"],
        "NMS: " + ", ".join(value[name] for name in ("conf", "iou")),
        "CL-B: " + ", ".join(value[name] for name in ("localization", "cl_norm")),
    ]
    distances = explanation.peak_distances()
    distances = distances[~distances.isnan()]
    if len(distances):
        lines.append(
            "The mean distance between the best classified and the best localized position of an object (4, 5) is "
            f"{float(distances.mean()):.2f} times the object's size (the square root of its area)."
        )
    text = "\n\n".join(textwrap.fill(printable(line), 62) for line in lines)
    axes.text(0, 1, text, va="top", fontsize=11, linespacing=1.3, parse_math=False, transform=axes.transAxes)
    title = explanation.path.name if explanation.path is not None else "The image"
    axes.set_title(textwrap.fill(printable(title), 50), fontsize=12, fontweight="bold", loc="left", parse_math=False)


def _photo(axes: Axes, explanation: Explanation) -> None:
    """Draw the image in light grey, so that colours stand out."""
    grey = explanation.image @ np.array([0.299, 0.587, 0.114]) / 255
    axes.imshow(0.45 + 0.55 * grey, cmap="gray", vmin=0, vmax=1, extent=_extent(explanation))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_autoscale_on(False)


def _empty(axes: Axes, text: str) -> list[Any]:
    """Write in the middle of a panel why it is empty; return no legend handles."""
    axes.text(0.5, 0.5, text, ha="center", fontsize=12, transform=axes.transAxes)
    return []


def _extent(explanation: Explanation) -> tuple[float, float, float, float]:
    height, width = explanation.image.shape[:2]
    return 0, width, height, 0


def _boxes(
    axes: Axes,
    boxes: Tensor,
    color: Any,
    width: float,
    *,
    alpha: float | None = None,
    style: str = "solid",
    label: str = "",
) -> LineCollection:
    """Draw the outlines of boxes [N, 4]."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 5, 2).numpy()
    lines = LineCollection(list(corners), colors=color, linewidths=width, alpha=alpha, linestyles=style, label=label)
    axes.add_collection(lines)
    return lines


def _objects(axes: Axes, explanation: Explanation) -> LineCollection:
    label = "object" if explanation.objects.source else "detection"
    return _boxes(axes, explanation.objects.boxes, BLACK, 1.8, style="dotted", label=label)


def _names(axes: Axes, explanation: Explanation) -> None:
    """Write the class of each object inside its upper left corner."""
    for (x, y, _, _), label in zip(explanation.objects.boxes.tolist(), explanation.objects.labels.tolist()):
        name = printable(explanation.names[label])
        text = axes.annotate(name, (max(x, 0), max(y, 0)), (2, -2), textcoords="offset points")
        text.set(va="top", fontsize=8, color="white", clip_on=True, parse_math=False)


def _marks(axes: Axes, points: Any, marker: str, color: str, label: str, size: float = 5.5) -> Line2D:
    """Draw marks at points [N, 2], legible on any background."""
    edge = {"markeredgecolor": color} if marker == "x" else {"markeredgecolor": BLACK, "markeredgewidth": 0.7}
    (line,) = axes.plot(points[:, 0], points[:, 1], marker, markersize=size, color=color, label=label, **edge)
    return line


def _bar(axes: Axes, scale: Any, label: str, ticks: list[float], names: list[str]) -> None:
    """Draw a colour bar as high as the panel."""
    bar = axes.figure.colorbar(scale, cax=axes.inset_axes((1.02, 0, 0.035, 1)))
    bar.minorticks_off()
    bar.set_ticks(ticks, labels=names)
    bar.set_label(label, fontsize=10)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=12, fontweight="bold", loc="left")


def _caption(axes: Axes, text: str, handles: Sequence[Any] = ()) -> None:
    """Write a legend under the panel, and a sentence below it."""
    handles = [handle for handle in handles if not _is_empty(handle)]
    rows = -(-len(handles) // 3)
    axes.set_xlabel(textwrap.fill(text, 76), fontsize=10, loc="left", labelpad=4 + 16 * rows)
    if not handles:
        return
    legend = axes.legend(
        handles=handles, ncols=3, loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=0.2, borderpad=0,
        columnspacing=1.2, fontsize=10, frameon=False,
    )  # fmt: skip
    for handle in (*legend.get_lines(), *legend.get_patches()):
        handle.set_alpha(1)


def _is_empty(handle: LineCollection | Line2D) -> bool:
    """Check whether a legend handle has no lines or marks in the panel."""
    return np.size(handle.get_xdata() if isinstance(handle, Line2D) else handle.get_segments()) == 0


def _alpha(count: int) -> float:
    """Compute the opacity of `count` lines: the more, the fainter."""
    return float(min(0.9, max(0.12, 6 / max(count, 1) ** 0.5)))


PANELS = (_positives, _weights, _clusters, _classified, _localized, _note)
