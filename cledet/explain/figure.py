"""The picture of an explanation: five panels and a note, as one PNG. Colours: Okabe and Ito's, safe for most eyes."""

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
MOST_CLUSTERS = 40
"""More are not drawn: the picture would be full of lines."""
PANEL = 4.9
"""Width of a panel in inches, without its colour bar."""
NAMED = 20
"""With more objects than this, none is named."""


def draw(found: Explanation, path: Path) -> None:
    """Write the picture of an explanation as PNG."""
    save_figure(picture(found), path)


def picture(found: Explanation) -> Figure:
    """Five panels and a note."""
    height, width = found.image.shape[:2]
    tall = PANEL * min(max(height / width, 0.45), 1.5)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(3 * PANEL + 3.1, 2 * (tall + 1.3)), layout=layout)
    FigureCanvasAgg(figure)
    for axes, paint in zip(figure.subplots(2, 3).flat, PANELS):
        paint(axes, found)
    return figure


def _positives(axes: Axes, found: Explanation) -> None:
    """The positive anchors, those by the assignment and those by IAC."""
    rule = {"iou": "IoU", "atss": "ATSS", "fcos": "FCOS's rule", "paa": "PAA", "tal": "TAL"}[found.assignment]
    anchors, recalled = found.positives.anchors, found.positives.recalled
    count = int(recalled.sum())
    _photo(axes, found)
    handles = [
        _boxes(axes, anchors[~recalled], BLUE, 0.8, alpha=_alpha(len(anchors)), label=f"by {rule}"),
        _boxes(axes, anchors[recalled], VERMILLION, 0.8, alpha=_alpha(count), label="recalled by IAC"),
        _objects(axes, found),
    ]
    possible, on = "iac" in found.settings.possible, "iac" in found.components
    and_iac = f", {count} by IAC" if possible else ""
    _title(axes, f"1  Positive anchors: {len(anchors) - count} by {rule}{and_iac}")
    off = " IAC was off in training: this is what it would recall." if possible and not on else ""
    _caption(axes, f"The anchors that are trained to answer for an object.{off}", handles)


def _weights(axes: Axes, found: Explanation) -> None:
    """The positives' predicted boxes in the colour of DC's coefficient."""
    weight = found.positives.weight
    _photo(axes, found)
    span = "no positives"
    if len(weight):
        most = max(float(torch.maximum(weight, 1 / weight).max()), 1.25)
        scale = ScalarMappable(LogNorm(1 / most, most), WEIGHTS)
        order = weight.log().abs().argsort()  # the farthest from 1 on top
        _boxes(axes, found.positives.boxes[order], scale.to_rgba(weight[order].numpy(), alpha=0.8), 0.9)
        ticks = [1 / most, most**-0.5, 1, most**0.5, most]
        _bar(axes, scale, "weight of the class loss", ticks, [f"{tick:.2f}" for tick in ticks])
        span = f"{float(weight.min()):.2f} to {float(weight.max()):.2f}"
    _objects(axes, found)
    _title(axes, f"2  Coefficient of each positive: {span}")
    off = "" if "dc" in found.components else " DC was off in training."
    _caption(
        axes,
        "The box predicted by each positive, coloured by DC's λ′ (Eq. 3), what its class loss is multiplied by: "
        f"over 1 for well placed boxes, under 1 for badly placed ones.{off}",
    )


