"""What NMS chooses from, image by image: a network's decoded boxes, or another detector's from a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cledet.data.dataset import Batch
from cledet.data.index import Ints
from cledet.distributed.devices import autocast, within_memory
from cledet.evaluation.timing import DATA, NETWORK, Stages
from cledet.metrics.results_file import Results
from cledet.models.network import RetinaNet
from cledet.models.nms import Kept
from cledet.models.postprocess import candidates


class Candidates(NamedTuple):
    """The boxes of one image before NMS."""

    image_id: int
    boxes: Tensor  # [M, 4] xyxy in pixels of what the detector saw
    scores: Tensor  # [M]
    labels: Tensor  # [M] int64
    scale: Tensor  # [4] takes the boxes to pixels of the original image
    category_ids: Ints  # [C] the data set's class id of each label


@torch.inference_mode()
def from_network(
    network: RetinaNet,
    batches: Iterable[Batch],
    conf: float,
    category_ids: Sequence[int],
    device: torch.device,
    dtype: torch.dtype | None,
    stages: Stages | None = None,
) -> Iterator[Candidates]:
    """Run the network over the batches; of each image the candidates that score over `conf`.

    Raises UserError if a batch does not fit into the device's memory.
    """
    network.eval()
    ids = np.asarray(category_ids, dtype=np.int64)
    stages = stages or Stages(device)
    for batch in stages.waiting(DATA, batches):
        with stages(NETWORK), within_memory(device, "lower --batch or --imgsz"):
            batch = batch.to(device)
            with autocast(device, dtype):
                raw = network(batch.images)
            found = candidates(raw, batch.sizes, conf)
        for i, (boxes, scores, labels) in enumerate(found):
            scale = original_scale(batch.sizes[i], batch.original_sizes[i])
            yield Candidates(int(batch.image_ids[i]), boxes, scores, labels, scale, ids)


def from_results(results: Results) -> Iterator[Candidates]:
    """Those of any detector, already in pixels of the original images; images without any are left out."""
    ids, labels = np.unique(results[:, 6].astype(np.int64), return_inverse=True)
    for rows in by_image(results):
        found = torch.from_numpy(results[rows])
        boxes = torch.cat([found[:, 1:3], found[:, 1:3] + found[:, 3:5]], 1)
        yield Candidates(int(found[0, 0]), boxes, found[:, 5], torch.from_numpy(labels[rows]), found.new_ones(4), ids)


def by_image(results: Results) -> list[Ints]:
    """The rows of each image that has any, in the order they come in."""
    order = np.argsort(results[:, 0], kind="stable")
    starts = np.flatnonzero(np.diff(results[order, 0])) + 1
    return [rows for rows in np.split(order, starts) if len(rows)]


def to_results(found: Candidates, kept: Kept) -> Results:
    """What NMS left of the candidates, in pixels of the original image."""
    rows = np.empty((len(kept.keep), 7))
    rows[:, 0] = found.image_id
    rows[:, 1:5] = (kept.boxes * found.scale.to(kept.boxes)).double().cpu().numpy()
    rows[:, 3:5] -= rows[:, 1:3]
    rows[:, 5] = kept.scores.double().cpu().numpy()
    rows[:, 6] = found.category_ids[found.labels[kept.keep].cpu().numpy()]
    return rows


def everything(found: Candidates) -> Results:
    """All candidates in pixels of the original image, in their order."""
    every = torch.arange(len(found.boxes), device=found.boxes.device)
    return to_results(found, Kept(every, found.scores, found.boxes))


def to_original(boxes: Tensor, size: Tensor, original: Tensor) -> Tensor:
    """Boxes [K, 4] of an image resized to `size` (h, w) -> pixels of the image of size `original` (h, w)."""
    return boxes * original_scale(size, original).to(boxes)


def original_scale(size: Tensor, original: Tensor) -> Tensor:
    """What to multiply a box's four coordinates by to take it from `size` (h, w) to `original` (h, w): [4]."""
    return (original / size).flip(0).repeat(2)
