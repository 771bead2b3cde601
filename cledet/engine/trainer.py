"""Training: one page of loop, and what it is made of.

The state of a run is weights, optimizer, moving average, scaler and step; every random choice follows from the seed
and the step. So a run that is resumed goes on exactly as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cledet.choices import ablation_name
from cledet.components.iac import Recall
from cledet.config import PredictSettings, TrainSettings, long_side
from cledet.console import Steps, say
from cledet.data.augment import Augment
from cledet.data.dataset import Batch, DetectionDataset
from cledet.data.index import DetectionIndex
from cledet.data.loader import train_loader
from cledet.engine.checkpoint import Checkpoint, load_checkpoint
from cledet.engine.devices import amp_dtype, autocast, default_workers, describe, pick_device
from cledet.engine.gallery import save_batch, save_gallery
from cledet.engine.history import History, Meter
from cledet.engine.interrupts import interrupts
from cledet.engine.predictor import Predictor
from cledet.engine.schedule import build_optimizer, lr_factor, set_lr
from cledet.engine.validator import post_process, validate
from cledet.errors import Interrupted, UserError
from cledet.models.criterion import Criterion, Losses, Targets
from cledet.models.network import RetinaNet

DRAWN_BATCHES = 3
"""Steps whose batches are kept as pictures."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run learns from, and what it is measured on after an epoch (None: nothing)."""

    train: DetectionIndex
    val: DetectionIndex | None


