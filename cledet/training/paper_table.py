"""Tables that compare the paper's metrics with measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cledet.config.recipe import PaperRow
from cledet.metrics.tables import Table
from cledet.training.ablation import spread_of
from cledet.training.reproduce_jobs import Job

Measured = Mapping[str, Sequence[Mapping[str, float | None]]]
"""NMS method -> metrics per seed."""


@dataclass(frozen=True)
class Line:
    """Row of the table: the paper's metrics and the measured ones, one value per seed, as fractions."""

    recipe: str
    data: str
    paper: PaperRow
    ours: Mapping[str, Sequence[float | None]]
    seed: int = 0
    """Seed of the first value."""

    def to_dict(self) -> dict[str, Any]:
        """Return mean, standard deviation and values per metric."""
        ours = {name: spread_of(values) | {"values": list(values)} for name, values in self.ours.items()}
        own = self.paper.model_dump(exclude_none=True)
        return {"recipe": self.recipe, "data": self.data, "paper": own, "ours": ours}


def lines(jobs: Sequence[Job], measured: Mapping[str, Measured]) -> list[Line]:
    """Build the rows of all jobs; `measured` holds the metrics of finished recipes."""
    rows = []
    for entry in (entry for job in jobs for entry in job.entries):
        by_nms = measured.get(entry.recipe, {})
        for row in entry.paper:
            per_seed = by_nms.get(row.nms or "", ())
            ours = {name: [metrics.get(name) for metrics in per_seed] for name in row.figures}
            rows.append(Line(entry.recipe, entry.settings.data, row, ours, entry.settings.seed))
    return rows


def side_by_side(rows: Sequence[Line]) -> Table:
    """Format the paper's and the measured metrics in percentage points; "-" marks a missing value."""
    names = [name for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "VOC07") if any(name in x.ours for x in rows)]
    with_nms = any(line.paper.nms for line in rows)
    body: list[list[Any]] = []
    for line in rows:
        nms = [line.paper.nms or "-"] if with_nms else []
        pairs = [cell for name in names for cell in (_points(line.paper.figures.get(name)), _ours(line, name))]
        body.append([line.recipe, *nms, *pairs, line.paper.split, line.data])
    columns = [column for name in names for column in (f"{name} paper", "ours")]
    return ["recipe", *["NMS"] * with_nms, *columns, "paper's split", "our data"], body


def figures_table(rows: Sequence[Line]) -> Table:
    """List one row per recipe, metric and seed with unrounded fractions."""
    body: list[list[Any]] = [
        [line.recipe, line.paper.nms or "", name, line.paper.figures[name], seed, value]
        for line in rows
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
