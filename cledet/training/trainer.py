"""Training: one page of loop, and what it is made of.

The state of a run is what its learner's steps have changed, and where it is; every random choice follows from the seed
and the step. So a run that is resumed goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from cledet.config.base import PredictSettings, long_side
from cledet.config.train import TrainSettings
from cledet.console import Steps, say, warn
from cledet.data.dataset import Batch, DetectionDataset
from cledet.data.index import DetectionIndex
from cledet.data.loader import train_loader
from cledet.distributed import collectives
from cledet.distributed.devices import default_workers, memory_used, own_device, pick_devices, within_memory
from cledet.errors import Interrupted, ProcessFailed, UserError
from cledet.evaluation.evaluator import post_process, validate
from cledet.inference.predictor import Predictor
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.signals import Interrupts, Stop, interrupts
from cledet.training.history import History, Meter
from cledet.training.init_model import build_augment, build_criterion, frozen_stages, make_deterministic, summary
from cledet.training.loggers import callback, open_loggers
from cledet.training.previews import save_batch, save_gallery
from cledet.training.same_data import require_same_data
from cledet.training.train_step import Learner, NotFinite

DRAWN_BATCHES = 3
"""Steps whose batches are kept as pictures."""
BAD_STEPS = 5
"""So many steps in a row whose loss is no number end a run."""
FITTING = "--batch auto finds how many images fit, --accumulate N computes a batch in parts; or lower --imgsz"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run learns from, and what it is measured on after an epoch (None: nothing)."""

    train: DetectionIndex
    val: DetectionIndex | None


@dataclass
class Progress:
    """Where a run is; with the learner's state, all that a run is."""

    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    judged: int = 0
    """The last epoch that was evaluated."""
    concluded: bool = True
    """Whether an epoch that ends with this step was evaluated and noted."""
    bad_steps: int = 0
    """How many steps in a row had no finite loss."""