class Trainer:
    """A run in progress."""

    def __init__(self, settings: TrainSettings, task: Task, model: Checkpoint, run: Path) -> None:
        self.settings, self.task, self.model, self.run = settings, task, model, run
        self.device = pick_device(settings.device)
        self.dtype = amp_dtype(self.device, settings.amp)
        self.network: RetinaNet = model.network().to(self.device)
        self.network.backbone.freeze(frozen_stages(settings, model.architecture.backbone))
        self.criterion = build_criterion(settings)
        self.plain = replace(self.criterion, iac=None)  # until recall_start
        self.optimizer = build_optimizer(self.network, settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average = None
        if settings.ema:
            average = get_ema_multi_avg_fn(settings.ema)
            self.average = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.total = settings.steps(len(task.train))
        self.history = History(run / "results.csv", settings.logger)
        self.best = -1.0
        self.step = 0
        if model.training:
            self._restore(model.training)

    def fit(self) -> Path:
        """Train to the end, evaluate and save after each epoch; returns the run's folder."""
        say(self._summary())
        with interrupts() as stop, Steps("training", self.total, self.step) as progress:
            meter = Meter()
            for batch in self._batches():
                losses = self._train_step(batch.to(self.device))
                self.step += 1
                meter.add(losses, int(batch.dropped.sum()))
                progress.advance(meter.figures(self._epoch()))
                if self._epoch_ended():
                    self._end_epoch(meter)
                    meter = Meter()
                elif stop or self._save_due():
                    self._save("last.pt")
                if stop:
                    raise Interrupted(stop[0], self.run)
        if self.task.val is not None:
            self._draw_examples(self.task.val)
        return self.run

    def _batches(self) -> Iterator[Any]:
        settings = self.settings
        dataset = DetectionDataset(
            self.task.train,
            short=settings.imgsz,
            long=long_side(settings.imgsz),
            augment=build_augment(settings),
            seed=settings.seed,
        )
        loader = train_loader(
            dataset,
            batch=settings.batch,
            total_steps=self.total,
            start_step=self.step,
            seed=settings.seed,
            workers=default_workers(settings.workers),
            pin_memory=self.device.type == "cuda",
        )
        for step, batch in enumerate(loader, self.step):
            if step < DRAWN_BATCHES:
                self._draw_batch(step, batch)
            yield batch

    def _draw_batch(self, step: int, batch: Batch) -> None:
        """Write what the network gets at a step, unless an earlier start of this run has."""
        path = self.run / "batches" / f"{step:06d}.jpg"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            save_batch(batch, self.task.train.classes, path)

    def _train_step(self, batch: Batch) -> Losses:
        self.network.train()
        set_lr(self.optimizer, self.settings.learning_rate * lr_factor(self.settings, self.step, self.total))
        with autocast(self.device, self.dtype):
            raw = self.network(batch.images)
        criterion = self.criterion if self.step >= self.settings.recall_start * self.total else self.plain
        losses = criterion(raw, Targets(batch.boxes, batch.labels, batch.ignored))
        loss = losses.classification + losses.regression
        if not torch.isfinite(loss):
            self._refuse(losses, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.settings.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return losses

    def _refuse(self, losses: Losses, batch: Batch) -> None:
        """Say which term of the loss and which images were not finite."""
        ids = ", ".join(str(int(i)) for i in batch.image_ids)
        terms = f"classification {losses.classification.item():g}, regression {losses.regression.item():g}"
        raise UserError(
            f"the loss is not finite at step {self.step} ({terms}; images {ids})",
            f"lower --lr, or resume from {self.run}",
        )

    def _end_epoch(self, meter: Meter) -> None:
        epoch, last = round(self._epoch()), self.step == self.total
        row = {"epoch": epoch, "step": self.step, "lr": self.optimizer.param_groups[-1]["lr"], **meter.means()}
        metrics: dict[str, Any] = {}
        if self.task.val is not None and (last or epoch % self.settings.val_every == 0):
            metrics = self._validate()
        self.history.add(row | {k: v for k, v in metrics.items() if k != "per_class"})
        say(self.history.line())
        if len(self.history.rows) == 1 and meter.dropped:
            say(
                f"boxes left out of the first epoch, empty or less than a pixel wide or high: {meter.dropped} "
                "(results.csv has them in its column `dropped`; `cledet check` lists the empty ones)"
            )
        score = metrics.get("AP") or 0.0
        if self.task.val is None or (metrics and score > self.best):
            self.best = max(self.best, score)
            self._save("best.pt", metrics)
        self._save("last.pt", metrics)

    def _validate(self) -> dict[str, Any]:
        assert self.task.val is not None
        network = self._inference_network()  # in float32, as `cledet val` does
        (result,) = validate(network, self.task.val, self.model, self.settings, self.device, None).values()
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

    def _inference_network(self) -> RetinaNet:
        return cast(RetinaNet, self.average.module) if self.average is not None else self.network

    def _epoch(self) -> float:
        return self.step * self.settings.batch / len(self.task.train)

    def _epoch_ended(self) -> bool:
        images, batch = len(self.task.train), self.settings.batch
        return self.step == self.total or self.step * batch // images > (self.step - 1) * batch // images

    def _save_due(self) -> bool:
        return bool(self.settings.save_steps) and self.step % self.settings.save_steps == 0

    def _save(self, name: str, metrics: dict[str, Any] | None = None) -> None:
        """best.pt holds the weights to use, last.pt also what is needed to go on."""
        self.model.model = self._inference_network().state_dict()
        self.model.step, self.model.metrics = self.step, metrics or {}
        self.model.training = self._training_state() if name == "last.pt" else {}
        self.model.save(self.run / "weights" / name)

    def _training_state(self) -> dict[str, Any]:
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best,
            "step": self.step,
            "images": len(self.task.train),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if state["images"] != len(self.task.train):
            raise UserError(
                f"the run was trained on {state['images']} images and {self.task.train.name} now has "
                f"{len(self.task.train)}",
                "restore the data set, or start a new run with --weights",
            )
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best, self.step = state["best"], state["step"]
        self.history.cut(self.step)

    def _summary(self) -> str:
        settings = self.settings
        trained = sum(p.numel() for p in self.network.parameters() if p.requires_grad) / 1e6
        precision = str(self.dtype or torch.float32).removeprefix("torch.")
        return (
            f"{self.model.architecture.backbone} on {describe(self.device)}, {precision}; "
            f"{trained:.1f}M trained parameters; components on: {ablation_name(settings.ablation)}\n"
            f"{self.task.train.name}: {len(self.task.train)} images, {self.task.train.num_boxes} boxes, "
            f"{len(self.task.train.classes)} classes; {self.total} steps of {settings.batch} at "
            f"{settings.imgsz} px, lr {settings.learning_rate:g}\n"
            f"run folder: {self.run}"
        )


def build_criterion(settings: TrainSettings) -> Criterion:
    """The criterion that the settings describe."""
    recall = Recall(
        alpha=settings.alpha,
        score_threshold=settings.score_threshold,
        min_iou=settings.recall_min_iou,
        center=settings.recall_center,
        cap=settings.recall_cap,
    )
    return Criterion(
        iac=recall if "iac" in settings.ablation else None,
        dc="dc" in settings.ablation,
        normalizer=settings.normalizer,
        center_unit=settings.center_unit,
        reg_loss=settings.reg_loss,
    )


def build_augment(settings: TrainSettings) -> Augment:
    """How training images are varied."""
    return Augment(**{field.name: getattr(settings, field.name) for field in fields(Augment)})


def pretrained(settings: TrainSettings) -> bool:
    """Whether the backbone starts from trained weights."""
    return settings.backbone_weights != "none" or settings.weights is not None


def frozen_stages(settings: TrainSettings, backbone: str) -> int:
    """How many backbone stages are fixed; by default those that are alike in all pictures, if they are trained."""
    if settings.freeze is not None:
        return settings.freeze
    return 2 if pretrained(settings) and not backbone.startswith("timm:") else 0
