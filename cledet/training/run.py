"""Training runs and ablation grids: from settings to a finished run folder, and resuming one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cledet.config.loading import reopen
from cledet.config.train import GridSettings, TrainingSettings, TrainSettings
from cledet.config.types import AUTO
from cledet.console import say
from cledet.data.formats.division import Division
from cledet.distributed import collectives
from cledet.distributed.devices import amp_dtype, pick_devices
from cledet.distributed.environment import in_group
from cledet.distributed.launch import launch
from cledet.errors import Interrupted, OutputClosed, UserError
from cledet.io.atomic import is_there, unwritable, write_whole
from cledet.io.locks import hold_file
from cledet.io.run_folders import STATUS, data_beside, from_anywhere, name_from, new_run, status_of
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.network import Architecture, RetinaNet
from cledet.training.ablation import GRID, train_grid, twin_of
from cledet.training.auto_anchors import with_anchors
from cledet.training.auto_batch import find_largest_batch
from cledet.training.held_out import hold_out, record_division
from cledet.training.init_model import init_model
from cledet.training.schedule import check_milestones
from cledet.training.task import Task, load_task
from cledet.training.train_batches import sampled_images
from cledet.training.trainer import Diverged, Trainer

CONFIG = "config.yaml"
LAST = Path("weights") / "last.pt"
HOW = ("device", "workers", "callback", "nnodes", "node_rank", "rdzv_endpoint", "max_restarts")
"""Settings that may change when a run is resumed, as they do not affect its results."""
JOB = "job"
"""File in a run folder: the id of the torchrun job that started the run."""
INITIAL = "initial.pt"
"""File in the folder of a run or grid that was started from weights in memory: these weights."""
LOCK = ".lock"
"""File in a run folder that the main process locks while it trains."""
PATIENCE = 10.0
"""Seconds to wait for this lock."""


def train(settings: GridSettings, given: Checkpoint | None = None) -> Path:
    """Train a new run or ablation grid, from `given` weights if there are any; return its folder."""
    if settings.node_rank > 0 and launches(settings):
        return _launch_other_node(settings)
    with collectives.process_group():
        settings = collectives.from_main(lambda: from_anywhere(settings))
        if (restarted := collectives.from_main(lambda: _restarted_run(settings))) is not None:
            return resume(restarted, {})
        division = collectives.from_main(lambda: hold_out(settings))
        if division is not None:
            settings = settings.model_copy(update={"split": "train", "val_split": "val"})
        task = load_task(settings.runs()[0], division)
        given = given if settings.weights is None else None
        pretrained = settings.weights is not None or given is not None
        settings = collectives.from_main(lambda: with_anchors(settings, task.train, pretrained))
        model, network = init_model(settings.runs()[0], task.train, given)  # raises UserErrors before there is a folder
        settings = collectives.from_main(lambda: _with_batch(settings, model.architecture, task))
        _check_processes(settings)
        first = settings.runs()[0]
        check_milestones(first, first.steps(sampled_images(first, task.train)))
        folder, settings = collectives.from_main(lambda: _new_folder(settings, division, given))
        runs = settings.runs()
        model.settings = runs[0].model_dump(mode="json")  # with the batch of --batch auto
        model.data = settings.data
        if len(runs) == 1:
            _start(runs[0], task, model, network, folder)
        else:
            train_grid(settings, folder, lambda run, place: _train_or_resume(run, task, place, given))
    return folder


def resume(folder: Path, changes: dict[str, Any]) -> Path:
    """Resume a run or an ablation grid exactly where it stopped; return its folder.

    `changes` are new values of settings in HOW. Raises UserError for any other.
    """
    refused = sorted(set(changes) - set(HOW))
    if refused:
        hint = "start a new run with --weights"
        raise UserError(f"a resumed run keeps its settings; --{refused[0].replace('_', '-')} cannot be changed", hint)
    with collectives.process_group():
        folder, settings = collectives.from_main(lambda: _reopen(folder, changes))
        if settings.node_rank > 0 and launches(settings):
            return _launch_other_node(settings)
        task = load_task(settings.runs()[0])
        if len(settings.runs()) > 1:
            file = folder / INITIAL
            given = collectives.from_main(lambda: load_checkpoint(file) if is_there(file) else None)
            train_grid(settings, folder, lambda run, place: _train_or_resume(run, task, place, given))
        else:
            _train_or_resume(settings.runs()[0], task, folder, None)
    return folder


def launches(settings: TrainingSettings) -> bool:
    """Return whether this process launches worker processes, one per device, instead of training itself."""
    if in_group(settings.nnodes):
        return False
    return settings.nnodes > 1 or len(pick_devices(settings.device).devices) > 1


def _reopen(folder: Path, changes: dict[str, Any]) -> tuple[Path, GridSettings]:
    grid = (folder / GRID).is_file()
    if not grid and not is_there(folder / LAST):
        hint = "pass a folder like runs/train/shapes"
        raise UserError(f"there is no run to resume: {folder / LAST} is missing", hint)
    file = folder.absolute() / (GRID if grid else CONFIG)
    settings = reopen(file, GridSettings, changes)
    return folder.absolute(), settings.model_copy(update={"data": data_beside(file, settings.data)})


def _start(settings: TrainSettings, task: Task, model: Checkpoint, network: RetinaNet, run: Path) -> None:
    """Train a new run in its folder; it can be resumed as soon as last.pt is written."""
    if collectives.is_main_process():
        write_whole(run / CONFIG, settings.to_yaml())
        model.save(run / LAST)
    if launches(settings):
        _launch(settings, run)
    else:
        _fit(Trainer(settings, task, model, network, run))


def _train_or_resume(settings: TrainSettings, task: Task, run: Path, given: Checkpoint | None) -> None:
    """Train a run in its folder from the start or from its last checkpoint, unless it is finished."""
    model = collectives.from_main(lambda: load_checkpoint(run / LAST) if is_there(run / LAST) else None)
    status, steps = collectives.from_main(lambda: status_of(run)), settings.steps(len(task.train))
    if model is not None and status in ("finished", "") and model.training.get("finished", model.step >= steps):
        say(f"{run} is finished")
        return
    _check_processes(settings)  # the devices may be others than before
    if model is None:
        _start(settings, task, *init_model(settings, task.train, given), run)
    elif launches(settings):
        _launch(settings, run)
    else:
        _fit(Trainer(settings, task, model, model.network(), run))


def _fit(trainer: Trainer) -> None:
    """Train to the end, with the run's status in its folder, unless another process trains the same run."""
    with _exclusive(trainer.run), _recorded_status(trainer.run):
        trainer.fit()


