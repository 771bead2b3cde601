"""Loaders: batches decoded, augmented and padded, in worker processes or in this one."""

from __future__ import annotations

import gc
import multiprocessing.queues
import os
import re
import signal
import threading
import traceback
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from cledet.data.dataset import Batch, DetectionDataset, Sample, collate
from cledet.data.sampler import EpochBatches, sequential_batches
from cledet.errors import ProcessFailed, UserError

PATIENCE = 600
"""Seconds that a batch is waited for: a disk that does not answer blocks a worker for ever."""
NO_SHARED_MEMORY = 74
"""A worker's exit code where its batch does not fit into shared memory."""
HANDING_OVER = "use --workers 0, or give it more, as with docker run --shm-size 8g"


class Loader(DataLoader[Sample]):
    """A DataLoader that ends with a sentence, at once, where a worker is killed or cannot hand over its batch."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            batches = super().__iter__()
            if self.num_workers:
                _watch_workers()
            yield from batches
        except RuntimeError as error:
            if isinstance(error.__cause__, UserError | ProcessFailed):  # the handler's, which the loader caught
                raise error.__cause__ from None
            raise (_sentence(error) or error) from None


def _watch_workers() -> None:
    """Let a worker's death, of which a signal tells wherever the process is, be told in a sentence."""
    tell = signal.getsignal(signal.SIGCHLD) if threading.current_thread() is threading.main_thread() else None
    if not callable(tell) or getattr(tell, "of_cledet", False):
        return

    def tell_in_a_sentence(number: int, frame: FrameType | None) -> None:
        try:
            tell(number, frame)
        except RuntimeError as error:
            raise (_sentence(error) or error) from None

    tell_in_a_sentence.of_cledet = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, tell_in_a_sentence)


def _sentence(error: RuntimeError) -> Exception | None:
    """What torch says about workers, in a sentence; None if it is about something else."""
    said = str(error)
    if not said.startswith("DataLoader "):
        return None
    if f"exit code {NO_SHARED_MEMORY}" in said or "Bus error" in said:
        return UserError("shared memory, /dev/shm, is too small for the batches that workers load", HANDING_OVER)
    if "timed out" in said:
        hint = "does their disk answer? --workers 0 loads them one by one"
        return UserError(f"no image was loaded for {PATIENCE} seconds", hint)
    end = re.sub("[()]", "", said.split(". ")[0].removeprefix("DataLoader worker "))
    return ProcessFailed(f"a process that loads images failed: {end} (if for want of memory, lower --workers)")


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
) -> Loader:
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
) -> Loader:
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
) -> Loader:
    return Loader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(collate, multiple=multiple),
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        timeout=PATIENCE if workers else 0,
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
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_heed_parent, daemon=True).start()


def _give_up(error: Exception, _batch: Any) -> None:
    """End this worker where it cannot hand over a batch: Python would drop the batch, and the main process wait."""
    full = any(text in str(error) for text in ("No space left", "shared memory", "shm"))
    if not full:
        traceback.print_exception(error)
    os._exit(NO_SHARED_MEMORY if full else 1)


def _heed_parent() -> None:
    """End by a SIGTERM of the main process only: a launcher or SLURM sends it to all, and the main process saves."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
