"""A contest as tables, as plain data, and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cledet.data.index import DetectionIndex
from cledet.evaluation.compare.compare_runs import FEW, Contest, Difference, movers, strongest
from cledet.metrics.tables import SIZES, Table, to_markdown


def main_table(found: Contest) -> Table:
    """A row an entry: its figures, and what AP is over that of the first."""
    first = next(iter(found.figures))
    columns = ["detections", *SIZES, f"AP - {first}", "95 % from", "to", "which is"]
    rows: list[list[Any]] = []
    for name, one in found.figures.items():
        difference = found.against[name].whole if name in found.against else None
        end = [None, None, None, "the first"] if difference is None else _cells(difference)
        rows.append([name, *(one.metrics[figure] for figure in SIZES), *end])
    return columns, rows


def movers_table(found: Contest, name: str, index: DetectionIndex) -> Table:
    """The classes on which an entry differs most from the first."""
    first, objects = next(iter(found.figures)), index.class_counts()
    columns = ["class", "images", "objects", first, name, "difference", "95 % from", "to", "which is"]
    rows = []
    for label, one in movers(found.against[name]).items():
        aps = [found.figures[side].per_class[label]["AP"] for side in (first, name)]
        rows.append([label, one.images, objects[label], *aps, *_cells(one)])
    return columns, rows


def images_table(found: Contest, name: str, index: DetectionIndex) -> Table:
    """The images on which an entry differs most from the first."""
    first, against = next(iter(found.figures)), found.against[name]
    columns = ["image", "id", "adds to the difference", "for"]
    rows = []
    for i in strongest(against):
        added = float(against.influence[i])
        rows.append([Path(str(index.paths[i])).name, int(index.image_ids[i]), added, name if added > 0 else first])
    return columns, rows


def notes(found: Contest) -> list[str]:
    """What to know to read the figures."""
    said = []
    if len(found.against) > 1:
        several = f"{len(found.against)} entries are compared with the first"
        said.append(f"{several}: of twenty such intervals one leaves out 0 by chance")
    judged = max((sum(c.low is not None for c in one.classes.values()) for one in found.against.values()), default=0)
    if judged > 1:
        said.append(f"the classes shown are the extremes of {judged}, whose intervals hold all at once")
    if any(one.verdict == "too few images" for a in found.against.values() for one in (a.whole, *a.classes.values())):
        said.append(f"an interval needs objects on {FEW} images or more")
    return said


def sections(found: Contest, index: DetectionIndex) -> list[tuple[str, Table]]:
    """All tables with their titles; one without rows is left out."""
    first = next(iter(found.figures))
    parts = [(f"{index.name}, {len(index)} images", main_table(found))]
    for name in found.against:
        parts.append((f"classes that differ most: {name} and {first}", movers_table(found, name, index)))
        parts.append((f"images that differ most: {name} and {first}", images_table(found, name, index)))
    return [(title, table) for title, table in parts if table[1]]


def to_page(found: Contest, index: DetectionIndex) -> str:
    """The whole as Markdown."""
    parts = [f"## {title}\n\n{to_markdown(*table)}" for title, table in sections(found, index)]
    return "\n".join([*parts, *(f"{note[0].upper()}{note[1:]}.\n" for note in notes(found))])


def to_document(found: Contest, index: DetectionIndex, repeats: int) -> dict[str, Any]:
    """The whole as plain data; classes and images in full."""
    return {
        "data": index.name,
        "images": len(index),
        "bootstrap": repeats,
        "first": next(iter(found.figures)),
        "figures": {name: one.to_dict() for name, one in found.figures.items()},
        "differences": {
            name: {
                **_plain(one.whole),
                "per_class": {label: _plain(moved) for label, moved in one.classes.items()},
                "images": [
                    {"id": int(index.image_ids[i]), "file": str(index.paths[i]), "adds": float(one.influence[i])}
                    for i in strongest(one, len(index))
                ],
            }
            for name, one in found.against.items()
        },
    }


def _cells(one: Difference) -> list[Any]:
    return [one.ap, one.low, one.high, one.verdict]


def _plain(one: Difference) -> dict[str, Any]:
    return {"AP": one.ap, "low": one.low, "high": one.high, "images": one.images, "verdict": one.verdict}
