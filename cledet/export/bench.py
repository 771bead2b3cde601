"""`cledet bench`: the formats and precisions of one model, side by side on this machine."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cledet.config.base import ExportSettings
from cledet.config.evaluate import BenchSettings
from cledet.config.loading import resolve
from cledet.console import Steps, say
from cledet.data.images import Pixels, read_image
from cledet.data.index import DetectionIndex
from cledet.distributed.devices import amp_dtype, pick_device
from cledet.errors import ProcessFailed, UserError
from cledet.evaluation.evaluator import category_ids_for
from cledet.evaluation.splits import load_split
from cledet.export import exporter
from cledet.export.bench_worker import FAILED, PUBLISHED, RANDOM, REFUSED, Row, serve
from cledet.io.locks import temporary_folder
from cledet.io.weight_files import exported_file
from cledet.models.checkpoint import Checkpoint
from cledet.models.safetensors import pack
from cledet.models.weights import NAMES

PHOTOS = 4
"""Number of photos, spread evenly over the split."""
ENDING = 2
"""Seconds in which a process may end by itself, as torch's compiler leaves semaphores behind otherwise."""
PYRAMID = 256
"""Channels of torchvision's pyramids."""
TORCHVISION = {
    "r18": "resnet18",
    "r34": "resnet34",
    "r50": "resnet50",
    "r101": "resnet101",
    "r152": "resnet152",
    "x50": "resnext50_32x4d",
    "x101": "resnext101_32x8d",
    "x101-64x4d": "resnext101_64x4d",
}
"""Backbones of which torchvision's RetinaNet is built, and torchvision's names of them."""


class Kind(NamedTuple):
    """Kind of a row: PyTorch's network, or a file of a format."""

    format: str | None = None
    amp: str = "off"
    compiled: bool = False
    int8: bool = False


@dataclass
class Measured:
    """Measurements of a row; without times, the reason why it was not measured."""

    row: Row
    device: str
    reason: str = ""
    times: list[float] = field(default_factory=list)
    """Milliseconds per photo, of all rounds."""
    first: float = 0.0
    """Seconds from the start of loading to the boxes of the first photo."""
    memory: int = 0
    """Growth of the process's peak memory in bytes since PyTorch and cledet were imported; on a GPU, PyTorch's peak."""
    ap: float | None = None

    @property
    def median(self) -> float:
        """Return the median milliseconds per photo."""
        return statistics.median(self.times)

    def to_dict(self) -> dict[str, Any]:
        """Return the row of bench.json."""
        if self.reason:
            return {"name": self.row.name, "reason": self.reason}
        return {
            "name": self.row.name,
            "device": self.device,
            "median_ms": self.median,
            "p90_ms": float(np.quantile(self.times, 0.9)),
            "images_per_second": 1000 * len(self.times) / sum(self.times),
            "first_photo_seconds": self.first,
            "memory_mb": self.memory / 1e6,
            "file_mb": self.row.size / 1e6,
            "AP": self.ap,
            "times_ms": self.times,
        }


class Bench(NamedTuple):
    """All rows, and the conditions that they share."""

    rows: list[Measured]
    imgsz: int
    sizes: list[tuple[int, int]]
    """Height and width of each photo."""
    split: str | None
    """The split of AP; None without AP."""
    load: tuple[float, float]
    """Load averages over one minute before the first and after the last photo."""


class RowProcess:
    """The process that measures a row."""

    def __init__(self, measured: Measured, settings: BenchSettings, imgsz: int, photos: Path) -> None:
        self.measured = measured
        context = get_context("spawn")
        self._own, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, measured.row, settings, imgsz, photos))
        self._process.start()
        other.close()

    def receive(self) -> Any:
        """Return the next answer. Raises UserError if the row cannot be measured, ProcessFailed after a crash."""
        name = self.measured.row.name
        try:
            kind, answer = self._own.recv()
        except EOFError:
            self._process.join()
            raise UserError(f"the process of {name} ended with exit code {self._process.exitcode}") from None
        if kind == REFUSED:
            raise UserError(answer)
        if kind == FAILED:
            raise ProcessFailed(f"{name} failed:\n{answer}")
        return answer

    def ask(self, request: Any) -> Any:
        """Send a request and return its answer."""
        self._own.send(request)
        return self.receive()

    def close(self) -> None:
        """End the process; one that is busy is terminated."""
        self._own.close()
        self._process.join(ENDING)
        self._process.terminate()
        self._process.join()


def bench(model: Checkpoint, weights: str, settings: BenchSettings) -> Bench:
    """Measure the rows of the settings in turn, each in a process of its own; `weights` is the model's path or name.

    A UserError in a row becomes its reason. Raises ProcessFailed for other errors.
    """
    imgsz = settings.imgsz or model.imgsz
    index = None if settings.data == "none" else load_split(settings.data, settings.split, model.data or "shapes")
    if index is not None:
        category_ids_for(model, index)  # raises UserError for a class that the model does not know
    photos = choose_photos(index, imgsz)
    with temporary_folder() as temporary, ExitStack() as stack:
        file = temporary / "photos.npz"
        np.savez(file, *photos)
        rows, running = plan_rows(model, weights, settings, temporary), []
        before = os.getloadavg()[0]
        for one in rows:
            if not one.reason:
                say(f"loading {one.row.name}")
                process = stack.enter_context(closing(RowProcess(one, settings, imgsz, file)))
                try:
                    one.first = process.receive()
                    running.append(process)
                except UserError as error:
                    one.reason = str(error)
        take_turns(running, settings.rounds)
        load = before, os.getloadavg()[0]
        if index is not None:
            measure_ap(running, index)
    sizes = [(photo.shape[0], photo.shape[1]) for photo in photos]
    return Bench(rows, imgsz, sizes, index.name if index is not None else None, load)


