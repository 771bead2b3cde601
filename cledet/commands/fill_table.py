"""One of the paper's tables, filled by training and evaluating the rows that are missing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cledet.commands.val import val_to_folder
from cledet.config.loading import reopen
from cledet.config.train import GridSettings, TrainSettings
from cledet.config.types import AUTO
from cledet.console import say
from cledet.detector import Detector
from cledet.distributed.environment import in_group
from cledet.errors import Interrupted, UserError, interruption
from cledet.io.atomic import is_there, write_json, write_whole
from cledet.io.run_folders import from_anywhere
from cledet.metrics.metric_tables import to_csv, to_markdown
from cledet.training import run as session
from cledet.training.ablation import GRID
from cledet.training.paper_table import Line, figures_table, lines, side_by_side
from cledet.training.reproduce_jobs import Entry, Job, runs_of, val_settings

FREE = (*session.HOW, "project", "name")
"""Settings that may differ between a run and its continuation."""


def fill_table(table: str, jobs: Sequence[Job]) -> tuple[Path, list[Line]]:
    """Train and evaluate all jobs, or continue where an earlier call stopped; returns the table's folder and rows.

    TABLE.md, .csv and .json are rewritten after each evaluation.
    """
    if in_group():
        raise UserError("reproduce starts its processes itself", "under torchrun or srun use the commands of --dry-run")
    try:
        return jobs[0].settings.project, _fill(table, jobs)
    except (Interrupted, KeyboardInterrupt) as error:
        stopped = interruption(error) if isinstance(error, KeyboardInterrupt) else error
        say(f"trained and evaluated runs are kept; the same command continues with {table}")
        raise Interrupted(stopped.signal_number) from None


def _fill(table: str, jobs: Sequence[Job]) -> list[Line]:
    evaluated: dict[str, dict[str, list[dict[str, float | None]]]] = {}
    rows = lines(jobs, evaluated)
    for job in jobs:
        trained = _train(job)
        for entry in job.entries:
            evaluated[entry.recipe] = {}
            for run, name in runs_of(entry):
                for method, metrics in _evaluate(entry, run, job.run_in(trained, run), name).items():
                    evaluated[entry.recipe].setdefault(method, []).append(metrics)
                rows = lines(jobs, evaluated)
                _write(jobs[0].settings.project, table, rows)
    return rows


def _train(job: Job) -> Path:
    """Train a job, or continue it; returns its folder."""
    begun = _find_begun(job)
    if begun is None:
        return session.train(job.settings)
    _refuse_other(job, begun)
    changes = {key: getattr(job.settings, key) for key in session.HOW if key in job.given}
    return session.resume(begun, changes)


def _find_begun(job: Job) -> Path | None:
    """Find the newest folder of the job's name that can be resumed."""
    resumable = [
        folder
        for folder in _folders(job.settings.project / "train", job.name)
        if (folder / GRID).is_file() or is_there(folder / session.LAST)
    ]
    return resumable[-1] if resumable else None


def _folders(where: Path, name: str) -> list[Path]:
    """List the folders called NAME, NAME-2, NAME-3 ..., in this order."""
    pattern = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    matches = [(match, folder) for folder in where.glob("*") if (match := pattern.fullmatch(folder.name))]
    return [folder for match, folder in sorted(matches, key=lambda pair: int(pair[0][1] or 1))]


def _refuse_other(job: Job, folder: Path) -> None:
    """Raise UserError if the run or grid in `folder` was begun with other settings."""
    grid = (folder / GRID).is_file()
    begun = reopen(folder / (GRID if grid else session.CONFIG), GridSettings, {})
    wanted = from_anywhere(job.settings)
    for key in GridSettings.model_fields:
        before, now = getattr(begun, key), getattr(wanted, key)
        if key not in FREE and before != now and not (key == "batch" and now == AUTO):
            flag = key.replace("_", "-")
            message = f"{folder} was begun with --{flag} {before}, not {now}"
            raise UserError(message, "give the same settings to continue it, or another --project")


def _evaluate(entry: Entry, run: TrainSettings, weights: Path, name: str) -> dict[str, dict[str, float | None]]:
    """Return a run's metrics by NMS method ("": the recipe's own), from an earlier evaluation if there is one."""
    settings = val_settings(entry, run, weights, name)
    before = [path for path in _folders(settings.project / "val", name) if (path / "metrics.json").is_file()]
    if before:
        say(f"{before[-1]} exists and is used")
        document = json.loads((before[-1] / "metrics.json").read_text())
        return document.get("methods", {"": document}) if entry.nms else {"": document}
    _, validations = val_to_folder(Detector(weights), settings)
    return {method if entry.nms else "": dict(result.evaluation.metrics) for method, result in validations.items()}


def _write(folder: Path, table: str, rows: Sequence[Line]) -> None:
    documents: list[dict[str, Any]] = [row.to_dict() for row in rows]
    write_whole(folder / f"{table}.md", to_markdown(*side_by_side(rows)))
    write_whole(folder / f"{table}.csv", to_csv(*figures_table(rows)))
    write_json(folder / f"{table}.json", documents)
