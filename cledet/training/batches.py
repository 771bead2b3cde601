"""Training batches: the loader over the training split, with augmentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from cledet.config.base import long_side
from cledet.config.train import TrainSettings
from cledet.data.augment import Augment
from cledet.data.dataset import DetectionDataset
from cledet.data.index import DetectionIndex
from cledet.data.loader import Loader
from cledet.data.sampler import EpochBatches
from cledet.distributed import collectives
from cledet.distributed.devices import default_workers


def build_loader(
    settings: TrainSettings, index: DetectionIndex, total_steps: int, start_step: int, device: torch.device
) -> Iterable[Any]:
    """Load the batches of steps `start_step` to `total_steps - 1`, `settings.accumulate` parts per step.

    Each process loads its share of a batch. The images of a step do not depend on the number of processes or workers.
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
        rank=collectives.rank(),
        world=collectives.world_size(),
        parts=settings.accumulate,
    )
    workers = default_workers(settings.workers)
    return Loader(dataset, batches, workers=workers, pin_memory=device.type == "cuda")
