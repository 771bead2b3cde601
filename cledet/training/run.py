"""Training from settings to a finished run: its folder, its processes, a grid of them; and going on with one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from cledet.config.loading import reopen
from cledet.config.train import GridSettings, TrainingSettings, TrainSettings
from cledet.config.types import AUTO
from cledet.console import say, warn
from cledet.data.open import open_source
from cledet.distributed import collectives
from cledet.distributed.devices import amp_dtype, pick_devices
from cledet.distributed.environment import in_group
from cledet.distributed.launch import launch
from cledet.errors import UserError
from cledet.evaluation.splits import load_index
from cledet.io.atomic import is_there, write_whole
from cledet.io.run_folders import from_anywhere, new_run
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.training.ablation import GRID, train_grid
from cledet.training.auto_batch import largest_batch
from cledet.training.init_model import init_model
from cledet.training.trainer import Task, Trainer

CONFIG = "config.yaml"
LAST = Path("weights") / "last.pt"
HOW = ("device", "workers", "callback", "nnodes", "node_rank", "rdzv_endpoint", "max_restarts")
"""Settings of how a run is run, which may change when it is resumed."""
JOB = "job"
"""A file in a run's folder: which job of torch's launcher started it."""


def train(settings: GridSettings, given: Checkpoint | None = None) -> Path:
    """Train a run or a grid from the start, perhaps from given weights; returns its folder."""
    if settings.node_rank > 0 and launches(settings):
        return _follow(settings)
    with collectives.process_group():
        settings = collectives.broadcast(from_anywhere(settings))
        if (begun := collectives.broadcast(_restarted(settings))) is not None:
            return resume(begun, {})
        task = load_task(settings.runs()[0])
        model = begin(settings.runs()[0], task, given)  # refuses what does not fit before there is a folder
        settings = collectives.broadcast(
            _with_batch(settings, model, task) if collectives.is_main_process() else settings
        )
        _refuse_unfit(settings)
        amp_dtype(pick_devices(settings.device).devices[0], settings.amp)
        folder = collectives.broadcast(_new_folder(settings) if collectives.is_main_process() else Path())
        runs = settings.runs()
        model.settings = runs[0].model_dump(mode="json")  # with the batch that was found
        if len(runs) == 1:
            _start(runs[0], task, model, folder)
        else:
            train_grid(settings, folder, lambda run, place: _fit(run, task, place, given))
    return folder


def resume(folder: Path, changes: dict[str, Any]) -> Path:
    """Go on with a run's or a grid's folder exactly where it stopped; only how it is run may change."""
    refused = sorted(set(changes) - set(HOW))
    if refused:
        hint = "start a new run with --weights"
        raise UserError(f"a resumed run keeps its settings; --{refused[0].replace('_', '-')} cannot be changed", hint)
    with collectives.process_group():
        folder, settings = collectives.broadcast(
            _reopen(folder, changes) if collectives.is_main_process() else (folder, None)
        )
        assert settings is not None
        if settings.node_rank > 0 and launches(settings):
            return _follow(settings)
        task = load_task(settings.runs()[0])
        if len(settings.runs()) > 1:
            train_grid(settings, folder, lambda run, place: _fit(run, task, place, None))
        else:
            _fit(settings.runs()[0], task, folder, None)
    return folder


def launches(settings: TrainingSettings) -> bool:
    """Whether this process starts others, one for each device, and only watches over them."""
    if in_group(settings.nnodes):
        return False
    return settings.nnodes > 1 or len(pick_devices(settings.device).devices) > 1


def _reopen(folder: Path, changes: dict[str, Any]) -> tuple[Path, GridSettings]:
    grid = (folder / GRID).is_file()
    if not grid and not is_there(folder / LAST):
        hint = "pass a folder like runs/train/shapes"
        raise UserError(f"there is no run to resume: {folder / LAST} is missing", hint)
    return folder.absolute(), reopen(folder / (GRID if grid else CONFIG), GridSettings, changes)


def begin(settings: TrainSettings, task: Task, given: Checkpoint | None) -> Checkpoint:
    """The model that a run starts from, the same in all processes."""
    with collectives.main_process_first():
        return init_model(settings, task.train, given)


def _start(settings: TrainSettings, task: Task, model: Checkpoint, run: Path) -> None:
    """Train a model from the start, in its folder, from which it can be resumed from now on."""
    if collectives.is_main_process():
        run.mkdir(parents=True, exist_ok=True)
        write_whole(run / CONFIG, settings.to_yaml())
        model.save(run / LAST)
    _run(settings, task, model, run)


def _fit(settings: TrainSettings, task: Task, run: Path, given: Checkpoint | None) -> None:
    """Train a run in its folder, or go on with what is there, if it is not finished."""
    model = collectives.broadcast(load_checkpoint(run / LAST) if is_there(run / LAST) else None)
    if model is None:
        _start(settings, task, begin(settings, task, given), run)
    elif model.training.get("finished", model.step >= settings.steps(len(task.train))):
        say(f"{run} is finished")
    else:
        _run(settings, task, model, run)


def _run(settings: TrainSettings, task: Task, model: Checkpoint, run: Path) -> None:
    """Train in this process, or in one for each device."""
    if launches(settings):
        _launch(settings, run)
    else:
        Trainer(settings, task, model, run).fit()


def _launch(settings: TrainingSettings, run: Path) -> None:
    """Start this command again in a process for each device, to go on with the run, and wait for its end."""
    picked = pick_devices(settings.device)
    if picked.reason:
        say(picked.reason)
    heard = [] if settings.callback is None else ["--callback", settings.callback]
    launch(
        ["train", "--resume", str(run), "--device", str(picked), "--workers", str(settings.workers), *heard],
        len(picked.devices),
        nnodes=settings.nnodes,
        node_rank=settings.node_rank,
        rdzv_endpoint=settings.rdzv_endpoint,
        max_restarts=settings.max_restarts,
        log_folder=run / "logs" if settings.node_rank == 0 else None,
    )


def _follow(settings: GridSettings) -> Path:
    """Start this machine's processes of a run that the machine of rank 0 leads; returns the folder it has there."""
    folder = settings.project / "train" / (settings.name or Path(settings.data).stem)
    for _ in settings.runs():
        _launch(settings, folder)
    return folder


