"""Boxes before NMS, image by image: decoded by a network, or read from a results file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cledet.data.dataset import Batch
from cledet.data.index import Ints
from cledet.distributed.devices import autocast, within_memory
from cledet.evaluation.timing import DATA, NETWORK, StageTimer
from cledet.metrics.results_file import DetectionRows
from cledet.models.network import Network
from cledet.models.nms import Kept
from cledet.models.postprocess import candidates


class Candidates(NamedTuple):
    """The boxes of one image before NMS."""

    image_id: int
    boxes: Tensor  # [M, 4] xyxy in pixels of the network's input
    scores: Tensor  # [M]
    labels: Tensor  # [M] int64
    scale: Tensor  # [4] factors that convert boxes to pixels of the original image
    category_ids: Ints  # [C] the data set's category id of each label


@torch.inference_mode()
def from_network(
    network: Network,
    batches: Iterable[Batch],
    conf: float,
    category_ids: Sequence[int],
    device: torch.device,
    dtype: torch.dtype | None,
    timer: StageTimer | None = None,
) -> Iterator[Candidates]:
    """Run the network over the batches and yield the candidates of each image that score above `conf`.

    Raises UserError if a batch does not fit into the device's memory.
    """
    network.eval()
    ids = np.asarray(category_ids, dtype=np.int64)
    timer, waiting = timer or StageTimer(device), iter(batches)
    while True:
        with timer(DATA):
            batch = next(waiting, None)
        if batch is None:
            return
        with timer(NETWORK), within_memory(device, "lower --batch or --imgsz"):
            batch = batch.to(device)
            with autocast(device, dtype):
                raw = network(batch.images)
            per_image = candidates(raw, batch.sizes, conf)
        for i, (boxes, scores, labels) in enumerate(per_image):
            scale = original_scale(batch.sizes[i], batch.original_sizes[i])
            yield Candidates(int(batch.image_ids[i]), boxes, scores, labels, scale, ids)


def from_results(results: DetectionRows) -> Iterator[Candidates]:
    """Yield the detections of each image of a results array, in pixels of the original images."""
    ids, labels = np.unique(results[:, 6].astype(np.int64), return_inverse=True)
    for rows in by_image(results):
        own = torch.from_numpy(results[rows])
        boxes = torch.cat([own[:, 1:3], own[:, 1:3] + own[:, 3:5]], 1)
        yield Candidates(int(own[0, 0]), boxes, own[:, 5], torch.from_numpy(labels[rows]), own.new_ones(4), ids)


def by_image(results: DetectionRows) -> list[Ints]:
    """Group the rows by image, in order within each image."""
    order = np.argsort(results[:, 0], kind="stable")
    starts = np.flatnonzero(np.diff(results[order, 0])) + 1
    return [rows for rows in np.split(order, starts) if len(rows)]


def to_results(image: Candidates, kept: Kept) -> DetectionRows:
    """Convert the boxes that NMS kept to results [K, 7], in pixels of the original image."""
    rows = np.empty((len(kept.keep), 7))
    rows[:, 0] = image.image_id
    rows[:, 1:5] = (kept.boxes * image.scale.to(kept.boxes)).cpu().double().numpy()
    rows[:, 3:5] -= rows[:, 1:3]
    rows[:, 5] = kept.scores.cpu().double().numpy()
    rows[:, 6] = image.category_ids[image.labels[kept.keep].cpu().numpy()]
    return rows


def all_candidates(image: Candidates) -> DetectionRows:
    """Convert all candidates to results [M, 7], in pixels of the original image."""
    every = torch.arange(len(image.boxes), device=image.boxes.device)
    return to_results(image, Kept(every, image.scores, image.boxes))


def original_scale(size: Tensor, original: Tensor) -> Tensor:
    """Return the factors [4] that convert box coordinates from `size` (h, w) to `original` (h, w)."""
    return (original / size).flip(0).repeat(2)
