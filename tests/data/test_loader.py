"""The same batches for any number of workers, and after a start in the middle."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from cledet.data.dataset import Batch, DetectionDataset
from cledet.data.loader import eval_loader, train_loader
from cledet.data.source import open_source
from cledet.data.transforms import Augment


@pytest.fixture(scope="module")
def dataset(squares: Path) -> DetectionDataset:
    augment = Augment(flip=0.5, scale_jitter=(0.6, 1.6), photometric=0.5)
    return DetectionDataset(open_source(squares).index("train"), short=64, long=96, augment=augment, seed=5)


def same(first: Batch, second: Batch) -> bool:
    pairs = [(getattr(first, f.name), getattr(second, f.name)) for f in fields(Batch)]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def test_workers_and_restarts_change_nothing(dataset: DetectionDataset) -> None:
    alone = list(train_loader(dataset, batch=4, total_steps=6, seed=5))
    helped = list(train_loader(dataset, batch=4, total_steps=6, seed=5, workers=2))
    resumed = list(train_loader(dataset, batch=4, total_steps=6, start_step=2, seed=5, workers=1))
    assert len(alone) == 6
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))  # type: ignore[arg-type]
    assert all(same(a, b) for a, b in zip(alone[2:], resumed, strict=True))  # type: ignore[arg-type]


def test_a_batch_may_be_larger_than_the_data(dataset: DetectionDataset) -> None:
    (batch,) = train_loader(dataset, batch=8, total_steps=1)
    assert len(batch) == 8


def test_nothing_is_drawn_from_the_global_generators(dataset: DetectionDataset) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(train_loader(dataset, batch=2, total_steps=1, workers=1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the system does not say who sent a signal")
def test_workers_end_by_a_sigterm_of_the_main_process_only(dataset: DetectionDataset) -> None:
    batches = iter(train_loader(dataset, batch=2, total_steps=6, workers=1))
    next(batches)  # the worker has started
    (worker,) = batches._workers  # type: ignore[attr-defined]
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert len(list(batches)) == 5
    assert worker.is_alive()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0


def test_evaluation_sees_every_image_once(squares: Path) -> None:
    dataset = DetectionDataset(open_source(squares).index("train"), short=64, long=96)
    batches = list(eval_loader(dataset, batch=4))
    assert [i for batch in batches for i in batch.indices.tolist()] == list(range(6))  # type: ignore[attr-defined]
    assert len(eval_loader(dataset, batch=4, rank=1, world=2)) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_may_be_spawned(dataset: DetectionDataset) -> None:
    loader = train_loader(dataset, batch=2, total_steps=1, workers=1)
    loader.multiprocessing_context = "spawn"
    (batch,) = loader
    (alone,) = train_loader(dataset, batch=2, total_steps=1)
    assert same(batch, alone)  # type: ignore[arg-type]
