"""Evaluation: pycocotools' figures for the detections of a split, and its file format."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cledet.data.index import DetectionIndex
from cledet.errors import UserError

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve figures, in pycocotools' order."""

Results = NDArray[np.float64]
"""Detections [D, 7] as pycocotools takes them: image id, x, y, w, h, score, category id."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of a split: fractions, None where there is nothing to measure."""

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    nms_ms: float | None = None
    """Milliseconds of NMS an image, the median."""
    misalignment: dict[str, Any] | None = None
    """How well scores say how well boxes lie, see `cledet.engine.misalignment`."""
    gain: dict[str, float] | None = None
    """AP less that of the first method compared, and the low and high end of its 95 % interval over images."""

    def to_dict(self) -> dict[str, Any]:
        """COCO's figures and those of each class; the others where they were measured."""
        extra = {"nms_ms": self.nms_ms, "misalignment": self.misalignment, "gain": self.gain}
        figures = {**self.metrics, "per_class": self.per_class}
        return figures | {name: value for name, value in extra.items() if value is not None}


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
