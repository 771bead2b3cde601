"""The paper's table beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cledet.config.recipe import PaperRow
from cledet.metrics.metric_tables import Table
from cledet.training.ablation import spread_of
from cledet.training.reproduce_jobs import Job

Measured = Mapping[str, Sequence[Mapping[str, float | None]]]
"""NMS method -> figures, seed by seed."""


@dataclass(frozen=True)
class Line:
    """A row of the table: the paper's figures and ours, fractions; ours have a value a seed."""

    recipe: str
    data: str
    paper: PaperRow
    ours: Mapping[str, Sequence[float | None]]
    seed: int = 0
    """That of the first value."""

    def to_dict(self) -> dict[str, Any]:
        """Mean, standard deviation and values by figure."""
        ours = {name: spread_of(values) | {"values": list(values)} for name, values in self.ours.items()}
        own = self.paper.model_dump(exclude_none=True)
        return {"recipe": self.recipe, "data": self.data, "paper": own, "ours": ours}


def lines(jobs: Sequence[Job], measured: Mapping[str, Measured]) -> list[Line]:
    """The rows of all jobs, with the figures of those that were measured, by recipe."""
    found = []
    for entry in (entry for job in jobs for entry in job.entries):
        by_nms = measured.get(entry.recipe, {})
        for row in entry.paper:
            figures = by_nms.get(row.nms or "", ())
            ours = {name: [one.get(name) for one in figures] for name in row.figures}
            found.append(Line(entry.recipe, entry.settings.data, row, ours, entry.settings.seed))
    return found


def side_by_side(found: Sequence[Line]) -> Table:
    """The paper's figures and ours in points, as the paper prints them; "-" is not measured, or not in the paper."""
    names = [
        name for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "VOC07") if any(name in x.ours for x in found)
    ]
    with_nms = any(line.paper.nms for line in found)
    body: list[list[Any]] = []
    for line in found:
        nms = [line.paper.nms or "-"] if with_nms else []
        pairs = [cell for name in names for cell in (_points(line.paper.figures.get(name)), _ours(line, name))]
        body.append([line.recipe, *nms, *pairs, line.paper.split, line.data])
    columns = [column for name in names for column in (f"{name} paper", "ours")]
    return ["recipe", *["NMS"] * with_nms, *columns, "paper's split", "our data"], body


def figures_table(found: Sequence[Line]) -> Table:
    """A row a recipe, figure and seed, fractions unrounded."""
    body: list[list[Any]] = [
        [line.recipe, line.paper.nms or "", name, line.paper.figures[name], seed, value]
        for line in found
        for name, values in line.ours.items()
        for seed, value in enumerate(values, line.seed)
    ]
    return ["recipe", "nms", "figure", "paper", "seed", "ours"], body


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _ours(line: Line, name: str) -> str:
    spread = spread_of(line.ours.get(name, ()))
    if spread["mean"] is None:
        return "-"
    return _points(spread["mean"]) + ("" if spread["std"] is None else f" ± {100 * spread['std']:.1f}")
