"""Loaders: batches decoded, augmented and padded, in worker processes or in this one."""

from __future__ import annotations

import gc
import os
import signal
import threading
from functools import partial

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from cledet.data.dataset import DetectionDataset, Sample, collate
from cledet.data.sampler import EpochBatches, sequential_batches


def train_loader(
    dataset: DetectionDataset,
    *,
    batch: int,
    total_steps: int,
    start_step: int = 0,
    seed: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    parts: int = 1,
    multiple: int = 32,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """`parts` of a `Batch` for each step from start_step to total_steps - 1, the same for any number of workers.

    `batch` is that of all `world` processes and parts together; image sides are padded to a multiple of `multiple`.
    """
    width, height = dataset.index.sizes.T
    batches = EpochBatches(
        len(dataset),
        batch,
        seed=seed,
        total_steps=total_steps,
        start_step=start_step,
        groups=(height > width).astype(np.int64),
        rank=rank,
        world=world,
        parts=parts,
    )
    return _loader(dataset, batches, workers, multiple, pin_memory)


def eval_loader(
    dataset: DetectionDataset,
    *,
    batch: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    multiple: int = 32,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """Every image once; `batch` is that of one process, which gets every `world`-th batch.

    Images of one padded size come together, so that none is padded more than it would be alone: what a network finds
    on an image does not depend on its batch.
    """
    groups = dataset.padded_sizes(multiple)
    batches = sequential_batches(len(dataset), batch, groups=groups, rank=rank, world=world)
    return _loader(dataset, batches, workers, multiple, pin_memory)


def _loader(
    dataset: DetectionDataset,
    batches: EpochBatches | list[list[int]],
    workers: int,
    multiple: int,
    pin_memory: bool,
) -> DataLoader[Sample]:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(collate, multiple=multiple),
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # so that making an iterator draws nothing from the global one
    )


def _start_worker(worker: int) -> None:
    """One thread in each worker, since they share the cores; and the main process decides when to stop.

    What the main process left to the garbage collector stays untouched here: to destroy an inference session is to join
    its threads, which a fork does not copy, and that hangs (ONNX Runtime) or aborts (OpenVINO).
    """
    gc.freeze()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_heed_parent, daemon=True).start()


def _heed_parent() -> None:
    """End by a SIGTERM of the main process only: a launcher or SLURM sends it to all, and the main process saves."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
