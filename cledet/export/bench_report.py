"""The table, the document and the plot of `cledet bench`."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure

from cledet.config.evaluate import BenchSettings
from cledet.distributed.devices import cores, cpu_name
from cledet.export.bench import Bench, Measured
from cledet.io.provenance import versions

COLUMNS = (
    *("row", "device", "median ms", "p90 ms", "images/s", "speed", "first photo s", "memory MB", "file MB", "AP"),
)
BLUE, GREY = "#0072B2", "#606060"


def table(result: Bench) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of the measured rows; `speed` is relative to the first of them."""
    done = [one for one in result.rows if not one.reason]
    return [*COLUMNS], [_cells(one, done[0]) for one in done]


def _cells(one: Measured, first: Measured) -> list[Any]:
    facts = one.to_dict()
    return [
        *(one.row.name, one.device, f"{one.median:.1f}", f"{facts['p90_ms']:.1f}"),
        *(f"{facts['images_per_second']:.1f}", f"{first.median / one.median:.2f}", f"{one.first:.1f}"),
        *(f"{facts['memory_mb']:.0f}", f"{facts['file_mb']:.1f}" if one.row.size else None, one.ap),
    ]


def sentences(result: Bench) -> list[str]:
    """Describe the conditions, and the reasons of the rows that were not measured."""
    sizes = ", ".join(f"{width}x{height}" for height, width in dict.fromkeys(result.sizes))
    before, after = result.load
    return [
        f"photo in memory to boxes: {len(result.sizes)} photos of {sizes}, short side {result.imgsz} px, in turns",
        f"{cpu_name()}, {cores()} cores, {torch.get_num_threads()} threads, load {before:.1f} to {after:.1f}",
        *(f"{one.row.name} was not measured: {one.reason}" for one in result.rows if one.reason),
    ]


def to_document(result: Bench, settings: BenchSettings, weights: str) -> dict[str, Any]:
    """Return the content of bench.json."""
    return {
        "weights": weights,
        "imgsz": result.imgsz,
        "photos": [{"height": height, "width": width} for height, width in result.sizes],
        "rounds": settings.rounds,
        "split": result.split,
        "nms": settings.nms,
        "conf": settings.conf,
        "machine": {
            "cpu": cpu_name(),
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "load_before": result.load[0],
            "load_after": result.load[1],
            **versions(),
        },
        "rows": [one.to_dict() for one in result.rows],
    }


def draw(result: Bench) -> Figure:
    """Plot the median time of each measured row as a bar with a line to its 90th percentile, and its AP as text."""
    rows = [(one, one.to_dict()) for one in result.rows if not one.reason]
    figure = Figure(figsize=(8.0, 1.3 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places, medians = range(len(rows)), [facts["median_ms"] for _, facts in rows]
    ends = [facts["p90_ms"] for _, facts in rows]
    axes.barh(places, medians, color=BLUE, height=0.62)
    axes.hlines(places, medians, ends, color=GREY, linewidth=2)
    for place, end, (one, facts) in zip(places, ends, rows):
        ap = "" if one.ap is None else f", AP {one.ap:.3f}"
        axes.text(max(end, facts["median_ms"]), place, f"  {facts['median_ms']:.1f} ms{ap}", va="center", fontsize=10)
    axes.set_yticks(places, [one.row.name.replace("$", r"\$") for one, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(ends))
    axes.set_title("Photo to boxes", fontsize=12, fontweight="bold", loc="left")
    axes.set_xlabel("milliseconds: bar to the median, line to the 90th percentile")
    return figure