@contextmanager
def _exclusive(run: Path) -> Iterator[None]:
    """Keep other processes from training a run in the block, as all would write the same files.

    Raises UserError if another process still trains it after PATIENCE seconds; processes whose launcher was killed
    need some of them to save and exit.
    """
    if not collectives.is_main_process():
        yield
        return
    try:
        lock = hold_file(run / LOCK, PATIENCE)
    except OSError as error:
        raise unwritable(run / LOCK, error) from None
    if lock is None:
        raise UserError(f"another process trains {run}", "wait until it has ended, or stop it")
    with lock:
        yield


@contextmanager
def _recorded_status(run: Path) -> Iterator[None]:
    """Write the status of a run into its folder before and after the block: unfinished, then finished or how it failed.

    An interrupted run stays unfinished, as does one whose output is closed: `cledet train 2>&1 | head`.
    """
    if not collectives.is_main_process():
        yield
        return
    write_whole(run / STATUS, "unfinished\n")
    try:
        yield
    except (Interrupted, KeyboardInterrupt, OutputClosed, BrokenPipeError):  # the last in a program of the user's
        raise
    except BaseException as error:
        with suppress(UserError):  # a full disk, which may be the error itself
            if status_of(run) == "unfinished":  # else a worker has told more
                write_whole(run / STATUS, "diverged\n" if isinstance(error, Diverged) else "failed\n")
        raise
    write_whole(run / STATUS, "finished\n")


