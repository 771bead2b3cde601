"""Evaluation: a network's detections over a split, and pycocotools' figures for them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cledet.data.dataset import Batch
from cledet.data.index import DetectionIndex
from cledet.engine.devices import autocast
from cledet.errors import UserError
from cledet.models.decode import PostProcess
from cledet.models.network import RetinaNet

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve figures, in pycocotools' order."""

Results = NDArray[np.float64]
"""Detections [D, 7] as pycocotools takes them: image id, x, y, w, h, score, category id."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of a split: fractions, None where there is nothing to measure."""

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]

    def to_dict(self) -> dict[str, Any]:
        return {**self.metrics, "per_class": self.per_class}


@torch.inference_mode()
def detect(
    network: RetinaNet,
    batches: Iterable[Batch],
    post: PostProcess,
    category_ids: Sequence[int],
    device: torch.device,
    dtype: torch.dtype | None,
) -> Results:
    """Run the network over the batches; detections are in pixels of the original images."""
    network.eval()
    ids = np.asarray(category_ids, dtype=np.float64)
    found = [np.zeros((0, 7))]
    for batch in batches:
        batch = batch.to(device)
        with autocast(device, dtype):
            raw = network(batch.images)
        for i, (boxes, scores, labels) in enumerate(post(raw, batch.sizes)):
            boxes = to_original(boxes, batch.sizes[i], batch.original_sizes[i])
            rows = np.empty((len(boxes), 7))
            rows[:, 0] = int(batch.image_ids[i])
            rows[:, 1:5] = boxes.double().cpu().numpy()
            rows[:, 3:5] -= rows[:, 1:3]
            rows[:, 5] = scores.double().cpu().numpy()
            rows[:, 6] = ids[labels.cpu().numpy()]
            found.append(rows)
    return np.concatenate(found)


def to_original(boxes: Tensor, size: Tensor, original: Tensor) -> Tensor:
    """Boxes [K, 4] of an image resized to `size` (h, w) -> pixels of the image of size `original` (h, w)."""
    scale = (original / size).flip(0).repeat(2).to(boxes)
    return boxes * scale


def evaluate(index: DetectionIndex, results: Results) -> Evaluation:
    """COCO's figures, as pycocotools computes them."""
    api, evaluator = coco_backend()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = api()
        truth.dataset = index.to_coco()
        truth.createIndex()
        coco = evaluator(truth, _as_coco(truth, results), "bbox")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    return Evaluation(
        metrics={name: _figure(value) for name, value in zip(METRICS, coco.stats)},
        per_class=_per_class(coco, index),
    )


def coco_backend() -> tuple[Any, Any]:
    """COCO and COCOeval: of ultrafast-pycocotools where it is installed, else of pycocotools; the figures are equal."""
    try:
        from ultrafast_pycocotools import COCO, COCOeval
    except ImportError:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    return COCO, COCOeval


def _as_coco(truth: Any, results: Results) -> Any:
    if len(results):
        return truth.loadRes(results)
    nothing = type(truth)()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def _per_class(coco: Any, index: DetectionIndex) -> dict[str, dict[str, float | None]]:
    """AP and AP50 of each class, over all areas and 100 detections an image."""
    precision = coco.eval["precision"][:, :, :, 0, -1]  # [10 IoU thresholds, 101 recalls, classes]
    order = {category: k for k, category in enumerate(coco.params.catIds)}
    figures = {}
    for name, category in zip(index.classes, index.category_ids):
        values = precision[:, :, order[int(category)]]
        figures[name] = {"AP": _mean(values), "AP50": _mean(values[0])}
    return figures


def _mean(values: NDArray[np.float64]) -> float | None:
    values = values[values > -1]
    return float(values.mean()) if values.size else None


def _figure(value: float) -> float | None:
    return None if value < 0 else float(value)


def read_results(path: Path, index: DetectionIndex) -> Results:
    """Detections from a file in COCO's results format; ids that the split does not have are refused by name."""
    try:
        content = json.loads(path.read_text())
        rows = [(d["image_id"], *d["bbox"], d["score"], d["category_id"]) for d in content]
        results = np.array(rows, dtype=np.float64).reshape(-1, 7)
    except FileNotFoundError:
        raise UserError(f"there is no predictions file {path}", "check the path") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not in COCO's results format ({type(error).__name__}: {error})",
            'a list of {"image_id", "category_id", "bbox": [x, y, w, h], "score"}',
        ) from None
    for what, column, known in (("image", 0, index.image_ids), ("category", 6, index.category_ids)):
        strange = np.setdiff1d(results[:, column], known)
        if len(strange):
            first = strange[:5].astype(int).tolist()
            raise UserError(f"{path} names {what} ids that {index.name} does not have: {first}")
    return results


def to_coco_results(results: Results) -> list[dict[str, Any]]:
    """Detections in COCO's results format, unrounded; `read_results` reads them back the same."""
    return [
        {"image_id": int(image), "category_id": int(category), "bbox": box, "score": score}
        for image, *box, score, category in results.tolist()
    ]
