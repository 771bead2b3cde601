"""Tables of a dataset check's report, for the terminal and the HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from cledet.console import Bar
from cledet.data_check.anchor_coverage import AnchorSettings
from cledet.data_check.check import Report
from cledet.data_check.findings import Example
from cledet.data_check.statistics import SIDES

SHOWN_CLASSES = 24
"""Maximum number of classes in a table; of more, the largest and smallest are shown."""


Statistics = dict[str, Any]
"""The statistics of a split, see `describe_split`."""


class Table(NamedTuple):
    """A title, column names and rows."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


def tables(report: Report, complete: bool = False) -> list[Table]:
    """Return tables of splits, classes (all if `complete`), sizes, shapes and anchors, without empty ones."""
    splits = [split for split in report.splits if not split["parts"]]
    if not splits:
        return []
    all_tables = [_splits(report), _classes(splits, complete)]
    if any(sum(split["ratios"]["annotated"]) for split in splits):
        all_tables += [_sizes(splits, report.imgsz), _sides(splits, report.imgsz), _ratios(splits), _anchors(report)]
    return all_tables


def example_line(example: Example) -> str:
    """Format an example in one line: the image's path, relative to the current folder if inside, and the text."""
    if example.picture is None:
        return example.text
    path, folder = Path(example.picture.path), Path.cwd()
    path = path.relative_to(folder) if path.is_relative_to(folder) else path
    return f"{path}: {example.text}" if example.text else str(path)


def percent(part: float, total: float = 1.0) -> str:
    """Format a share as a percentage; a dash if the total is 0."""
    return f"{100 * part / total:.1f} %" if total else "-"


def _splits(report: Report) -> Table:
    columns = ["split", "images", "image size", "boxes", "per image", "most", "ignored", "empty"]
    rows = []
    for split in report.splits:
        median, most = split["boxes_per_image"].values()
        size = "x".join(map(str, split["image_size"] or "-"))
        size = size if split["image_size_count"] in (0, split["images"]) else f"~{size}"  # "~": the most frequent one
        start = [split["name"], split["images"], size, split["boxes"]]
        rows.append([*start, f"{median:g}", most, split["ignored"], split["empty"]])
    unions = [split for split in report.splits if split["parts"]]
    together = [f"{split['name']} is {' and '.join(split['parts'])} together" for split in unions]
    return Table(": ".join([report.name, *together]), columns, rows)


def _classes(splits: Sequence[Statistics], complete: bool) -> Table:
    """Return the classes by number of boxes: all with bars if `complete`, else at most SHOWN_CLASSES."""
    total = {name: sum(s["classes"].get(name, 0) for s in splits) for s in splits for name in s["classes"]}
    names = sorted(total, key=lambda name: -total[name])
    sums = [sum(split["classes"].values()) for split in splits]
    rows: list[list[Any]] = []
    for name in names:
        counts = [split["classes"].get(name, 0) for split in splits]
        rows.append([name, *(cell for n, of in zip(counts, sums) for cell in (n, percent(n, of)))])
    title = "1 class" if len(names) == 1 else f"{len(names)} classes"
    columns = ["class", *(cell for split in splits for cell in (split["name"], "share"))]
    if complete:
        columns.append("")
        rows = [[*row, Bar(total[name] / max(total[names[0]], 1))] for row, name in zip(rows, names)]
    elif len(rows) > SHOWN_CLASSES:
        half = SHOWN_CLASSES // 2
        omitted = [f"... {len(rows) - 2 * half} more", *[None] * 2 * len(splits)]
        rows = [*rows[:half], omitted, *rows[-half:]]
        title += ", the largest and the smallest: --html and --json show all"
    return Table(title, columns, rows)


def _sizes(splits: Sequence[Statistics], imgsz: int) -> Table:
    columns = ["COCO's sizes", "small < 32x32", "medium", "large >= 96x96"]
    rows = []
    for name, key in (("as annotated", "annotated"), (f"at --imgsz {imgsz}", "resized")):
        counts = _sum(split["sizes"][key].values() for split in splits)
        rows.append([name, *(percent(n, sum(counts)) for n in counts)])
    return Table("", columns, rows)


def _sides(splits: Sequence[Statistics], imgsz: int) -> Table:
    """Return the histogram of sides from the smallest to the largest object."""
    counts, resized = (_sum(split["sides"][key] for split in splits) for key in ("annotated", "resized"))
    used = [i for i, n in enumerate(counts) if n or resized[i]]
    names = [f"under {SIDES[0]}", *(f"{low} to {high}" for low, high in pairwise(SIDES)), f"{SIDES[-1]} and over"]
    rows = [
        [name, percent(n, sum(counts)), Bar(n / max(counts)), percent(m, sum(resized)), Bar(m / max(resized))]
        for name, n, m in zip(names, counts, resized)
    ]
    columns = ["side in pixels", "annotated", "", f"at --imgsz {imgsz}", ""]
    return Table("sizes of objects: the square root of width x height", columns, rows[used[0] : used[-1] + 1])


def _ratios(splits: Sequence[Statistics]) -> Table:
    counts = _sum(split["ratios"]["annotated"] for split in splits)
    names = ["under 1/4", "1/4 to 1/2", "1/2 to 1", "1 to 2", "2 to 4", "4 and over"]  # of RATIOS
    rows = [[name, percent(n, sum(counts)), Bar(n / max(counts))] for name, n in zip(names, counts, strict=True)]
    return Table("", ["width / height", "objects", ""], rows)


def _anchors(report: Report) -> Table:
    columns = ["split", "IoU >= 0.5", "small", "medium", "large", "IoU >= 0.4"]
    rows = [
        [name, *("-" if share is None else percent(share) for share in coverage[1:])]
        for name, coverage in report.anchors.items()
    ]
    used = AnchorSettings(report.imgsz, report.anchor_scale, report.anchor_ratios, 0.0)
    return Table(f"objects that an anchor covers at {used.flags()}", columns, rows)


def _sum(histograms: Any) -> list[int]:
    return [sum(counts) for counts in zip(*histograms)]