def _refuse_unfit(settings: GridSettings) -> None:
    """Raise UserError where the batch cannot be shared equally, or the norms not at all."""
    devices = pick_devices(settings.device).devices
    processes = collectives.world_size() * (len(devices) if launches(settings) else 1) * settings.nnodes
    if settings.norm == "sync" and processes > 1 and devices[0].type != "cuda":
        raise UserError("--norm sync of several processes needs CUDA GPUs", "try --norm batch or group")
    if settings.batch % (processes * settings.accumulate):
        parts = f" in {settings.accumulate} parts" if settings.accumulate > 1 else ""
        message = f"--batch {settings.batch} cannot be shared equally by {processes} processes{parts}"
        raise UserError(message, f"give a multiple of {processes * settings.accumulate}")


def _with_batch(settings: GridSettings, model: Checkpoint, task: Task) -> GridSettings:
    """The same, with as large a batch as fits for `auto`."""
    if settings.batch != AUTO:
        return settings
    boxes, devices = int(np.diff(task.train.starts).max()), pick_devices(settings.device).devices
    here = len(devices) if launches(settings) else 1
    batch = largest_batch(settings.runs()[0], model.architecture, boxes, devices[0])
    return settings.model_copy(update={"batch": batch * here * settings.nnodes * collectives.world_size()})


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


def load_task(settings: TrainSettings) -> Task:
    """The splits that a run is trained on and measured on."""
    with collectives.main_process_first():  # who draws or indexes it for the others
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
