"""Data loaders: decoded, augmented and padded batches, from worker processes or this one."""

from __future__ import annotations

import gc
import multiprocessing.queues
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from cledet.data.dataset import Batch, DetectionDataset, Sample, collate
from cledet.data.sampler import EpochBatches, sequential_batches
from cledet.errors import ProcessFailed, UserError

TIMEOUT = 600
"""Seconds to wait for a batch: a disk that does not respond blocks a worker forever."""
NO_SHARED_MEMORY = 74
"""A worker's exit code if its batch does not fit into shared memory."""
SHARED_MEMORY_HINT = "use --workers 0, or increase it, as with docker run --shm-size 8g"


class Loader(DataLoader[Sample]):
    """A DataLoader that stops at once, with a readable error, if a worker is killed or cannot send its batch.

    Image sides are padded to a multiple of `multiple`. Batches are the same for any number of workers.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        batches: EpochBatches | list[list[int]],
        *,
        workers: int = 0,
        multiple: int = 32,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=partial(_collate, multiple=multiple),
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            timeout=TIMEOUT if workers else 0,
            generator=torch.Generator(),  # creating an iterator must not draw from the global generator
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            batches = super().__iter__()
            if self.num_workers:
                _watch_workers()
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if isinstance(error.__cause__, UserError | ProcessFailed):  # raised by the signal handler below
                raise error.__cause__ from None
            raise _readable(error) from None
        except (EOFError, ConnectionError):  # a worker ended between announcing a batch and sending it
            time.sleep(5)  # until the signal of its end raises the reason
            raise


def _collate(samples: Sequence[Sample] | UserError, multiple: int) -> Batch | UserError:
    return samples if isinstance(samples, UserError) else collate(samples, multiple)


def _watch_workers() -> None:
    """Wrap torch's SIGCHLD handler, which raises wherever the process is, so that its error is readable."""
    torch_handler = signal.getsignal(signal.SIGCHLD) if threading.current_thread() is threading.main_thread() else None
    if not callable(torch_handler) or getattr(torch_handler, "of_cledet", False):
        return

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            torch_handler(number, frame)
        except RuntimeError as error:
            raise _readable(error) from None

    handler.of_cledet = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, handler)


def _readable(error: RuntimeError) -> Exception:
    """Convert torch's error about a worker to a readable one; return any other error unchanged."""
    message = str(error)
    if not message.startswith("DataLoader "):
        return error
    if f"exit code {NO_SHARED_MEMORY}" in message or "Bus error" in message:
        return UserError("shared memory, /dev/shm, is too small for the workers' batches", SHARED_MEMORY_HINT)
    if "timed out" in message:
        hint = "check that the disk responds; --workers 0 loads images one by one"
        return UserError(f"no image was loaded for {TIMEOUT} seconds", hint)
    reason = re.sub("[()]", "", message.split(". ")[0].removeprefix("DataLoader worker "))
    return ProcessFailed(f"a worker that loads images failed: {reason} (if memory is short, lower --workers)")


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
    """Return a loader of every image once; `batch` is per process, and each process gets every `world`-th batch.

    A batch holds images of one padded size only. None is padded more than it would be alone, so detections on an
    image do not depend on its batch.
    """
    groups = dataset.padded_sizes(multiple)
    batches = sequential_batches(len(dataset), batch, groups=groups, rank=rank, world=world)
    return Loader(dataset, batches, workers=workers, multiple=multiple, pin_memory=pin_memory)


def _start_worker(worker: int) -> None:
    """Set up a worker: one thread, since workers share the cores, and signals only from the main process.

    Garbage inherited from the main process is never collected: destroying an inference session joins its threads, which
    a fork does not copy, and that hangs (ONNX Runtime) or aborts (OpenVINO).
    """
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # killed while this process started: torch would not notice
        os._exit(1)
    gc.freeze()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_exit_on_lost_batch)  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_exit_on_parents_sigterm, daemon=True).start()


def _exit_on_lost_batch(error: Exception, _batch: Any) -> None:
    """Exit this worker if it cannot send a batch: Python would drop the batch, and the main process would wait."""
    full = any(text in str(error) for text in ("No space left", "shared memory", "shm"))
    if not full:
        traceback.print_exception(error)
    os._exit(NO_SHARED_MEMORY if full else 1)


def _exit_on_parents_sigterm() -> None:
    """Exit on a SIGTERM from the main process only: launchers and SLURM signal all, and the main process must save."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
