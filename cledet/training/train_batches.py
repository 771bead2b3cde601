"""The batches of a run: its sampling, augmentation and share of this process."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch

from cledet.config.base import long_side
from cledet.config.train import TrainSettings
from cledet.console import say, warn
from cledet.data.augment import Augment
from cledet.data.class_balance import class_weights, repeat_factors
from cledet.data.dataset import DetectionDataset
from cledet.data.index import DetectionIndex, Floats
from cledet.data.loader import Loader
from cledet.data.sampler import EpochBatches, images_per_epoch
from cledet.distributed import collectives
from cledet.distributed.devices import default_workers


def sampled_images(settings: TrainSettings, index: DetectionIndex) -> int:
    """Count the images that an epoch draws from a split."""
    return images_per_epoch(len(index), _repeats(settings, index))


def load_batches(
    settings: TrainSettings, index: DetectionIndex, start_step: int, total_steps: int, device: torch.device
) -> Loader:
    """Load this process's share of the remaining steps' batches, `accumulate` parts per step.

    The images of a step do not depend on the number of processes or workers.
    """
    dataset = DetectionDataset(
        index,
        short=settings.imgsz,
        long=long_side(settings.imgsz),
        augment=Augment(**{field.name: getattr(settings, field.name) for field in fields(Augment)}),
        seed=settings.seed,
    )
    width, height = index.sizes.T
    batches = EpochBatches(
        len(index),
        settings.batch,
        seed=settings.seed,
        total_steps=total_steps,
        start_step=start_step,
        groups=(height > width).astype(np.int64),
        repeats=_repeats(settings, index),
        mosaic_until=settings.mosaic_until,
        rank=collectives.rank(),
        world=collectives.world_size(),
        parts=settings.accumulate,
    )
    return Loader(dataset, batches, workers=default_workers(settings.workers), pin_memory=device.type == "cuda")


def describe_balance(settings: TrainSettings, index: DetectionIndex) -> None:
    """Log repeated images and class weights, if there are any; warn if repeat-factor sampling repeats no image."""
    repeats, weights = _repeats(settings, index), class_weights(index, settings.class_weights)
    if weights is not None:
        named = [f"{weights[label]:.3g} ({index.classes[label]})" for label in (weights.argmin(), weights.argmax())]
        say(f"class weights of the classification loss: from {' to '.join(named)}")
    if repeats is None:
        return
    repeated = int((repeats > 1).sum())
    if repeated == 0:
        hint = "pass a larger --repeat-threshold"
        warn(f"no class is in under {settings.repeat_threshold:g} of the images, so none is repeated ({hint})")
    counts = f"{repeated} of {len(index)} are drawn more than once on average, at most {repeats.max():.3g} times"
    say(f"an epoch has {images_per_epoch(len(index), repeats)} images; {counts}")


def _repeats(settings: TrainSettings, index: DetectionIndex) -> Floats | None:
    return repeat_factors(index, settings.repeat_threshold) if settings.sampler == "repeat-factor" else None
