"""COCO's figures: pycocotools' own, to the last digit."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cledet.data.index import DetectionIndex
from cledet.evaluation.figures import METRICS, Evaluation
from cledet.evaluation.results import Results


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
