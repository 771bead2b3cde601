"""The doctor's report as tables: for the terminal, and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from cledet.console import Bar
from cledet.data_check.check import Report
from cledet.data_check.findings import Example
from cledet.data_check.statistics import RATIOS, SIDES, SplitStatistics

SHOWN_CLASSES = 24
"""A table of more classes than these shows the largest and the smallest."""


class Table(NamedTuple):
    """A title, column names, and rows."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


def tables(report: Report, whole: bool = False) -> list[Table]:
    """Splits, classes (all of them if `whole`), sizes, shapes and anchors; those without content left out."""
    splits = [split for split in report.splits if not split.parts]
    if not splits:
        return []
    found = [_splits(report), _classes(splits, whole)]
    if any(sum(split.sizes) for split in splits):
        found += [_sizes(splits, report.imgsz), _sides(splits, report.imgsz), _ratios(splits), _anchors(report)]
    return found


def example_line(example: Example) -> str:
    """An example in one line: the image's path, relative where it lies under the current folder, and the text."""
    if example.picture is None:
        return example.text
    path, here = Path(example.picture.path), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}: {example.text}" if example.text else str(shown)


def percent(part: float, whole: float = 1.0) -> str:
    """A share as text; a dash of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _splits(report: Report) -> Table:
    columns = ["split", "images", "image size", "boxes", "an image", "most", "ignored", "empty"]
    rows = [
        [
            split.name, split.images, _image_size(split), split.boxes, f"{split.boxes_per_image[0]:g}",
            split.boxes_per_image[1], split.ignored, split.empty,
        ]
        for split in report.splits
    ]  # fmt: skip
    together = [f"{split.name} is {' and '.join(split.parts)} together" for split in report.splits if split.parts]
    return Table(": ".join([report.name, *together]), columns, rows)


def _image_size(split: SplitStatistics) -> str:
    """The size that all images have, or most of them."""
    if split.image_size is None:
        return "-"
    width, height = split.image_size
    return f"{'' if split.image_size_count == split.images else '~'}{width}x{height}"


def _classes(splits: Sequence[SplitStatistics], whole: bool) -> Table:
    """Classes by their boxes, the largest first: all with bars, or of many the largest and the smallest."""
    total = {name: sum(s.classes.get(name, 0) for s in splits) for s in splits for name in s.classes}
    names = sorted(total, key=lambda name: -total[name])
    sums = [sum(split.classes.values()) for split in splits]
    rows: list[list[Any]] = []
    for name in names:
        counts = [split.classes.get(name, 0) for split in splits]
        rows.append([name, *(cell for n, of in zip(counts, sums) for cell in (n, percent(n, of)))])
    columns = ["class", *(cell for split in splits for cell in (split.name, "share"))]
    if whole:
        columns, rows = (
            [*columns, ""],
            [[*row, Bar(total[name] / max(total[names[0]], 1))] for row, name in zip(rows, names)],
        )
    elif len(rows) > SHOWN_CLASSES:
        half = SHOWN_CLASSES // 2
        between = [f"... {len(rows) - 2 * half} more", *[None] * 2 * len(splits)]
        rows = [*rows[:half], between, *rows[-half:]]
    return Table(_imbalance(names, total), columns, rows)


def _imbalance(names: Sequence[str], total: Mapping[str, int]) -> str:
    """How many classes there are, and how unequal: the largest's boxes over the smallest's that has any."""
    used = [name for name in names if total[name]]
    title = "1 class" if len(names) == 1 else f"{len(names)} classes"
    if len(used) < 2:
        return title
    ratio = total[used[0]] / total[used[-1]]
    times = f"{ratio:,.{0 if ratio >= 100 else 1}f}".removesuffix(".0")
    return f"{title}: {used[0]} has {times} times the boxes of {used[-1]}"


def _sizes(splits: Sequence[SplitStatistics], imgsz: int) -> Table:
    columns = ["COCO's sizes", "small < 32x32", "medium", "large >= 96x96"]
    both = (
        ("as annotated", _sum(s.sizes for s in splits)),
        (f"at --imgsz {imgsz}", _sum(s.sizes_resized for s in splits)),
    )
    return Table("", columns, [[name, *(percent(n, sum(counts)) for n in counts)] for name, counts in both])


def _sides(splits: Sequence[SplitStatistics], imgsz: int) -> Table:
    """Only the rows between the smallest and the largest object."""
    counts, resized = _sum(s.sides for s in splits), _sum(s.sides_resized for s in splits)
    used = [i for i, n in enumerate(counts) if n or resized[i]]
    rows = [
        [name, percent(n, sum(counts)), Bar(n / max(counts)), percent(m, sum(resized)), Bar(m / max(resized))]
        for name, n, m in zip(_ranges(SIDES), counts, resized)
    ]
    columns = ["side in pixels", "annotated", "", f"at --imgsz {imgsz}", ""]
    return Table("sizes of objects: the square root of width x height", columns, rows[used[0] : used[-1] + 1])


def _ratios(splits: Sequence[SplitStatistics]) -> Table:
    counts = _sum(s.ratios for s in splits)
    names = ["under 1/4", "1/4 to 1/2", "1/2 to 1", "1 to 2", "2 to 4", "4 and over"]
    assert len(names) == len(RATIOS) + 1
    rows = [[name, percent(n, sum(counts)), Bar(n / max(counts))] for name, n in zip(names, counts)]
    return Table("", ["width / height", "objects", ""], rows)


def _anchors(report: Report) -> Table:
    columns = ["split", "IoU >= 0.5", "small", "medium", "large", "IoU >= 0.4"]
    rows = [
        [name, *("-" if share is None else percent(share) for share in one[1:])] for name, one in report.anchors.items()
    ]
    title = f"objects that an anchor reaches at --imgsz {report.imgsz} --anchor-scale {report.anchor_scale:g}"
    return Table(title, columns, rows)


def _ranges(bounds: Sequence[int]) -> list[str]:
    between = [f"{low} to {high}" for low, high in pairwise(bounds)]
    return [f"under {bounds[0]}", *between, f"{bounds[-1]} and over"]


def _sum(histograms: Any) -> list[int]:
    return [sum(counts) for counts in zip(*histograms)]
