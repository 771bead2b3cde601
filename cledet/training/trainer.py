"""The training loop.

The state of a run consists of its `TrainStep` and its `TrainState`. Every random choice is a function of the seed and
the step. A resumed run therefore continues exactly as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from cledet.config.train import TrainSettings
from cledet.config.types import LARGEST
from cledet.console import Steps, say, warn
from cledet.data.dataset import Batch
from cledet.data.index import DetectionIndex
from cledet.distributed import collectives
from cledet.distributed.devices import own_device, pick_devices, within_memory
from cledet.errors import Interrupted, ProcessFailed, UserError
from cledet.evaluation.evaluator import validate
from cledet.metrics.confidence import operating_points
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import RetinaNet
from cledet.signals import Interrupts, Stop, interrupts
from cledet.training.budget import Budget
from cledet.training.history import History, Meter
from cledet.training.init_model import build_criterion, frozen_stages, make_deterministic, startup_summary
from cledet.training.loggers import load_callback, open_loggers
from cledet.training.previews import save_first_batches, save_val_previews
from cledet.training.task import Task
from cledet.training.train_batches import describe_balance, load_batches, sampled_images
from cledet.training.train_state import TrainState, require_same_data
from cledet.training.train_step import NotFinite, TrainStep

MAX_BAD_STEPS = 5
"""Consecutive steps without a finite loss that end a run."""
MEMORY_HINT = "--batch auto measures how many images fit, --accumulate N computes a batch in parts; or lower --imgsz"


class Diverged(UserError):
    """End of a run whose loss stays infinite or NaN."""


class Trainer:
    """A training run in progress: the loop, evaluation after each epoch, and checkpoints.

    `model` describes `network`, and holds the state to resume from if the run has begun before.
    """

    def __init__(self, settings: TrainSettings, task: Task, model: Checkpoint, network: RetinaNet, run: Path) -> None:
        require_same_data(model, task.train)
        self.settings, self.task, self.model, self.run = settings, task, model, run
        self.digests = task.train.digests()
        if settings.deterministic:
            make_deterministic()
        self.device = own_device(pick_devices(settings.device).devices)
        self.epoch_images = settings.epoch_images(sampled_images(settings, task.train))
        self.total_steps = settings.steps(self.epoch_images)
        network.backbone.freeze(frozen_stages(settings, model.architecture.backbone))
        criterion = build_criterion(settings, task.train, self.device)
        self.train_step = TrainStep(network, criterion, settings, self.device, self.total_steps)
        interval, evaluated = settings.val_every * self.epoch_images, 0 if task.val is None else len(task.val)
        seconds = math.inf if settings.hours is None else 3600 * settings.hours
        self.budget = Budget(seconds, self.total_steps, batch=settings.batch, interval=interval, evaluated=evaluated)
        self.history = History(run / "results.csv")
        self.callback = load_callback(settings.callback)
        self.meter = Meter()
        self.state = TrainState()
        self.confs: tuple[float | None, tuple[float | None, ...]] = None, ()
        self.last_save, self.wait_seconds = time.monotonic(), 0.0
        if model.training:
            self._restore(model.training)

    def fit(self) -> Path:
        """Train to the end, evaluate and save after each epoch; return the run folder.

        Raises Interrupted, after saving, if a signal arrives, and Diverged if the loss stays infinite or NaN.
        """
        say(*startup_summary(self.settings, self.task.train, self.model, self.train_step, self.run))
        describe_balance(self.settings, self.task.train)
        with open_loggers(self.settings, self.run) as self.history.loggers, interrupts() as stop:
            try:
                self._fit(stop)
            except (Stop, RuntimeError, ProcessFailed) as error:
                if stop.number is None:  # with a signal, errors follow from other processes that stopped earlier
                    raise
                self._save_progress()
                raise Interrupted(stop.number, self.run) from error
        if self.task.val is not None and collectives.is_main_process():
            save_val_previews(self.run, self.task.val, self.settings, self.device)
        self.callback("end", {"run": str(self.run), "step": self.state.step, "best": self.state.best})
        return self.run

    def _fit(self, stop: Interrupts) -> None:
        if not self.state.epoch_finished:
            self._end_epoch(stop)
        if self._finished():
            return
        total = None if self.total_steps == LARGEST else self.total_steps
        with Steps("training", total, self.state.step) as progress:
            for parts in self._batches(stop):
                save_first_batches(self.run, self.state.step, parts[0], self.task.train.classes)
                self._step(parts, stop)
                progress.advance(*self.meter.statistics(self._epoch(), self._lr(), self.device))
                if self.budget.is_due(self.state.step) and self._plan_length():
                    progress.set(self.state.step, self.total_steps)
                if self._epoch_ended():
                    self._end_epoch(stop)
                    if self._should_stop_early():
                        say(f"stopped early: no better AP since epoch {self.state.best_epoch} (--patience)")
                        return
                elif self._save_due():
                    self._save("last.pt")
                if self.state.step < self.total_steps:
                    stop.check()

    def _batches(self, stop: Interrupts) -> Iterator[list[Batch]]:
        """Yield the parts of each remaining step's batch."""
        loaded = 0
        while self.state.step < self.total_steps:
            start = time.perf_counter()
            if loaded != self.total_steps:  # a new length moves the end of the mosaics
                data = self.settings, self.task.train, self.state.step, self.total_steps, self.device
                loaded, batches = self.total_steps, iter(load_batches(*data))
            try:
                with stop.abandoning():
                    parts = list(islice(batches, self.settings.accumulate))
            except (UserError, ProcessFailed):  # an image or a worker is gone; no step has begun
                self._save_progress()
                say(f"saved; when the error is mended, go on with: cledet train --resume {self.run}")
                raise
            self.wait_seconds = time.perf_counter() - start
            yield parts

    def _plan_length(self) -> bool:
        """Fix or shorten the run by its time budget, as the main process decides; return whether its length changed.

        A signal does not interrupt this, as the end of an epoch may be due.
        """
        step, before = self.state.step, self.budget.total
        self.budget.total = collectives.from_main(lambda: self.budget.plan(step))
        if self.budget.total == before:
            return False
        self._apply_length()
        change = "has" if before is None else "is slower than measured and is cut to"
        pace = "{:.3g} s per step, {:.3g} s per evaluation".format(*self.budget.pace(step))
        say(f"--hours {self.settings.hours:g}: the run {change} {self.total_steps} steps ({pace})")
        return True

    def _apply_length(self) -> None:
        if self.budget.total is not None:
            self.total_steps = self.train_step.total_steps = self.budget.total

    def _step(self, parts: list[Batch], stop: Interrupts) -> None:
        try:
            with within_memory(self.device, MEMORY_HINT):
                with stop.abandoning():
                    losses = self.train_step.compute_gradients(parts, self.state.step)
                self.train_step.update(self.state.step)
        except NotFinite as error:
            self._skip_step(error, parts)
        else:
            dropped = int(collectives.all_reduce_sum(torch.cat([part.dropped for part in parts]).sum()))
            self.meter.add(losses, dropped, self.settings.batch, self.wait_seconds)
            self.state.bad_steps = 0
            metrics = {name: float(value) for name, value in losses._asdict().items()}
            self.callback("step", {"step": self.state.step, "lr": self._lr(), **metrics})
        self.state.step += 1

    def _skip_step(self, error: NotFinite, parts: list[Batch]) -> None:
        """Warn of a step without a finite loss; end the run after MAX_BAD_STEPS of them in a row."""
        self.state.bad_steps += 1
        ids = ", ".join(str(i) for part in parts for i in part.image_ids.tolist())
        message = f"step {self.state.step}: {error}, on images {ids}"
        if self.state.bad_steps < MAX_BAD_STEPS:
            warn(f"{message}: step skipped")
            return
        self._save("last.pt")
        hint = f"lower --lr, or look at these images; {self.run / 'weights' / 'last.pt'} is from before them"
        raise Diverged(f"{message}; the last {MAX_BAD_STEPS} steps had no finite loss", hint)

    def _end_epoch(self, stop: Interrupts) -> None:
        """Evaluate, log the metrics and save; the weights are saved before evaluation too, as it takes long."""
        epoch, state, val, begin = self._epoch_number(), self.state, self.task.val, self.budget.used
        row = {"epoch": epoch, "step": state.step, "lr": self._lr(), **self.meter.means()}
        metrics: dict[str, Any] = {}
        if val is not None and (state.step == self.total_steps or epoch % self.settings.val_every == 0):
            state.epoch_finished = False
            self._save("last.pt")
            with stop.abandoning():
                metrics = self._validate(val)
            state.last_eval_epoch = epoch
        if collectives.is_main_process():
            self.history.add(row | {key: value for key, value in metrics.items() if key != "per_class"})
            say(self.history.line())
            self._report_dropped_boxes()
        self.callback("epoch", {**row, **metrics})
        score = metrics.get("AP")  # None without objects: the newest weights are the best, as without evaluation
        if val is None or (metrics and (score is None or score > state.best)):
            state.best, state.best_epoch = max(state.best, score or 0.0), epoch
            self._save("best.pt", metrics)
        state.epoch_finished = True
        if metrics:
            self.budget.add_evaluation(begin)
        self.meter = Meter()
        self._save("last.pt", metrics)

    def _validate(self, val: DetectionIndex) -> dict[str, Any]:
        network = self.train_step.inference_network()  # in float32, as `cledet val` does
        (result,) = validate(network, val, self.model, self.settings, self.device, None).values()
        if collectives.is_main_process():
            overall, each = operating_points(val, result.results)
            confs = dict(zip(val.classes, (point and point.confidence for point in each)))
            self.confs = overall and overall.confidence, tuple(confs.get(name) for name in self.model.classes)
        return result.evaluation.to_dict()

    def _report_dropped_boxes(self) -> None:
        if len(self.history.rows) == 1 and self.meter.dropped:
            say(
                f"boxes dropped in the first epoch, empty or less than a pixel wide or high: {self.meter.dropped} "
                "(column `dropped` of results.csv; `cledet check` lists the empty ones)"
            )

    def _lr(self) -> float:
        """Return the learning rate outside of the backbone, which is that of --lr."""
        return float(self.train_step.optimizer.param_groups[0]["lr"])

    def _epoch(self) -> float:
        return self.state.step * self.settings.batch / self.epoch_images

    def _epoch_number(self) -> int:
        """Return the epoch, from 1, in which the last step began; a step never ends more than one epoch."""
        return (self.state.step - 1) * self.settings.batch // self.epoch_images + 1

    def _epoch_ended(self) -> bool:
        return self.state.step == self.total_steps or self._epoch() >= self._epoch_number()

    def _should_stop_early(self) -> bool:
        return 0 < self.settings.patience <= self.state.last_eval_epoch - self.state.best_epoch

    def _finished(self) -> bool:
        return self._should_stop_early() or self.state.step >= self.total_steps

    def _save_due(self) -> bool:
        steps, minutes = self.settings.save_steps, self.settings.save_minutes
        if minutes and time.monotonic() - self.last_save >= 60 * minutes:
            return True
        return bool(steps) and self.state.step % steps == 0

    def _save(self, name: str, metrics: dict[str, Any] | None = None) -> None:
        """Save the inference weights; last.pt also holds the state that resuming needs."""
        if not collectives.is_main_process():
            return
        self.model.model = self.train_step.inference_network().state_dict()
        self.model.step, self.model.metrics = self.state.step, metrics or {}
        self.model.best_conf, self.model.class_confs = self.confs if metrics else (None, ())
        self.model.training = self._training_state() if name == "last.pt" else {}
        self.model.save(self.run / "weights" / name)
        self.last_save = time.monotonic()

    def _save_progress(self) -> None:
        """Save last.pt unless it holds this step already, with the metrics of the epoch that the step ended."""
        if self.model.step != self.state.step:
            self._save("last.pt")

    def _training_state(self) -> dict[str, Any]:
        return {
            **self.train_step.state_dict(),
            **vars(self.state),
            "meter": self.meter.state_dict(),
            "budget": self.budget.state_dict(),
            "images": len(self.task.train),
            "digests": self.digests,
            "finished": self.state.epoch_finished and self._finished(),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        self.train_step.load_state_dict(saved)
        self.state = TrainState.from_saved(saved)
        if "meter" in saved:
            self.meter.load_state_dict(saved["meter"])
        if self.settings.hours is not None:
            self.budget.load_state_dict(saved["budget"])
            self._apply_length()
        self.history.truncate(self.state.step if self.state.epoch_finished else self.state.step - 1)
