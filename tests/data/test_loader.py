"""The same batches for any number of workers, and after a start in the middle."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch

from cledet.data import loader as loader_module
from cledet.data.augment import Augment
from cledet.data.dataset import Batch, DetectionDataset
from cledet.data.images import ImageError
from cledet.data.loader import Loader, eval_loader
from cledet.data.open import open_source
from cledet.data.sampler import EpochBatches
from cledet.errors import ProcessFailed, UserError

ROOT = Path(__file__).resolve().parents[2]
FULL = r"shared memory, /dev/shm, is too small .* \(use --workers 0, or .*--shm-size"
ALL = Augment(
    vflip=0.5, scale_jitter=(0.6, 1.6), photometric=0.5, multi_scale=(48, 80), crop=0.4, mosaic=0.4, copy_paste=2
)


@pytest.fixture(scope="module")
def dataset(squares: Path) -> DetectionDataset:
    return DetectionDataset(open_source(squares).index("train"), short=64, long=96, augment=ALL, seed=5)


def train_loader(
    dataset: DetectionDataset,
    *,
    batch: int,
    total_steps: int,
    start_step: int = 0,
    seed: int = 0,
    workers: int = 0,
    **shares: int,
) -> Loader:
    batches = EpochBatches(
        len(dataset), batch, seed=seed, total_steps=total_steps, start_step=start_step, **shares  # type: ignore[arg-type]
    )  # fmt: skip
    return Loader(dataset, batches, workers=workers)


def load(dataset: DetectionDataset, **options: int) -> list[Batch]:
    return list(train_loader(dataset, batch=4, total_steps=6, seed=5, **options))  # type: ignore[arg-type]


def same(first: Batch, second: Batch) -> bool:
    pairs = [(getattr(first, f.name), getattr(second, f.name)) for f in fields(Batch)]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4")
@pytest.mark.parametrize("workers", [2, 4])
def test_batches_are_the_same_for_any_number_of_workers(dataset: DetectionDataset, workers: int) -> None:
    alone, helped = load(dataset), load(dataset, workers=workers)
    assert len(alone) == 6
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


class Collecting(DetectionDataset):
    """Collects garbage before every image."""

    def __getitem__(self, key):  # type: ignore[no-untyped-def]
        gc.collect()
        return super().__getitem__(key)


class Session:
    """Garbage that only a collector frees, and that writes down which process freed it."""

    def __init__(self, log: Path) -> None:
        self.log, self.itself = log, self

    def __del__(self) -> None:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")


@pytest.mark.slow
def test_workers_do_not_collect_garbage_of_the_main_process(squares: Path, tmp_path: Path) -> None:
    """As the threads of an OpenVINO session, which only the process that started them can join."""
    log = tmp_path / "freed"
    log.touch()
    dataset = Collecting(open_source(squares).index("train"), short=64, long=96)
    gc.disable()
    try:
        Session(log)
        assert len(load(dataset, workers=2)) == 6
        assert log.read_text() == ""
    finally:
        gc.enable()
    gc.collect()
    assert log.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("step", [1, 2, 5])
def test_starting_amid_an_epoch_gives_the_same_batches(dataset: DetectionDataset, step: int, workers: int) -> None:
    """6 images in fours: no step but 0 and 3 begins an epoch."""
    resumed = load(dataset, start_step=step, workers=workers)
    assert all(same(a, b) for a, b in zip(load(dataset)[step:], resumed, strict=True))


def test_processes_together_see_what_one_sees(dataset: DetectionDataset) -> None:
    shares = [load(dataset, rank=rank, world=2) for rank in (0, 1)]
    for whole, *parts in zip(load(dataset), *shares, strict=True):
        samples = [sample for part in parts for sample in rows(part)]
        assert len(samples) == 4
        assert all(a.shape == b.shape and torch.equal(a, b)
                   for one, other in zip(rows(whole), samples) for a, b in zip(one, other))  # fmt: skip


def rows(batch: Batch) -> list[list[torch.Tensor]]:
    """Each image of a batch, and what is on it, without padding."""
    samples = []
    for i in range(len(batch)):
        (height, width), count = batch.sizes[i].tolist(), int(batch.counts[i])
        ignored = batch.ignored[i][batch.ignored[i].any(dim=1)]
        plain = [batch.sizes[i], batch.original_sizes[i], batch.image_ids[i], batch.indices[i], batch.dropped[i]]
        images = batch.images[i, :, :height, :width]
        samples.append([images, batch.boxes[i, :count], batch.labels[i, :count], ignored, *plain])
    return samples


def test_old_recipes_give_the_same_batches_as_before(squares: Path) -> None:
    """Drawn before there were mosaic, copy-paste, crop and multi-scale: what is off draws nothing."""
    old = Augment(flip=0.5, vflip=0.5, scale_jitter=(0.5, 2.0), photometric=0.5)
    dataset = DetectionDataset(open_source(squares).index("train"), short=64, long=96, augment=old, seed=5)
    (batch,) = train_loader(dataset, batch=8, total_steps=3, start_step=2, seed=5)
    assert batch.indices.tolist() == [1, 2, 4, 1, 3, 0, 2, 5]  # type: ignore[attr-defined]
    boxes, labels, ignored, means = [], [], [], []
    for image, its_boxes, its_labels, its_ignored, *_ in rows(batch):  # type: ignore[arg-type]
        boxes += its_boxes.tolist()
        labels.append(its_labels.tolist())
        ignored += its_ignored.tolist()
        means.append(image.float().mean(dim=(1, 2)))
    sizes = [[64, 78], [64, 77], [64, 76], [64, 76], [60, 73], [64, 77], [64, 76], [64, 76]]
    assert batch.sizes.tolist() == sizes  # type: ignore[attr-defined]
    assert labels == [[1], [1, 0], [1], [], [1, 0], [], [1, 0], [1, 0]]
    expected = [
        [52.0, 39.489, 78.0, 64.0], [7.108, 14.222, 47.385, 54.519], [4.738, 13.037, 41.462, 49.778],
        [31.02, 7.805, 76.0, 54.634], [53.99, 9.0, 71.479, 26.25], [25.094, 6.0, 50.188, 30.75],
        [0.0, 41.846, 34.323, 64.0], [0.0, 40.615, 28.194, 64.0], [19.0, 0.0, 61.75, 37.926], [0.0, 0.0, 35.625, 28.444]
    ]  # fmt: skip
    torch.testing.assert_close(torch.tensor(boxes), torch.tensor(expected), atol=1e-3, rtol=0)
    regions = [[38.316, 0.0, 69.789, 14.979], [41.878, 48.39, 76.0, 64.0], [71.529, 19.349, 76.0, 58.047]]
    torch.testing.assert_close(torch.tensor(ignored), torch.tensor(regions), atol=1e-3, rtol=0)
    colours = [
        [108.5, 92.8, 104.2], [118.5, 103.8, 153.1], [168.8, 109.2, 129.2], [101.3, 96.0, 94.8],
        [112.7, 99.7, 128.2], [124.2, 124.4, 123.9], [121.2, 119.7, 139.1], [127.9, 92.1, 126.0]
    ]  # fmt: skip
    torch.testing.assert_close(torch.stack(means), torch.tensor(colours), atol=1.0, rtol=0)


def test_a_batch_may_be_larger_than_the_data(dataset: DetectionDataset) -> None:
    (batch,) = train_loader(dataset, batch=8, total_steps=1)
    assert len(batch) == 8


@pytest.mark.slow
def test_nothing_is_drawn_from_the_global_generators(dataset: DetectionDataset) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(train_loader(dataset, batch=2, total_steps=1, workers=1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the system does not say who sent a signal")
def test_workers_end_by_a_sigterm_of_the_main_process_only(dataset: DetectionDataset) -> None:
    loader = train_loader(dataset, batch=2, total_steps=6, workers=1)
    batches = iter(loader)
    next(batches)  # the worker has started
    (worker,) = loader._iterator._workers  # type: ignore[union-attr]
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert len(list(batches)) == 5
    assert worker.is_alive()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0


@pytest.mark.slow
def test_a_worker_whose_main_process_was_killed_before_it_started_ends(tmp_path: Path) -> None:
    """In a process of its own, which has a dead parent as soon as it runs."""
    program = (
        "import multiprocessing, os, sys, time\n"
        "def start(file):\n"
        "    time.sleep(2)\n"
        "    from cledet.data.loader import _start_worker\n"
        "    _start_worker(0)\n"
        "    open(file, 'w').close()\n"
        "multiprocessing.get_context('fork').Process(target=start, args=sys.argv[1:]).start()\n"
        "os._exit(0)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "works")], stdout=subprocess.PIPE) as process:
        process.stdout.read()  # type: ignore[union-attr]  # until the worker, which holds it too, has ended
    assert not (tmp_path / "works").exists()


def test_evaluation_sees_every_image_once(squares: Path) -> None:
    dataset = DetectionDataset(open_source(squares).index("train"), short=64, long=96)
    batches = list(eval_loader(dataset, batch=4))
    assert [i for batch in batches for i in batch.indices.tolist()] == list(range(6))  # type: ignore[attr-defined]
    assert len(eval_loader(dataset, batch=4, rank=1, world=2)) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_workers_may_be_spawned(dataset: DetectionDataset) -> None:
    loader = train_loader(dataset, batch=2, total_steps=1, workers=1)
    loader.multiprocessing_context = "spawn"
    (batch,) = loader
    (alone,) = train_loader(dataset, batch=2, total_steps=1)
    assert same(batch, alone)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_killed_worker_is_a_readable_error(dataset: DetectionDataset) -> None:
    loader = train_loader(dataset, batch=2, total_steps=1000, workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = loader._iterator._workers  # type: ignore[union-attr]
    os.kill(worker.pid, signal.SIGSTOP)  # so that the signal of its end comes while a batch is waited for
    threading.Timer(0.5, os.kill, (worker.pid, signal.SIGKILL)).start()
    with pytest.raises(ProcessFailed, match=r"failed: pid \d+ is killed by signal: Killed \(.* lower --workers") as it:
        list(batches)
    assert it.value.__suppress_context__  # so that there is no traceback of the loader's beside it
    assert it.value.__cause__ is None


@pytest.mark.slow
def test_a_worker_killed_while_it_sends_a_batch_is_a_readable_error(dataset: DetectionDataset, monkeypatch) -> None:
    loader = train_loader(dataset, batch=2, total_steps=1000, workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = loader._iterator._workers  # type: ignore[union-attr]

    def broken(*_: object, **__: object) -> None:
        threading.Timer(0.5, os.kill, (worker.pid, signal.SIGKILL)).start()
        raise ConnectionResetError

    monkeypatch.setattr(loader._iterator._data_queue, "get", broken)  # type: ignore[union-attr]
    with pytest.raises(ProcessFailed, match=r"failed: pid \d+ is killed by signal: Killed"):
        list(batches)


@pytest.mark.slow
def test_a_worker_that_exits_is_a_readable_error(dataset: DetectionDataset) -> None:
    loader = train_loader(Ending(dataset.index, short=64, long=96), batch=2, total_steps=3, workers=1)
    with pytest.raises(ProcessFailed, match="exited unexpectedly with exit code 3"):
        list(loader)


class Ending(DetectionDataset):
    """Ends the process that loads an image."""

    def __getitem__(self, key):  # type: ignore[no-untyped-def]
        os._exit(3)


@pytest.mark.slow
def test_a_stalled_image_is_a_readable_error(dataset: DetectionDataset, monkeypatch) -> None:
    monkeypatch.setattr(loader_module, "TIMEOUT", 1)
    loader = train_loader(Sleeping(dataset.index, short=64, long=96), batch=2, total_steps=3, workers=1)
    with pytest.raises(UserError, match=r"no image was loaded for 1 seconds \(.*--workers 0"):
        list(loader)


class Sleeping(DetectionDataset):
    """Reads from a disk that does not answer."""

    def __getitem__(self, key):  # type: ignore[no-untyped-def]
        time.sleep(3)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_the_same_sentence_from_a_worker(squares: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(squares, tmp_path / "data")
    dataset = DetectionDataset(open_source(tmp_path / "data").index("train"), short=64, long=96)
    (tmp_path / "data" / "train" / "1.png").write_bytes(b"")
    with pytest.raises(ImageError) as error:
        list(train_loader(dataset, batch=2, total_steps=3, workers=workers))
    assert str(error.value) == f"cannot decode image {tmp_path}/data/train/1.png: the file is empty"
    assert error.value.kind == "unreadable"


@pytest.mark.slow
def test_an_exception_while_loading_an_image_is_passed_on_unchanged(dataset: DetectionDataset) -> None:
    loader = train_loader(Failing(dataset.index, short=64, long=96), batch=2, total_steps=3, workers=1)
    with pytest.raises(RuntimeError, match="seven times six"):
        list(loader)


class Failing(DetectionDataset):
    """Raises an exception while an image is loaded."""

    def __getitem__(self, key):  # type: ignore[no-untyped-def]
        raise RuntimeError("seven times six")


@pytest.mark.parametrize(
    ("trouble", "kind", "sentence"),
    [
        ("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)", UserError, FULL),
        ("cannot pickle it", ProcessFailed, "exited unexpectedly with exit code 1"),
    ],
)
@pytest.mark.slow
def test_a_batch_that_cannot_be_sent_is_a_readable_error(dataset, monkeypatch, trouble, kind, sentence) -> None:
    """Where Python's queue would drop it, and the main process wait for ever."""

    def dumps(*_: object) -> bytes:
        raise RuntimeError(trouble)

    loader = train_loader(dataset, batch=2, total_steps=3, workers=1)
    worker = loader.worker_init_fn

    def start(number: int) -> None:
        worker(number)
        ForkingPickler.dumps = dumps

    loader.worker_init_fn = start
    with pytest.raises(kind, match=sentence):
        list(loader)


SMALL = """
mount -t tmpfs -o size=64k tmpfs /dev/shm || exit 77
exec "$@"
"""
PROGRAM = """
import sys
from cledet.data.dataset import DetectionDataset
from cledet.data.loader import Loader
from cledet.data.open import open_source
from cledet.data.sampler import EpochBatches
from cledet.errors import UserError
dataset = DetectionDataset(open_source(sys.argv[1]).index("train"), short=320, long=400)
try:
    list(Loader(dataset, EpochBatches(len(dataset), 4, seed=0, total_steps=3), workers=2))
except UserError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare")
@pytest.mark.slow
def test_too_little_shared_memory_is_a_readable_error(squares: Path) -> None:
    """In a mount namespace of its own, with 64 kB of it; a process that imports torch, so some seconds."""
    command = ["unshare", "-m", "sh", "-c", SMALL, "sh", sys.executable, "-c", PROGRAM, str(squares)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert re.match(FULL, done.stderr)
