"""One of the paper's tables, filled by training and evaluating the rows that are missing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from cledet.commands.val import val_to_folder
from cledet.config.evaluate import ValSettings
from cledet.config.loading import reopen, resolve
from cledet.config.train import GridSettings, TrainSettings
from cledet.console import say
from cledet.detector import Detector
from cledet.distributed.environment import in_group
from cledet.errors import Interrupted, UserError, interruption
from cledet.io.atomic import is_there, write_json, write_whole
from cledet.io.run_folders import from_anywhere
from cledet.metrics.metric_tables import to_markdown
from cledet.training import run as session
from cledet.training.ablation import GRID
from cledet.training.reproduce_jobs import Entry, Job, Line, lines, runs_of, side_by_side, val_flags

FREE = {*session.HOW, "project", "name"}
"""Settings that may differ between a run and its continuation."""


def fill_table(table: str, jobs: Sequence[Job]) -> tuple[Path, list[Line]]:
    """Train and evaluate all jobs, or continue where an earlier call stopped; returns the table's folder and rows.

    TABLE.md and .json are rewritten after each evaluation.
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
                write_whole(job.settings.project / f"{table}.md", to_markdown(*side_by_side(rows)))
                write_json(job.settings.project / f"{table}.json", [row.to_dict() for row in rows])
    return rows


def _train(job: Job) -> Path:
    """Train a job, or continue the newest run of its name; returns its folder."""
    for folder in _folders(job.settings.project / "train", job.name):
        if (folder / GRID).is_file() or is_there(folder / session.LAST):
            _refuse_other(job, folder)
            return session.resume(folder, {key: getattr(job.settings, key) for key in session.HOW if key in job.given})
    return session.train(job.settings)


def _folders(where: Path, name: str) -> list[Path]:
    """List the folders called NAME, NAME-2, NAME-3 ..., the newest first."""
    pattern = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    matches = [(match, folder) for folder in where.glob("*") if (match := pattern.fullmatch(folder.name))]
    return [folder for match, folder in sorted(matches, key=lambda pair: -int(pair[0][1] or 1))]


def _refuse_other(job: Job, folder: Path) -> None:
    """Raise UserError if the run or grid in `folder` was begun with other settings."""
    file = folder / (GRID if (folder / GRID).is_file() else session.CONFIG)
    before = reopen(file, GridSettings, {}).model_dump(exclude=FREE)
    now = from_anywhere(job.settings).model_dump(exclude=FREE)
    for key in now:
        if before[key] != now[key] and (key, now[key]) != ("batch", "auto"):  # which was replaced by a number
            message = f"{folder} was begun with --{key.replace('_', '-')} {before[key]}, not {now[key]}"
            raise UserError(message, "give the same settings to continue it, or another --project")


def _evaluate(entry: Entry, run: TrainSettings, weights: Path, name: str) -> dict[str, dict[str, float | None]]:
    """Return a run's metrics by NMS method ("": the recipe's own), from an earlier evaluation if there is one."""
    settings = resolve(ValSettings, val_flags(entry, run, weights, name))
    for folder in _folders(settings.project / "val", name):
        if (folder / "metrics.json").is_file():
            say(f"{folder} exists and is used")
            document = json.loads((folder / "metrics.json").read_text())
            return document.get("methods", {"": document}) if entry.nms else {"": document}
    _, validations = val_to_folder(Detector(weights), settings)
    return {method if entry.nms else "": dict(result.evaluation.metrics) for method, result in validations.items()}
