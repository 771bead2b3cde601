"""Jobs that reproduce a table of the paper: recipes, commands and estimated cost."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cledet.config.evaluate import ValSettings
from cledet.config.loading import read_notes, recipes, resolve
from cledet.config.recipe import PaperRow
from cledet.config.train import GridSettings, TrainSettings
from cledet.config.types import EVERY, NMSName, ablation_name
from cledet.data.download.archives import SHIPPED, open_set
from cledet.errors import UserError, nearest
from cledet.models.flops import costs
from cledet.training.ablation import run_name
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
        return [
            ["cledet", "val", *flags(val_flags(entry, run, self.folder(run), name))]
            for entry in self.entries
            for run, name in runs_of(entry)
        ]

    def folder(self, run: TrainSettings) -> Path:
        """Return the folder of a run if the job's folder is the first of its name."""
        return self.run_in(self.settings.project / "train" / self.name, run)

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
    subsets = {subset for entry in entries for subset in entry.settings.ablation}
    ablation = tuple(subset for subset in EVERY if subset in subsets)
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


def val_settings(entry: Entry, run: TrainSettings, folder: Path, name: str) -> ValSettings:
    """Resolve the flags of `val_flags` to settings."""
    return resolve(ValSettings, val_flags(entry, run, folder, name))


def flags(settings: Mapping[str, str]) -> list[str]:
    """Convert settings to words of a command line."""
    return [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", value)]


def commands(jobs: Iterable[Job]) -> list[str]:
    """Quote all commands for a shell."""
    return [shlex.join(words) for job in jobs for words in (job.train_command(), *job.val_commands())]


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a job."""

    multiply_adds: int
    """Forward pass of one image."""
    images: int
    """Training images over all runs, repetitions included."""
    gpu_hours: float
    checkpoints: int
    """Size in bytes."""


def estimate(job: Job, gpu_tflops: float, utilization: float) -> Estimate:
    """Estimate GPU hours and the size of checkpoints; `docs/recipes.md` lists the assumptions."""
    settings = job.settings
    if settings.iters is None:
        raise UserError(f"{job.entries[0].recipe} does not set --iters", "add --set iters=N")
    short = _mean_side(settings.multi_scale) or settings.imgsz
    arch = build_architecture(settings.runs()[0], CLASSES.get(settings.data, 80), None)
    one = costs(arch, (round(short), round(short * 4 / 3)))
    images = job.trainings * settings.iters * max(settings.batch, 1)
    operations = images * one.multiply_adds * 2 * 3
    copies = (1 + 2 * 2) if settings.ema == 0 else (1 + 2 * 3)  # best.pt; last.pt with momentum, and the one before
    twins = len(settings.runs()) - job.trainings
    size = 4 * one.parameters * (copies * job.trainings + twins)
    return Estimate(one.multiply_adds, images, operations / (gpu_tflops * 1e12 * utilization) / 3600, size)


CLASSES = {"coco": 80, "voc": 20}


def _mean_side(sides: tuple[int, int]) -> float:
    """Return the root mean square of a side drawn uniformly from the range."""
    low, high = sides
    return float(((low**2 + low * high + high**2) / 3) ** 0.5)


def data_bytes(jobs: Iterable[Job]) -> dict[str, int]:
    """Return the size of the archives of each downloadable data set of the jobs."""
    named = {job.settings.data for job in jobs} & set(SHIPPED)
    return {name: sum(archive.bytes for archive in open_set(name).archives) for name in sorted(named)}


def to_document(table: str, jobs: Sequence[Job], gpu_tflops: float, utilization: float) -> dict[str, Any]:
    """Convert the plan to plain data for JSON."""
    costed = [(job, estimate(job, gpu_tflops, utilization)) for job in jobs]
    return {
        "table": table,
        "commands": commands(jobs),
        "jobs": [
            {
                "name": job.name,
                "recipes": [entry.recipe for entry in job.entries],
                "trainings": job.trainings,
                "multiply_adds": one.multiply_adds,
                "images": one.images,
                "gpu_hours": one.gpu_hours,
                "checkpoint_bytes": one.checkpoints,
            }
            for job, one in costed
        ],
        "gpu_hours": sum(one.gpu_hours for _, one in costed),
        "checkpoint_bytes": sum(one.checkpoints for _, one in costed),
        "data_bytes": data_bytes(jobs),
        "gpu_tflops": gpu_tflops,
        "utilization": utilization,
    }
