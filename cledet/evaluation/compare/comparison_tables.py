"""A comparison of runs as tables, Markdown, plain data and notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cledet.data.index import DetectionIndex
from cledet.evaluation.compare.compare_runs import (
    RunComparison,
    SideComparison,
    largest_class_differences,
    most_influential_images,
)
from cledet.metrics.bootstrap import MIN_IMAGES, PairedDifference
from cledet.metrics.metric_tables import SIZES, Table, to_markdown


def main_table(comparison: RunComparison) -> Table:
    """Build the table with a row per entry: its metrics, and the difference of its AP from that of the first."""
    first = next(iter(comparison.evaluations))
    columns = ["detections", *SIZES, f"AP - {first}", "95 % from", "to", "conclusion"]
    rows: list[list[Any]] = []
    for name, one in comparison.evaluations.items():
        run = comparison.differences.get(name)
        cells = [None, None, None, "baseline"] if run is None else _cells(run.overall)
        rows.append([name, *(one.metrics[metric] for metric in SIZES), *cells])
    return columns, rows


def class_table(comparison: RunComparison, name: str, index: DetectionIndex) -> Table:
    """Build the table of the classes on which an entry differs most from the first."""
    first, objects = next(iter(comparison.evaluations)), index.class_counts()
    columns = ["class", "images", "objects", first, name, "difference", "95 % from", "to", "conclusion"]
    rows = []
    for label, one in largest_class_differences(comparison.differences[name]).items():
        aps = [comparison.evaluations[entry].per_class[label]["AP"] for entry in (first, name)]
        rows.append([label, one.images, objects[label], *aps, *_cells(one)])
    return columns, rows


def image_table(comparison: RunComparison, name: str, index: DetectionIndex) -> Table:
    """Build the table of the images with the largest influence on the difference of an entry from the first."""
    first, run = next(iter(comparison.evaluations)), comparison.differences[name]
    columns = ["image", "id", "influence", "in favor of"]
    rows = []
    for i in most_influential_images(run):
        influence = float(run.influence[i])
        winner = name if influence > 0 else first
        rows.append([Path(str(index.paths[i])).name, int(index.image_ids[i]), influence, winner])
    return columns, rows


def notes(comparison: RunComparison) -> list[str]:
    """Return sentences on how to read the intervals."""
    sentences, runs = [], comparison.differences.values()
    if len(runs) > 1:
        sentences.append(
            f"{len(runs)} entries are compared with the first: one interval of twenty excludes 0 by chance"
        )
    with_interval = max((sum(one.low is not None for one in run.classes.values()) for run in runs), default=0)
    if with_interval > 1:
        sentences.append(f"the classes shown are the extremes of {with_interval}, whose intervals hold simultaneously")
    if any(one.conclusion == "too few images" for run in runs for one in (run.overall, *run.classes.values())):
        sentences.append(f"an interval needs objects on at least {MIN_IMAGES} images")
    return sentences


def sections(comparison: RunComparison, index: DetectionIndex) -> list[tuple[str, Table]]:
    """Build all tables with their titles; tables without rows are left out."""
    first = next(iter(comparison.evaluations))
    parts = [(f"{index.name}, {len(index)} images", main_table(comparison))]
    for name in comparison.differences:
        parts.append((f"classes that differ most: {name} and {first}", class_table(comparison, name, index)))
        parts.append((f"images that differ most: {name} and {first}", image_table(comparison, name, index)))
    return [(title, table) for title, table in parts if table[1]]


def to_page(tables: Sequence[tuple[str, Table]], lines: Sequence[str]) -> str:
    """Format tables with their titles, and notes, as Markdown."""
    parts = [f"## {title}\n\n{to_markdown(*table)}" for title, table in tables]
    return "\n".join([*parts, *(f"{line[0].upper()}{line[1:]}.\n" for line in lines)])


def to_document(comparison: RunComparison, index: DetectionIndex, repeats: int) -> dict[str, Any]:
    """Convert the comparison to plain data, with all classes and images."""
    return {
        "data": index.name,
        "images": len(index),
        "bootstrap": repeats,
        "first": next(iter(comparison.evaluations)),
        "figures": {name: one.to_dict() for name, one in comparison.evaluations.items()},
        "differences": {
            name: {
                **_plain(run.overall),
                "per_class": {label: _plain(one) for label, one in run.classes.items()},
                "images": [
                    {"id": int(index.image_ids[i]), "file": str(index.paths[i]), "adds": float(run.influence[i])}
                    for i in most_influential_images(run, len(index))
                ],
            }
            for name, run in comparison.differences.items()
        },
    }


def pair_table(comparison: SideComparison) -> Table:
    """Build the table with a row per pair of runs: the AP of each side's run."""
    runs = [[f"{name}: {ap:.4f}" for name, ap in side.items()] for side in comparison.aps.values()]
    return ["pair", *comparison.aps], [[number, *row] for number, row in enumerate(zip(*runs), 1)]


def side_table(comparison: SideComparison) -> Table:
    """Build the table with a row per side: mean AP, and its difference from the first over seeds and images."""
    first = next(iter(comparison.aps))
    level = 100 * next(iter(comparison.differences.values())).level
    columns = ["runs", "AP", f"AP - {first}", f"{level:.4g} % from", "to", "deviation over seeds", "error over images"]
    rows: list[list[Any]] = []
    for side, aps in comparison.aps.items():
        one = comparison.differences.get(side)
        cells = [None] * 5 if one is None else [one.value, one.low, one.high, one.seed_deviation, one.image_error]
        rows.append([side, sum(aps.values()) / len(aps), *cells, "baseline" if one is None else one.conclusion])
    return [*columns, "conclusion"], rows


def side_sections(comparison: SideComparison, index: DetectionIndex) -> list[tuple[str, Table]]:
    """Build the tables of a comparison of sides with their titles."""
    return [(f"{index.name}, {len(index)} images", side_table(comparison)), ("AP of each run", pair_table(comparison))]


def side_notes(comparison: SideComparison, effect: float = 0.005) -> list[str]:
    """Return sentences on what the experiment could have detected."""
    sentences = []
    for side, one in comparison.differences.items():
        needed = one.seeds_needed(effect)
        pairs = "these images cannot show it" if needed is None else f"{needed} pairs are needed"
        sentences.append(
            f"{side}: {len(one.pairs)} pairs detect a difference of {one.detectable:.4f} AP in 80 % of repetitions; "
            f"for {effect:g}, {pairs}"
        )
    if len(comparison.differences) > 1:
        count, level = len(comparison.differences), 100 * one.level
        sentences.append(
            f"{count} sides are compared with the first; each interval has {level:.4g} %, so that all hold together "
            "with 95 %"
        )
    return sentences


def side_document(comparison: SideComparison, index: DetectionIndex, repeats: int) -> dict[str, Any]:
    """Convert a comparison of sides to plain data."""
    return {
        "data": index.name,
        "images": len(index),
        "bootstrap": repeats,
        "first": next(iter(comparison.aps)),
        "AP": comparison.aps,
        "differences": {side: one.to_dict() for side, one in comparison.differences.items()},
    }


def _cells(one: PairedDifference) -> list[Any]:
    return [one.value, one.low, one.high, one.conclusion]


def _plain(one: PairedDifference) -> dict[str, Any]:
    return {**one.to_dict("AP"), "images": one.images, "verdict": one.conclusion}