def _launch(settings: TrainingSettings, run: Path) -> None:
    """Launch `cledet train --resume` in one process per device, and wait for the end of the run."""
    picked = pick_devices(settings.device)
    if picked.reason:
        say(picked.reason)
    device = ",".join(map(str, picked.devices))
    if settings.node_rank == 0:
        with _exclusive(run):  # the processes hold it, as they may outlive this one
            pass
    words = ["train", "--resume", str(run), "--device", device, "--workers", str(settings.workers)]
    if settings.callback is not None:
        words += ["--callback", settings.callback]
    with _recorded_status(run) if settings.node_rank == 0 else nullcontext():
        launch(
            words,
            len(picked.devices),
            nnodes=settings.nnodes,
            node_rank=settings.node_rank,
            rdzv_endpoint=settings.rdzv_endpoint,
            max_restarts=settings.max_restarts,
            log_folder=run / "logs" if settings.node_rank == 0 else None,
        )


def _launch_other_node(settings: GridSettings) -> Path:
    """Launch the processes of a machine other than that of rank 0; return the run folder on the machine of rank 0."""
    folder = settings.project / "train" / (settings.name or name_from(Path(settings.data).stem, "data"))
    for run in settings.runs():
        if twin_of(run, settings) is None:
            _launch(settings, folder)
    return folder


def _processes(settings: TrainingSettings) -> int:
    """Count the processes that train a run, those that are yet to be launched included.

    Before a launch on several machines, they are assumed to have as many devices each.
    """
    launched = len(pick_devices(settings.device).devices) * settings.nnodes if launches(settings) else 1
    return collectives.world_size() * launched


def _check_processes(settings: TrainingSettings) -> None:
    """Raise UserError if the processes cannot share the batch equally, or cannot synchronize norms.

    Of several machines, which may differ in their number of devices, the launched processes check the batch.
    """
    processes, device = _processes(settings), pick_devices(settings.device).devices[0]
    amp_dtype(device, settings.amp)  # raises for a precision that the device lacks
    if settings.norm == "sync" and processes > 1 and device.type != "cuda":
        raise UserError("--norm sync of several processes needs CUDA GPUs", "try --norm batch or group")
    known = settings.nnodes == 1 or not launches(settings)
    if known and settings.batch % (processes * settings.accumulate):
        parts = f" in {settings.accumulate} parts" if settings.accumulate > 1 else ""
        message = f"--batch {settings.batch} cannot be shared equally by {processes} processes{parts}"
        raise UserError(message, f"give a multiple of {processes * settings.accumulate}")


def _with_batch(settings: GridSettings, architecture: Architecture, task: Task) -> GridSettings:
    """Replace `--batch auto` by the largest batch that fits into memory."""
    if settings.batch != AUTO:
        return settings
    boxes, device = int(np.diff(task.train.starts).max()), pick_devices(settings.device).devices[0]
    batch = find_largest_batch(settings.runs()[0], architecture, boxes, device)
    return settings.model_copy(update={"batch": batch * _processes(settings)})


def _new_folder(
    settings: GridSettings, division: Division | None, given: Checkpoint | None
) -> tuple[Path, GridSettings]:
    """Create the run folder; return the settings with the division as data set and the given weights, if there are any.

    The weights are saved, as they may have no file, and the runs of a grid that begin after a resume need them.
    """
    folder = new_run(settings.project, "train", settings.name or name_from(Path(settings.data).stem, "data"))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        write_whole(folder / JOB, os.environ["TORCHELASTIC_RUN_ID"])
    if given is not None:
        replace(given, training={}).save(folder / INITIAL)
        settings = settings.model_copy(update={"weights": str((folder / INITIAL).absolute())})
        settings._origins = settings.origins | {"weights": "flag"}
    return folder, settings if division is None else record_division(division, settings, folder)


def _restarted_run(settings: GridSettings) -> Path | None:
    """Return the run folder of this torchrun job, if torchrun has restarted it after a failure."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0:
        return None
    job = os.environ.get("TORCHELASTIC_RUN_ID", "")
    files = [file for file in (settings.project / "train").glob(f"*/{JOB}") if file.read_text() == job]
    return max(files, key=lambda file: file.stat().st_mtime).parent if files else None
