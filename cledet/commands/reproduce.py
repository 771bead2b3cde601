"""Fills one of the paper's tables: trains what is not trained, judges what is not judged, writes the table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cledet.commands.run_folders import val_to_folder
from cledet.config.loading import reopen
from cledet.config.train import GridSettings, TrainSettings
from cledet.config.types import AUTO
from cledet.console import say
from cledet.detector import Detector
from cledet.distributed.environment import in_group
from cledet.errors import Interrupted, UserError, interruption
from cledet.io.atomic import is_there, write_json, write_whole
from cledet.io.run_folders import from_anywhere
from cledet.metrics.tables import to_csv, to_markdown
from cledet.training import run as training_run
from cledet.training.ablation import GRID
from cledet.training.paper_table import Line, figures_table, lines, side_by_side
from cledet.training.reproduce_jobs import Entry, Job, runs_of, val_settings

FREE = (*training_run.HOW, "project", "name")
"""Settings in which a run that is gone on with may differ from the one that was begun."""


def reproduce(table: str, jobs: Sequence[Job]) -> tuple[Path, list[Line]]:
    """Train and judge all jobs, or go on where an earlier call stopped; returns the table's folder and its rows.

    The table is written anew after each validation, as TABLE.md, .csv and .json.
    """
    if in_group():
        raise UserError("reproduce starts its processes itself", "under torchrun or srun use --dry-run's commands")
    try:
        return jobs[0].settings.project, _fill(table, jobs)
    except (Interrupted, KeyboardInterrupt) as error:
        stopped = interruption(error) if isinstance(error, KeyboardInterrupt) else error
        say(f"what is trained and judged is kept: the same command goes on with {table}")
        raise Interrupted(stopped.signal_number) from None


def _fill(table: str, jobs: Sequence[Job]) -> list[Line]:
    measured: dict[str, dict[str, list[dict[str, float | None]]]] = {}
    rows = lines(jobs, measured)
    for job in jobs:
        trained = _train(job)
        for entry in job.entries:
            measured[entry.recipe] = {}
            for run, name in runs_of(entry):
                for method, figures in _judge(entry, run, job.run_in(trained, run), name).items():
                    measured[entry.recipe].setdefault(method, []).append(figures)
                rows = lines(jobs, measured)
                _write(jobs[0].settings.project, table, rows)
    return rows


def _train(job: Job) -> Path:
    """The job's folder, in which everything is trained."""
    begun = _begun(job)
    if begun is None:
        return training_run.train(job.settings)
    _refuse_other(job, begun)
    changes = {key: getattr(job.settings, key) for key in training_run.HOW if key in job.given}
    return training_run.resume(begun, changes)


def _begun(job: Job) -> Path | None:
    """The folder of the job's name in which something is to go on with, the last if there are several."""
    found = [
        folder
        for folder in _folders(job.settings.project / "train", job.name)
        if (folder / GRID).is_file() or is_there(folder / training_run.LAST)
    ]
    return found[-1] if found else None


def _folders(where: Path, name: str) -> list[Path]:
    """The folders of that name, and those with -2, -3 ... behind it, in this order."""
    pattern = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    found = [(match, folder) for folder in where.glob("*") if (match := pattern.fullmatch(folder.name))]
    return [folder for match, folder in sorted(found, key=lambda pair: int(pair[0][1] or 1))]


def _refuse_other(job: Job, folder: Path) -> None:
    """Raise UserError if what was begun there has other settings."""
    grid = (folder / GRID).is_file()
    there = reopen(folder / (GRID if grid else training_run.CONFIG), GridSettings, {})
    wanted = from_anywhere(job.settings)
    for key in GridSettings.model_fields:
        before, now = getattr(there, key), getattr(wanted, key)
        if key not in FREE and before != now and not (key == "batch" and now == AUTO):
            flag = key.replace("_", "-")
            message = f"{folder} was begun with --{flag} {before}, not {now}"
            raise UserError(message, "give the same settings to go on with it, or another --project")


def _judge(entry: Entry, run: TrainSettings, weights: Path, name: str) -> dict[str, dict[str, float | None]]:
    """The figures of a run by NMS method, "" for the recipe's own; from an earlier validation if there is one."""
    settings = val_settings(entry, run, weights, name)
    before = [path for path in _folders(settings.project / "val", name) if (path / "metrics.json").is_file()]
    if before:
        say(f"{before[-1]} is there")
        document = json.loads((before[-1] / "metrics.json").read_text())
        return document.get("methods", {"": document}) if entry.nms else {"": document}
    _, found = val_to_folder(Detector(weights), settings)
    return {method if entry.nms else "": dict(one.evaluation.metrics) for method, one in found.items()}


def _write(folder: Path, table: str, rows: Sequence[Line]) -> None:
    documents: list[dict[str, Any]] = [row.to_dict() for row in rows]
    write_whole(folder / f"{table}.md", to_markdown(*side_by_side(rows)))
    write_whole(folder / f"{table}.csv", to_csv(*figures_table(rows)))
    write_json(folder / f"{table}.json", documents)
