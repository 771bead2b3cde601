"""Reproduction of the paper's tables: jobs with their commands and estimated cost, and the filled table."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cledet.config.loading import read_notes, recipes, resolve
from cledet.config.recipe import FIGURES, PaperRow
from cledet.config.train import GridSettings, TrainSettings
from cledet.config.types import EVERY, NMSName, ablation_name
from cledet.data.download.archives import SHIPPED, open_set
from cledet.errors import UserError, nearest
from cledet.metrics.metric_tables import Table
from cledet.models.flops import costs
from cledet.training.ablation import in_points, run_name, spread_of
from cledet.training.init_model import build_architecture

GIVEN_TO_VAL = ("conf", "iou", "max_det", "localization", "cl_norm", "cl_score", "workers")
"""Training settings that are passed to `cledet val` if a recipe or a flag sets them."""


@dataclass(frozen=True)
class Entry:
    """Recipe of a table and the rows that its runs fill."""

    recipe: str
    paper: tuple[PaperRow, ...]
    settings: GridSettings

    @property
    def nms(self) -> tuple[NMSName, ...]:
        """NMS methods of its rows; empty for a single row with the recipe's own method."""
        return tuple(row.nms for row in self.paper if row.nms is not None)


@dataclass(frozen=True)
class Job:
    """Recipes that differ only in components, trained together by one call of `cledet train`."""

    name: str
    entries: tuple[Entry, ...]
    settings: GridSettings
    given: Mapping[str, str]
    """Settings passed by the user."""

    @property
    def trainings(self) -> int:
        """Number of runs that are trained: CL-B does not affect training, so a row that only adds it copies weights."""
        trained = {tuple(name for name in subset if name != "clb") for subset in self.settings.ablation}
        return len(trained) * self.settings.seeds

    def train_command(self) -> list[str]:
        """Return the words of the `cledet train` command."""
        settings = self.settings
        ablation = ["--ablation", ";".join(map(ablation_name, settings.ablation))] if len(self.entries) > 1 else []
        where = ["--project", str(settings.project), "--name", self.name]
        return ["cledet", "train", "--recipe", self.entries[0].recipe, *ablation, *flags(self.given), *where]

    def val_commands(self) -> list[list[str]]:
        """Return the words of the `cledet val` commands for the runs of each recipe."""
        folder = self.settings.project / "train" / self.name
        return [
            ["cledet", "val", *flags(val_flags(entry, run, self.run_in(folder, run), name))]
            for entry in self.entries
            for run, name in runs_of(entry)
        ]

    def run_in(self, folder: Path, run: TrainSettings) -> Path:
        """Return the folder of a run within the job's folder; a grid has one folder per run."""
        return folder if len(self.settings.runs()) == 1 else folder / run_name(run)


def jobs_of(table: str, given: Mapping[str, str], project: Path, data: str | None = None) -> list[Job]:
    """List the jobs of a table in its order; settings of the user override those of the recipes.

    `data` selects the recipes of one data set. Raises UserError for settings that a table's recipes do not take.
    """
    _refuse_reserved(table, given)
    number = int(table.removeprefix("table"))
    named = {name: read_notes(path).paper for name, path in recipes().items()}
    chosen = {name: rows for name, rows in named.items() if any(row.table == number for row in rows)}
    sets = {name: str(resolve(TrainSettings, recipe=name, environ={}).data) for name in chosen}
    if data is not None and data not in sets.values():
        hint = nearest(data, sorted(set(sets.values())))
        raise UserError(f"{table} has no recipes of {data!r}", f"{hint}; for data of yours add --set data={data}")
    entries = [
        Entry(name, rows, resolve(GridSettings, {**given, "project": project / "reproduce" / table}, recipe=name))
        for name, rows in chosen.items()
        if data in (None, sets[name])
    ]
    return [_job(name, group, given) for name, group in _groups(entries).items()]


def _refuse_reserved(table: str, given: Mapping[str, str]) -> None:
    for key in ("project", "name", "nnodes", "node_rank"):
        if key in given:
            raise UserError(f"--set {key} is not for reproduce", "run the commands that --dry-run shows")
    if "ablation" in given and table == "table2":
        raise UserError("--set ablation is not for table2, whose rows are ablations", "leave it out")