def _clusters(axes: Axes, found: Explanation) -> None:
    """The strongest clusters, their centres, and what either NMS keeps of them."""
    grouped, shown = found.clusters, min(found.clusters.shown(), MOST_CLUSTERS)
    standard, balanced = grouped.standard[:shown], grouped.balanced[:shown]
    differ = standard != balanced
    _photo(axes, found)
    members = grouped.boxes[grouped.cluster < shown]
    centers = grouped.centers[:shown].numpy()
    handles = [
        _boxes(axes, members, GREY, 0.5, alpha=_alpha(len(members)), label="candidates"),
        _boxes(axes, grouped.boxes[standard[~differ]], BLACK, 1.6, label="both keep"),
        _boxes(axes, grouped.boxes[standard[differ]], VERMILLION, 1.8, style="dashed", label="standard NMS keeps"),
        _boxes(axes, grouped.boxes[balanced[differ]], BLUE, 1.8, label="CL-B keeps"),
        _marks(axes, centers, "x", BLACK, "centre (Eq. 8)"),
    ]
    if not shown:
        _empty(axes, "no candidate")
    _title(axes, f"3  NMS clusters: {shown}; CL-B keeps another box in {int(differ.sum())}")
    off = "" if "clb" in found.components else " CL-B is off in this model."
    chosen = f"{shown} of {len(grouped.standard)} clusters: those whose best box scores {SHOWN_SCORE:g} or more"
    most = f", {MOST_CLUSTERS} at most" if shown == MOST_CLUSTERS else ""
    _caption(axes, f"{chosen}{most}.{off}", handles)


def _classified(axes: Axes, found: Explanation) -> None:
    """Where the classifier is best."""
    handles = _heat(axes, found, found.places.probability, "probability")
    _title(axes, "4  Where the classifier is best")
    _caption(axes, "The highest probability that an anchor at the place, of any level and shape, gives to the class of "
             "its object.", handles)  # fmt: skip


def _localized(axes: Axes, found: Explanation) -> None:
    """Where the localizer is best."""
    handles = _heat(axes, found, found.places.iou, "IoU")
    _title(axes, "5  Where the localizer is best")
    _caption(axes, "The highest IoU that a box predicted at the place, from any level and shape, has with its object.",
             handles)  # fmt: skip