def take_turns(running: Sequence[RowProcess], rounds: int) -> None:
    """Let each process detect in all photos, one process after the other, so that other work delays all alike."""
    with Steps("measuring", rounds * len(running)) as steps:
        for _ in range(rounds):
            for process in running:
                process.measured.times += process.ask("round")
                steps.advance(process.measured.row.name)
    for process in running:
        process.measured.memory = process.ask("memory")


def measure_ap(running: Sequence[RowProcess], index: DetectionIndex) -> None:
    """Measure AP of each row but those of random weights, one row after the other."""
    for process in running:
        one = process.measured
        if one.row.is_trained:
            say(f"AP of {one.row.name} on {index.name}")
            one.ap = process.ask(index)


def choose_photos(index: DetectionIndex | None, imgsz: int) -> list[Pixels]:
    """Read PHOTOS images of a split, or draw two of coarse noise, landscape and portrait."""
    if index is not None:
        positions = np.unique(np.linspace(0, len(index) - 1, PHOTOS).astype(int))
        return [read_image(str(path)) for path in index.paths[positions].tolist()]
    cells = np.random.default_rng(0).integers(0, 256, (imgsz // 16, imgsz // 12, 3), dtype=np.uint8)
    landscape = cells.repeat(16, 0).repeat(16, 1)
    return [landscape, np.ascontiguousarray(landscape.transpose(1, 0, 2))]


def plan_rows(model: Checkpoint, weights: str, settings: BenchSettings, folder: Path) -> list[Measured]:
    """Write the weights and export the files of all rows into a folder; a row that cannot be made has its reason."""
    (folder / "model.safetensors").write_bytes(pack(model.content()))
    rows = []
    for name in settings.rows:
        try:
            if name == "torchvision":
                rows.append(Measured(torchvision_row(model, weights), str(pick_device(settings.device))))
            elif name in KINDS:
                rows.append(plan_row(name, model, settings, folder))
            else:
                rows.append(given_row(name))
        except UserError as error:
            rows.append(Measured(Row(name, ""), "", str(error)))
    return rows


def plan_row(name: str, model: Checkpoint, settings: BenchSettings, folder: Path) -> Measured:
    """Plan a row of KINDS, and export its file unless another row has the same one.

    Raises UserError without the packages, and for bfloat16 without instructions for it.
    """
    kind = KINDS[name]
    device = torch.device("cpu") if kind.format else pick_device(settings.device)
    if kind.amp == "bf16" and amp_dtype(device, "auto") is None:
        raise UserError(f"{device} has no instructions for bfloat16")
    file = checkpoint = folder / "model.safetensors"
    if kind.format is not None:
        target = folder / f"{kind.format}{'-int8' if kind.int8 else ''}"
        if not target.exists():
            data = settings.data if kind.int8 and settings.data != "none" else None
            given = {"format": kind.format, "int8": kind.int8, "data": data, "imgsz": settings.imgsz}
            exporter.export(model, lambda: new_folder(target), resolve(ExportSettings, given, environ={}))
        file = next(path for path in target.iterdir() if path.suffix != ".bin")
    return Measured(Row(name, str(file), kind.amp, kind.compiled, size_of(file), str(checkpoint)), str(device))


def given_row(name: str) -> Measured:
    """Plan the row of an exported file, or of the folder that holds one. Raises UserError if there is none."""
    file = exported_file(Path(name))
    if file is None or not file.is_file():
        raise UserError(f"--files: there is no exported file at {name}", "check the path")
    return Measured(Row(name, str(file), size=size_of(file)), "cpu")


def new_folder(path: Path) -> AbstractContextManager[Path]:
    """Make a folder."""
    path.mkdir()
    return nullcontext(path)


def size_of(file: Path) -> int:
    """Return the size of an exported file in bytes, with the weights beside OpenVINO's .xml."""
    parts = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
    return sum(part.stat().st_size for part in parts)


def torchvision_row(model: Checkpoint, weights: str) -> Row:
    """Plan the row of torchvision's detector: with the same weights if it published them, else with random ones.

    Raises UserError if torchvision has no such network.
    """
    if weights in NAMES:
        return Row("torchvision", f"{PUBLISHED}{NAMES[weights]}")
    arch = model.architecture
    if arch.backbone not in TORCHVISION or arch.fpn_channels != PYRAMID or arch.head != "retinanet":
        network = f"{arch.head} of {arch.backbone} with {arch.fpn_channels} channels"
        raise UserError(f"torchvision has no {network}", f"only RetinaNets of ResNets with {PYRAMID}")
    name = "torchvision (random weights)"
    return Row(name, f"{RANDOM}{TORCHVISION[arch.backbone]}", classes=len(model.classes))


KINDS = {
    "pytorch": Kind(),
    "pytorch-bf16": Kind(amp="bf16"),
    "pytorch-compiled": Kind(compiled=True),
    "onnx": Kind("onnx"),
    "openvino": Kind("openvino"),
    "openvino-bf16": Kind("openvino", amp="bf16"),
    "openvino-int8": Kind("openvino", int8=True),
    "pt2": Kind("pt2"),
}
"""Rows by name, beside `torchvision`; `cledet.config.types.BENCH_ROWS` lists the names for the command line."""
