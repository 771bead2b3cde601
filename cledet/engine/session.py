"""Training from settings to a finished run: its folder, its processes, a grid of them; and going on with one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from cledet.choices import AUTO
from cledet.config import GridSettings, TrainSettings
from cledet.console import say, warn
from cledet.data.index import DetectionIndex
from cledet.data.source import DataSource, open_source
from cledet.engine import distributed
from cledet.engine.checkpoint import Checkpoint, load_checkpoint
from cledet.engine.devices import pick_device
from cledet.engine.grid import GRID, train_grid
from cledet.engine.probe import largest_batch
from cledet.engine.runs import new_run, write_whole
from cledet.engine.setup import initial_model
from cledet.engine.trainer import Task, Trainer
from cledet.engine.writing import is_there
from cledet.errors import UserError
from cledet.resolve import reopen

CONFIG = "config.yaml"
LAST = Path("weights") / "last.pt"
JOB = "job"
"""A file in a run's folder: which job of torch's launcher started it."""


def train(settings: GridSettings, given: Checkpoint | None = None) -> Path:
    """Train a run or a grid from the start, perhaps from given weights; returns its folder."""
    with distributed.group():
        settings = distributed.shared(_with_absolute_data(settings))
        if (begun := distributed.shared(_restarted(settings))) is not None:
            return resume(begun, {})
        task = load_task(settings.runs()[0])
        model = begin(settings.runs()[0], task, given)  # refuses what does not fit before there is a folder
        settings = distributed.shared(_with_batch(settings, model, task) if distributed.leads() else settings)
        runs = settings.runs()
        folder = distributed.shared(_new_folder(settings) if distributed.leads() else None)
        assert folder is not None
        if len(runs) == 1:
            _start(runs[0], task, model, folder)
        else:
            train_grid(settings, folder, lambda run, place: _fit(run, task, place, given))
    return folder


def resume(folder: Path, changes: dict[str, Any]) -> Path:
    """Go on with a run's or a grid's folder exactly where it stopped; only device and workers may change."""
    grid = (folder / GRID).is_file()
    if not grid and not is_there(folder / LAST):
        hint = "pass a folder like runs/train/shapes"
        raise UserError(f"there is no run to resume: {folder / LAST} is missing", hint)
    refused = sorted(set(changes) - {"device", "workers"})
    if refused:
        hint = "start a new run with --weights"
        raise UserError(f"a resumed run keeps its settings; --{refused[0]} cannot be changed", hint)
    with distributed.group():
        settings = distributed.shared(reopen(folder / (GRID if grid else CONFIG), GridSettings, changes))
        task = load_task(settings.runs()[0])
        if grid:
            train_grid(settings, folder, lambda run, place: _fit(run, task, place, None))
        else:
            _fit(settings.runs()[0], task, folder, None)
    return folder


def begin(settings: TrainSettings, task: Task, given: Checkpoint | None) -> Checkpoint:
    """The model that a run starts from, the same in all processes."""
    with distributed.leader_first():
        return initial_model(settings, task.train, given)


def _start(settings: TrainSettings, task: Task, model: Checkpoint, run: Path) -> None:
    """Train a model from the start, in its folder, from which it can be resumed from now on."""
    if distributed.leads():
        run.mkdir(parents=True, exist_ok=True)
        write_whole(run / CONFIG, settings.to_yaml())
        model.save(run / LAST)
    Trainer(settings, task, model, run).fit()


def _fit(settings: TrainSettings, task: Task, run: Path, given: Checkpoint | None) -> None:
    """Train a run in its folder, or go on with what is there, if it is not finished."""
    model = distributed.shared(load_checkpoint(run / LAST) if is_there(run / LAST) else None)
    if model is None:
        _start(settings, task, begin(settings, task, given), run)
    elif model.training.get("finished", model.step >= settings.steps(len(task.train))):
        say(f"{run} is finished")
    else:
        Trainer(settings, task, model, run).fit()


def _with_absolute_data(settings: GridSettings) -> GridSettings:
    """The same, so that the run can be used and resumed from any folder."""
    if not Path(settings.data).exists():
        return settings
    return settings.model_copy(update={"data": str(Path(settings.data).absolute())})


def _with_batch(settings: GridSettings, model: Checkpoint, task: Task) -> GridSettings:
    """The same, with as large a batch as fits for `auto`."""
    if settings.batch != AUTO:
        return settings
    one, boxes = settings.runs()[0], int(np.diff(task.train.starts).max())
    batch = largest_batch(one, model.architecture, boxes, pick_device(settings.device)) * distributed.size()
    return settings.model_copy(update={"batch": batch})


def _new_folder(settings: GridSettings) -> Path:
    folder = new_run(settings.project, "train", settings.name or Path(settings.data).stem)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        write_whole(folder / JOB, os.environ["TORCHELASTIC_RUN_ID"])
    return folder


def _restarted(settings: GridSettings) -> Path | None:
    """The run that this job began before its launcher started it again, if that is what happened."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0:
        return None
    job = os.environ.get("TORCHELASTIC_RUN_ID", "")
    marks = (settings.project / "train").glob(f"*/{JOB}")
    mine = [mark for mark in marks if mark.read_text() == job]
    return max(mine, key=lambda mark: mark.stat().st_mtime).parent if mine else None


def load_index(source: DataSource, split: str, *, need_images: bool = True) -> DetectionIndex:
    """One split of a data set; what is odd about it is said."""
    index = source.index(split, need_images=need_images)
    for note in index.notes:
        warn(note)
    return index


def load_task(settings: TrainSettings) -> Task:
    """The splits that a run is trained on and measured on."""
    with distributed.leader_first():  # who draws or indexes it for the others
        return _load_task(settings)


def _load_task(settings: TrainSettings) -> Task:
    source = open_source(settings.data)
    say(source.summary)
    train = load_index(source, settings.split)
    if settings.val_split == "none":
        return Task(train=train, val=None)
    if source.find(settings.val_split) is None:
        hint = f"--val-split with one of {', '.join(source.splits)}, or none to do without"
        raise UserError(f"{source.name} has no split '{settings.val_split}' to evaluate on", hint)
    val = load_index(source, settings.val_split)
    unknown = set(val.classes) - set(train.classes)
    if unknown:
        raise UserError(f"{val.name} has classes that {train.name} does not: {', '.join(sorted(unknown)[:5])}")
    if set(val.paths.tolist()) & set(train.paths.tolist()):
        warn(f"{val.name} shares images with {train.name}: its figures say little about other images")
    return Task(train=train, val=val)