class Trainer:
    """A run in progress."""

    def __init__(self, settings: TrainSettings, task: Task, model: Checkpoint, run: Path) -> None:
        require_same_data(model, task.train)
        self.settings, self.task, self.model, self.run = settings, task, model, run
        self.digests = task.train.digests()
        if settings.deterministic:
            make_deterministic()
        self.device = own_device(pick_devices(settings.device).devices, collectives.local_rank())
        self.total = settings.steps(len(task.train))
        network = model.network()
        network.backbone.freeze(frozen_stages(settings, model.architecture.backbone))
        self.learner = Learner(network, build_criterion(settings), settings, self.device, self.total)
        self.history = History(
            run / "results.csv", open_loggers(settings, run) if collectives.is_main_process() else ()
        )
        self.tell = callback(settings.callback)
        self.meter = Meter()
        self.at = Progress()
        self.saved = time.monotonic()
        self.waited = 0.0
        if model.training:
            self._restore(model.training)

    def fit(self) -> Path:
        """Train to the end, evaluate and save after each epoch; returns the run's folder."""
        say(*summary(self.settings, self.task.train, self.model, self.learner, self.run))
        with interrupts() as stop:
            try:
                self._fit(stop)
            except (Stop, RuntimeError, ProcessFailed) as error:
                if stop.number is None:  # else another process stopped sooner, and this one waited for it
                    raise
                self._save("last.pt")
                raise Interrupted(stop.number, self.run) from error
        if self.task.val is not None and collectives.is_main_process():
            self._draw_examples(self.task.val)
        self.tell("end", {"run": str(self.run), "step": self.at.step, "best": self.at.best})
        return self.run

    def _fit(self, stop: Interrupts) -> None:
        if not self.at.concluded:
            self._end_epoch(stop)
        if self._finished():
            return
        with Steps("training", self.total, self.at.step) as progress:
            for parts in self._batches(stop):
                self._draw_batch(parts)
                self._step(parts, stop)
                progress.advance(*self.meter.statistics(self._epoch(), self._lr(), memory_used(self.device) / 1e9))
                if self._epoch_ended():
                    self._end_epoch(stop)
                    if self._tired():
                        say(f"no better AP since epoch {self.at.best_epoch}: stopped, as --patience says")
                        return
                elif self._save_due():
                    self._save("last.pt")
                if self.at.step < self.total:
                    stop.check()

    def _step(self, parts: list[Batch], stop: Interrupts) -> None:
        try:
            with within_memory(self.device, FITTING):
                with stop.abandoning():
                    losses = self.learner.gradients(parts, self.at.step)
                self.learner.update(self.at.step)
        except NotFinite as error:
            self._skip(error, parts)
        else:
            dropped = int(collectives.all_reduce_sum(torch.cat([part.dropped for part in parts]).sum()))
            self.meter.add(losses, dropped, self.settings.batch, self.waited)
            self.at.bad_steps = 0
            figures = {name: float(value) for name, value in losses._asdict().items()}
            self.tell("step", {"step": self.at.step, "lr": self._lr(), **figures})
        self.at.step += 1

    def _skip(self, error: NotFinite, parts: list[Batch]) -> None:
        """Leave a step out, or end the run if it is one too many."""
        self.at.bad_steps += 1
        ids = ", ".join(str(i) for part in parts for i in part.image_ids.tolist())
        what = f"step {self.at.step}: {error}, on images {ids}"
        if self.at.bad_steps < BAD_STEPS:
            warn(f"{what}: left out")
            return
        self._save("last.pt")
        hint = f"lower --lr, or look at these images; {self.run / 'weights' / 'last.pt'} is from before them"
        raise UserError(f"{what}; no step of the last {BAD_STEPS} had a finite one", hint)

    def _batches(self, stop: Interrupts) -> Iterator[list[Batch]]:
        """The parts of each step's batch."""
        settings = self.settings
        dataset = DetectionDataset(
            self.task.train,
            short=settings.imgsz,
            long=long_side(settings.imgsz),
            augment=build_augment(settings),
            seed=settings.seed,
        )
        loader: Iterable[Any] = train_loader(
            dataset,
            batch=settings.batch,
            total_steps=self.total,
            start_step=self.at.step,
            seed=settings.seed,
            workers=default_workers(settings.workers),
            rank=collectives.rank(),
            world=collectives.world_size(),
            parts=settings.accumulate,
            pin_memory=self.device.type == "cuda",
        )
        batches = iter(loader)
        while True:
            start = time.perf_counter()
            with stop.abandoning():
                parts = list(islice(batches, settings.accumulate))
            self.waited = time.perf_counter() - start
            if not parts:
                return
            yield parts

    def _draw_batch(self, parts: list[Batch]) -> None:
        """Write what the network gets at one of the first steps, unless an earlier start of this run has."""
        path = self.run / "batches" / f"{self.at.step:06d}.jpg"
        if self.at.step < DRAWN_BATCHES and collectives.is_main_process() and not path.exists():
            path.parent.mkdir(exist_ok=True)
            save_batch(parts[0], self.task.train.classes, path)

    def _end_epoch(self, stop: Interrupts) -> None:
        """Evaluate, note the figures, keep the weights if they are the best; saved before, as evaluation takes long."""
        epoch, at, val = self._epoch_number(), self.at, self.task.val
        row = {"epoch": epoch, "step": at.step, "lr": self._lr()}
        row |= self.meter.means()
        metrics: dict[str, Any] = {}
        if val is not None and (at.step == self.total or epoch % self.settings.val_every == 0):
            at.concluded = False
            self._save("last.pt")
            with stop.abandoning():
                metrics = self._validate(val)
            at.judged = epoch
        if collectives.is_main_process():
            self.history.add(row | {k: v for k, v in metrics.items() if k != "per_class"})
            say(self.history.line())
            self._say_dropped()
        self.tell("epoch", {**row, **metrics})
        score = metrics.get("AP") or 0.0
        if val is None or (metrics and score > at.best):
            at.best, at.best_epoch = max(at.best, score), epoch
            self._save("best.pt", metrics)
        at.concluded = True
        self.meter = Meter()
        self._save("last.pt", metrics)

    def _say_dropped(self) -> None:
        if len(self.history.rows) == 1 and self.meter.dropped:
            say(
                f"boxes left out of the first epoch, empty or less than a pixel wide or high: {self.meter.dropped} "
                "(results.csv has them in its column `dropped`; `cledet check` lists the empty ones)"
            )

    def _finished(self) -> bool:
        """Whether the run is at its end, or has not become better for longer than it may."""
        return self._tired() or self.at.step >= self.total

    def _tired(self) -> bool:
        return 0 < self.settings.patience <= self.at.judged - self.at.best_epoch

    def _validate(self, val: DetectionIndex) -> dict[str, Any]:
        network = self.learner.inference_network()  # in float32, as `cledet val` does
        (result,) = validate(network, val, self.model, self.settings, self.device, None).values()
        return result.evaluation.to_dict()

    def _draw_examples(self, val: DetectionIndex) -> None:
        """Write val.jpg: what the best weights find on images of the evaluated split."""
        best = load_checkpoint(self.run / "weights" / "best.pt")
        predictor = Predictor(
            network=best.network().to(self.device),
            post=replace(post_process(self.settings, best.components), conf=PredictSettings().conf),
            imgsz=self.settings.imgsz,
            device=self.device,
            dtype=None,
            names=best.classes,
            category_ids=best.category_ids,
        )
        save_gallery(predictor, val, self.run / "val.jpg")
        say(f"pictures: {self.run / 'val.jpg'}")

    def _lr(self) -> float:
        return float(self.learner.optimizer.param_groups[-1]["lr"])

    def _epoch(self) -> float:
        return self.at.step * self.settings.batch / self.settings.epoch_images(len(self.task.train))

    def _epoch_number(self) -> int:
        """The epoch, from 1, that the last step began in: no step ends more than one, so none is passed over."""
        return (self.at.step - 1) * self.settings.batch // self.settings.epoch_images(len(self.task.train)) + 1

    def _epoch_ended(self) -> bool:
        return self.at.step == self.total or self._epoch() >= self._epoch_number()

    def _save_due(self) -> bool:
        steps, minutes = self.settings.save_steps, self.settings.save_minutes
        waited = bool(minutes) and time.monotonic() - self.saved >= 60 * minutes
        return waited or (bool(steps) and self.at.step % steps == 0)

    def _save(self, name: str, metrics: dict[str, Any] | None = None) -> None:
        """best.pt holds the weights to use, last.pt also what is needed to go on."""
        if not collectives.is_main_process():
            return
        self.model.model = self.learner.inference_network().state_dict()
        self.model.step, self.model.metrics = self.at.step, metrics or {}
        self.model.training = self._state() if name == "last.pt" else {}
        self.model.save(self.run / "weights" / name)
        self.saved = time.monotonic()

    def _state(self) -> dict[str, Any]:
        data = {"images": len(self.task.train), "digests": self.digests}
        here = {**vars(self.at), "meter": self.meter.state(), **data}
        return {**self.learner.state(), **here, "finished": self.at.concluded and self._finished()}

    def _restore(self, state: dict[str, Any]) -> None:
        self.learner.restore(state)
        self.at = Progress(**{name: state[name] for name in vars(self.at) if name in state})
        if "meter" in state:
            self.meter.restore(state["meter"])
        self.history.cut(self.at.step if self.at.concluded else self.at.step - 1)