def _groups(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Group recipes whose names differ only in components, in table order, by the common part of the names."""
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.paper[0].row):
        components = "-".join(entry.settings.ablation[0]) or "none"
        groups.setdefault(entry.recipe.removesuffix(f"-{components}"), []).append(entry)
    return groups


def _job(name: str, entries: Sequence[Entry], given: Mapping[str, str]) -> Job:
    ablation = tuple(subset for subset in EVERY if any(subset in entry.settings.ablation for entry in entries))
    return Job(name, tuple(entries), entries[0].settings.model_copy(update={"ablation": ablation, "name": name}), given)


def runs_of(entry: Entry) -> list[tuple[TrainSettings, str]]:
    """List the runs of a recipe, one per seed, each with the name of its validation."""
    runs = entry.settings.runs()
    return [(run, entry.recipe if len(runs) == 1 else f"{entry.recipe}-seed{run.seed}") for run in runs]


def val_flags(entry: Entry, run: TrainSettings, folder: Path, name: str) -> dict[str, str]:
    """Return the flags of `cledet val` that evaluate a run as its recipe specifies."""
    settings = entry.settings
    passed = [key for key in GIVEN_TO_VAL if settings.origins[key] != "default"]
    given = {"weights": str(folder)} | {key: str(getattr(settings, key)) for key in passed}
    nms = ",".join(entry.nms) or settings.nms
    given |= {"nms": nms} if nms != "auto" else {}
    given |= {"split": run.val_split} if run.val_split != "val" else {}
    given |= {"device": run.device} if "," not in run.device and run.device != "auto" else {}
    return given | {"report": "false", "project": str(settings.project), "name": name}


def flags(settings: Mapping[str, str]) -> list[str]:
    """Convert settings to words of a command line."""
    return [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", value)]


def estimate(job: Job, gpu_tflops: float, utilization: float) -> dict[str, Any]:
    """Estimate multiply-adds per image, images of all runs, GPU hours, and bytes of checkpoints.

    `docs/recipes.md` lists the assumptions.
    """
    settings = job.settings
    if settings.iters is None:
        raise UserError(f"{job.entries[0].recipe} does not set --iters", "add --set iters=N")
    low, high = settings.multi_scale
    short = ((low**2 + low * high + high**2) / 3) ** 0.5 or settings.imgsz  # root mean square of a uniform side
    arch = build_architecture(settings.runs()[0], 20 if settings.data == "voc" else 80, None)
    one = costs(arch, (round(short), round(short * 4 / 3)))
    images = job.trainings * settings.iters * max(settings.batch, 1)
    copies = (1 + 2 * 2) if settings.ema == 0 else (1 + 2 * 3)  # best.pt; last.pt with momentum, and the one before
    twins = len(settings.runs()) - job.trainings
    return {
        "name": job.name,
        "recipes": [entry.recipe for entry in job.entries],
        "trainings": job.trainings,
        "multiply_adds": one.multiply_adds,
        "images": images,
        "gpu_hours": images * one.multiply_adds * 2 * 3 / (gpu_tflops * 1e12 * utilization) / 3600,
        "checkpoint_bytes": 4 * one.parameters * (copies * job.trainings + twins),
    }


def data_bytes(jobs: Iterable[Job]) -> dict[str, int]:
    """Return the size of the archives of each downloadable data set of the jobs."""
    named = {job.settings.data for job in jobs} & set(SHIPPED)
    return {name: sum(archive.bytes for archive in open_set(name).archives) for name in sorted(named)}


def to_document(table: str, jobs: Sequence[Job], gpu_tflops: float, utilization: float) -> dict[str, Any]:
    """Convert the plan to plain data for JSON."""
    costed = [estimate(job, gpu_tflops, utilization) for job in jobs]
    return {
        "table": table,
        "commands": [shlex.join(words) for job in jobs for words in (job.train_command(), *job.val_commands())],
        "jobs": costed,
        "gpu_hours": sum(one["gpu_hours"] for one in costed),
        "checkpoint_bytes": sum(one["checkpoint_bytes"] for one in costed),
        "data_bytes": data_bytes(jobs),
        "gpu_tflops": gpu_tflops,
        "utilization": utilization,
    }


Measured = Mapping[str, Sequence[Mapping[str, float | None]]]
"""NMS method -> metrics per seed."""


class Line(NamedTuple):
    """Row of the table: the paper's metrics and the measured ones, one value per seed, as fractions."""

    recipe: str
    data: str
    paper: PaperRow
    ours: Mapping[str, Sequence[float | None]]

    def to_dict(self) -> dict[str, Any]:
        """Return mean, standard deviation and values per metric."""
        ours = {name: spread_of(values) for name, values in self.ours.items()}
        own = self.paper.model_dump(exclude_none=True)
        return {"recipe": self.recipe, "data": self.data, "paper": own, "ours": ours}


def lines(jobs: Sequence[Job], measured: Mapping[str, Measured]) -> list[Line]:
    """Build the rows of all jobs; `measured` holds the metrics of finished recipes."""
    rows = []
    for entry in (entry for job in jobs for entry in job.entries):
        for row in entry.paper:
            per_seed = measured.get(entry.recipe, {}).get(row.nms or "", ())
            ours = {name: [metrics.get(name) for metrics in per_seed] for name in row.figures}
            rows.append(Line(entry.recipe, entry.settings.data, row, ours))
    return rows


def side_by_side(rows: Sequence[Line]) -> Table:
    """Format the paper's and the measured metrics in percentage points; "-" marks a missing value."""
    names = [name for name in FIGURES if any(name in line.ours for line in rows)]
    with_nms = any(line.paper.nms for line in rows)
    body: list[list[Any]] = []
    for line in rows:
        pairs = [([line.paper.figures.get(name)], line.ours.get(name, ())) for name in names]
        cells = [in_points(values) for pair in pairs for values in pair]
        body.append([line.recipe, *[line.paper.nms or "-"] * with_nms, *cells, line.paper.split, line.data])
    columns = [column for name in names for column in (f"{name} paper", "ours")]
    return ["recipe", *["NMS"] * with_nms, *columns, "paper's split", "our data"], body