def _heat(axes: Axes, found: Explanation, values: Tensor, name: str) -> list[Any]:
    """A map over the image, and each object's best place of either branch joined by a line."""
    places, scale = found.places, Normalize(0, 1)
    _photo(axes, found)
    if not len(found.objects.boxes):
        return _empty(axes, "no object")
    image = axes.imshow(
        values.numpy(), cmap="viridis", norm=scale, alpha=0.72, extent=_extent(found), interpolation="bilinear"
    )
    _bar(axes, image, name, [0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    _boxes(axes, found.objects.boxes, "white", 0.8)
    if len(found.objects.boxes) <= NAMED:
        _names(axes, found)
    seen = ~places.classified_at.isnan().any(-1)
    ends = torch.stack([places.classified_at, places.localized_at], 1)[seen].numpy()
    axes.add_collection(LineCollection(list(ends), colors="white", linewidths=1))
    return [
        _marks(axes, ends[:, 0], "o", VERMILLION, "an object is classified best", size=8),
        _marks(axes, ends[:, 1], "D", "white", "localized best", size=4),
    ]


def _note(axes: Axes, found: Explanation) -> None:
    """What the picture is of, in words."""
    axes.axis("off")
    objects = found.objects
    count = f"{len(objects.boxes)} object{'' if len(objects.boxes) == 1 else 's'}"
    source = f"{count} annotated in {objects.source}"
    if not objects.source:
        source = f"No annotations: the model's own detections of score {SHOWN_SCORE:g} or more stand in for the objects"
        source += f" ({len(objects.boxes)})"
    value = {name: f"{name.replace('_', ' ')} {getattr(found.settings, name)}" for name in found.options}
    lines = [
        source,
        f"Components on in training: {ablation_name(found.components).replace(',', ', ')}",
        "IAC: " + (", ".join(value[name] for name in IAC_OPTIONS if name in value) or "no part in this assignment"),
        "DC: " + value["center_unit"],
        "NMS: " + ", ".join(value[name] for name in ("conf", "iou")),
        "CL-B: " + ", ".join(value[name] for name in ("localization", "cl_norm")),
    ]
    apart = found.peak_distances()
    apart = apart[~apart.isnan()]
    if len(apart):
        lines.append(
            "From where an object is classified best to where it is localized best (4, 5) it is on average "
            f"{float(apart.mean()):.2f} times the object's size (the square root of its area)."
        )
    text = "\n\n".join(textwrap.fill(printable(line), 62) for line in lines)
    axes.text(0, 1, text, va="top", fontsize=11, linespacing=1.3, parse_math=False, transform=axes.transAxes)
    title = found.path.name if found.path is not None else "The image"
    axes.set_title(textwrap.fill(printable(title), 50), fontsize=12, fontweight="bold", loc="left", parse_math=False)


def _photo(axes: Axes, found: Explanation) -> None:
    """The image in light grey, so that colours stand out."""
    grey = found.image @ np.array([0.299, 0.587, 0.114]) / 255
    axes.imshow(0.45 + 0.55 * grey, cmap="gray", vmin=0, vmax=1, extent=_extent(found))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_autoscale_on(False)


def _empty(axes: Axes, text: str) -> list[Any]:
    """Say in the middle of a panel why nothing is drawn; there is nothing for a legend either."""
    axes.text(0.5, 0.5, text, ha="center", fontsize=12, transform=axes.transAxes)
    return []


def _extent(found: Explanation) -> tuple[float, float, float, float]:
    height, width = found.image.shape[:2]
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
    """The outlines of boxes [N, 4]."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 5, 2).numpy()
    lines = LineCollection(list(corners), colors=color, linewidths=width, alpha=alpha, linestyles=style, label=label)
    axes.add_collection(lines)
    return lines


def _objects(axes: Axes, found: Explanation) -> LineCollection:
    label = "object" if found.objects.source else "detection that stands in"
    return _boxes(axes, found.objects.boxes, BLACK, 1.8, style="dotted", label=label)


def _names(axes: Axes, found: Explanation) -> None:
    """The class of each object, inside its upper left corner."""
    for (x, y, _, _), label in zip(found.objects.boxes.tolist(), found.objects.labels.tolist()):
        text = axes.annotate(printable(found.names[label]), (max(x, 0), max(y, 0)), (2, -2), textcoords="offset points")
        text.set(va="top", fontsize=8, color="white", clip_on=True, parse_math=False)


def _marks(axes: Axes, points: Any, marker: str, color: str, label: str, size: float = 5.5) -> Line2D:
    """Marks at points [N, 2], legible on any ground."""
    edge = {"markeredgecolor": color} if marker == "x" else {"markeredgecolor": BLACK, "markeredgewidth": 0.7}
    (line,) = axes.plot(points[:, 0], points[:, 1], marker, markersize=size, color=color, label=label, **edge)
    return line


def _bar(axes: Axes, scale: Any, label: str, ticks: list[float], names: list[str]) -> None:
    """A colour bar as high as the panel."""
    bar = axes.figure.colorbar(scale, cax=axes.inset_axes((1.02, 0, 0.035, 1)))
    bar.minorticks_off()
    bar.set_ticks(ticks, labels=names)
    bar.set_label(label, fontsize=10)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=12, fontweight="bold", loc="left")


def _caption(axes: Axes, text: str, handles: Sequence[Any] = ()) -> None:
    """What the lines and marks mean, under the panel, and under that a sentence."""
    handles = [handle for handle in handles if _drawn(handle)]
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


def _drawn(handle: LineCollection | Line2D) -> bool:
    """Whether there is anything of the kind in the panel."""
    return np.size(handle.get_xdata() if isinstance(handle, Line2D) else handle.get_segments()) > 0


def _alpha(count: int) -> float:
    """Lines fade as they become many."""
    return float(min(0.9, max(0.12, 6 / max(count, 1) ** 0.5)))


PANELS = (_positives, _weights, _clusters, _classified, _localized, _note)
