"""One row of `cledet bench` in a process of its own: it loads a detector and measures it when it is asked to."""

from __future__ import annotations

import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from cledet.config.base import long_side
from cledet.config.evaluate import BenchSettings
from cledet.data.dataset import DetectionDataset
from cledet.data.images import Pixels
from cledet.data.index import DetectionIndex
from cledet.distributed.devices import amp_dtype, pick_device
from cledet.errors import UserError
from cledet.evaluation.evaluator import nms_options
from cledet.export.runtime import ExportedModel, open_exported
from cledet.inference.predictor import Predictor
from cledet.inference.torchvision_detector import (
    PreparedDetector,
    Thresholds,
    TorchvisionDetector,
    load_network,
    with_thresholds,
)
from cledet.io.weight_files import exported_file
from cledet.metrics.coco import evaluate
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.fold import fold_batch_norm

READY, DONE, REFUSED, FAILED = "ready", "done", "refused", "failed"
"""Kinds of answers: seconds to the first boxes, a measurement, the reason of a UserError, a traceback."""
PUBLISHED, RANDOM = "torchvision:", "torchvision-random:"
"""Prefixes of a row's weights: a detector of torchvision by name, or a backbone of torchvision with random weights."""
STATUS = Path("/proc/self/status")

Detect = Callable[[Pixels], Any]
"""From an RGB image [H, W, 3] to an object with boxes, scores and labels."""


@dataclass(frozen=True)
class Row:
    """Subject of a row's measurements."""

    name: str
    weights: str
    """A checkpoint, an exported file, or a name with the prefix PUBLISHED or RANDOM."""
    amp: str = "off"
    compiled: bool = False
    size: int = 0
    """Bytes of the file."""
    checkpoint: str = ""
    """The weights from which the file was exported."""
    classes: int = 0
    """Number of classes, for random weights."""

    @property
    def is_trained(self) -> bool:
        """Return False for random weights."""
        return not self.weights.startswith(RANDOM)


def serve(connection: Connection, row: Row, settings: BenchSettings, imgsz: int, photos: Path) -> None:
    """Load the row's detector, detect in each photo once, and answer requests until the other end closes.

    A request is "round" (milliseconds of each photo), "memory" (growth of the peak in bytes) or an index (AP).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends this one
    with suppress(EOFError, BrokenPipeError):
        try:
            with np.load(photos) as stored:
                images = [stored[name] for name in stored.files]
            before, start = peak_memory(), time.perf_counter()
            detect, names = open_row(row, settings, imgsz)
            first_call(detect, images[0], row.compiled)
            connection.send((READY, time.perf_counter() - start))
            for image in images[1:]:
                detect(image)
            while (request := connection.recv()) is not None:
                if request == "round":
                    answer: Any = time_photos(detect, images)
                elif request == "memory":
                    answer = device_memory(settings) or peak_memory() - before
                else:
                    answer = average_precision(detect, names, request)
                connection.send((DONE, answer))
        except UserError as error:
            connection.send((REFUSED, str(error)))
        except Exception:
            connection.send((FAILED, traceback.format_exc()))


def time_photos(detect: Detect, images: list[Pixels]) -> list[float]:
    """Measure the milliseconds from each image to its boxes, after one call that is not counted."""
    detect(images[0])
    times = []
    for image in images:
        start = time.perf_counter()
        detect(image)
        times.append(1000 * (time.perf_counter() - start))
    return times


def first_call(detect: Detect, image: Pixels, compiled: bool) -> None:
    """Detect once. Raises UserError if the network cannot be compiled."""
    try:
        detect(image)
    except RuntimeError as error:
        if not compiled:
            raise
        raise UserError(f"torch.compile failed: {str(error).strip().splitlines()[0][:200]}") from None


def average_precision(detect: Detect, names: tuple[str, ...], index: DetectionIndex) -> float | None:
    """Compute AP of the detections on a split; those of classes that it lacks are dropped."""
    ids = dict(zip(index.classes, index.category_ids.tolist()))
    images, rows = DetectionDataset(index, short=32, long=32), [np.zeros((0, 7))]  # read without resizing
    for i, image_id in enumerate(index.image_ids.tolist()):
        found = detect(images.read(i).image)
        boxes = found.boxes.numpy().astype(np.float64)
        scores, categories = found.scores.numpy(), [ids.get(names[label], -1) for label in found.labels.tolist()]
        sides = boxes[:, 2:] - boxes[:, :2]
        rows.append(np.column_stack([np.full(len(boxes), image_id), boxes[:, :2], sides, scores, categories]))
    results = np.concatenate(rows)
    return evaluate(index, results[results[:, 6] >= 0]).metrics["AP"]


def open_row(row: Row, settings: BenchSettings, imgsz: int) -> tuple[Detect, tuple[str, ...]]:
    """Open the detector of a row; returns a function from images to detections, and the names of the labels."""
    name = row.weights.partition(":")[2]
    if row.weights.startswith(RANDOM):
        return torchvision_detect(random_retinanet(name, row.classes), settings, imgsz), ()
    if row.weights.startswith(PUBLISHED):
        return torchvision_detect(load_network(name), settings, imgsz), TorchvisionDetector(name).names
    device = pick_device(settings.device)
    model: Checkpoint
    network: Any
    if Path(row.weights).suffix == ".pt2" or exported_file(Path(row.weights)) is not None:
        device, model = torch.device("cpu"), (exported := open_file(Path(row.weights), Path(row.checkpoint)))
        network = exported.runtime
    else:
        model = load_checkpoint(Path(row.weights))
        network = fold_batch_norm(model.network()).to(device)
    if row.compiled:
        network = torch.compile(network, dynamic=True)
    predictor = Predictor(
        network=network,
        options=nms_options(settings, model.components),
        imgsz=imgsz,
        device=device,
        dtype=amp_dtype(device, row.amp),
        names=model.classes,
        category_ids=model.category_ids,
    )
    return predictor.predict, model.classes


def open_file(file: Path, checkpoint: Path) -> ExportedModel:
    """Open an exported file; a .pt2, which only bench runs, with the metadata of its checkpoint."""
    if file.suffix != ".pt2":
        return open_exported(file)
    model = load_checkpoint(checkpoint)
    return ExportedModel(**vars(model), path=file, format="pt2", canvas=None, batched=True)


def torchvision_detect(network: nn.Module, settings: BenchSettings, imgsz: int) -> Detect:
    """Give a RetinaNet of torchvision the image size and the thresholds of the settings."""
    transform: Any = network.transform
    transform.min_size, transform.max_size = (imgsz,), long_side(imgsz)
    device, limits = pick_device(settings.device), Thresholds(settings.conf, settings.iou, settings.max_det)
    return PreparedDetector(with_thresholds(network.to(device), limits), device).detect


def random_retinanet(backbone: str, classes: int) -> nn.Module:
    """Build torchvision's RetinaNet with random weights and frozen batch norm, as in its published detectors."""
    pyramid = resnet_fpn_backbone(
        backbone_name=backbone,
        weights=None,
        trainable_layers=0,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return detection.RetinaNet(pyramid, classes + 1).eval()


def peak_memory() -> int:
    """Return the peak resident set of this process in bytes."""
    if STATUS.is_file():  # ru_maxrss begins with the parent's peak on Linux
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_memory(settings: BenchSettings) -> int:
    """Return the peak of the memory that PyTorch holds on a CUDA device in bytes, 0 on others."""
    device = pick_device(settings.device)
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
