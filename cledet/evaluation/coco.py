"""COCO's figures: pycocotools' own, to the last digit; with them VOC's, and the confidence of highest F1."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cledet.data.index import DetectionIndex, Floats
from cledet.evaluation.agreement import agreement
from cledet.evaluation.average import mean
from cledet.evaluation.confidence import NOWHERE, best_confidences
from cledet.evaluation.figures import Evaluation, Figures, Limits
from cledet.evaluation.overlaps import overlaps
from cledet.evaluation.results import Results
from cledet.evaluation.voc import voc_aps


def evaluate(index: DetectionIndex, results: Results, limits: Limits = Limits()) -> Evaluation:  # noqa: B008
    """COCO's figures, as pycocotools computes them; VOC's; and the confidence of highest F1.

    A split without any boxes has no figures: all are None.
    """
    return _evaluate(index, results, limits)[0]


def evaluate_alone(index: DetectionIndex, results: Results, limits: Limits) -> Evaluation:
    """The same with `misalignment`, of detections whose candidates are not known."""
    evaluation, matched = _evaluate(index, results, limits)
    return replace(evaluation, misalignment=agreement(matched))


def _evaluate(index: DetectionIndex, results: Results, limits: Limits) -> tuple[Evaluation, Floats]:
    """The figures, and score and IoU [n, 2] of the detections that are matched with an object, as they came."""
    if not index.num_boxes:
        nothing = dict.fromkeys((*limits.names, "VOC07", "VOC12"))
        return Evaluation(nothing, dict.fromkeys(index.classes, nothing | NOWHERE), NOWHERE), np.zeros((0, 2))
    coco = coco_figures(index, results, limits)
    o = overlaps(index, results, most=None)
    voc = dict(zip(("VOC07", "VOC12"), voc_aps(o, o.same)))
    o = o.best(limits.max_dets[-1])
    match = o.match()
    whole, best = best_confidences(o, match)
    per_class: dict[str, Figures] = {}
    for k, name in enumerate(index.classes):
        own = {key: values[k] for key, values in voc.items()}
        per_class[name] = {**coco[name], **own, **best[k]}
    means = {key: mean(np.array(values, dtype=np.float64)) for key, values in voc.items()}
    right = np.flatnonzero(match.correct)
    right = right[np.argsort(o.row[right])]
    matched = np.column_stack([o.score[right], match.iou[right]])
    return Evaluation({**coco[None], **means}, per_class, whole), matched


def coco_figures(index: DetectionIndex, results: Results, limits: Limits) -> dict[str | None, Figures]:
    """The twelve figures of each class by its name, and those of all together as None."""
    api, evaluator = coco_backend()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = api()
        truth.dataset = index.to_coco()
        truth.createIndex()
        coco = evaluator(truth, truth.loadRes(results) if len(results) else api(), "bbox")
        coco.params.maxDets, coco.params.areaRng = list(limits.max_dets), limits.ranges
        coco.evaluate()
        coco.accumulate()
    precision, recall = coco.eval["precision"], coco.eval["recall"]
    order = {category: k for k, category in enumerate(coco.params.catIds)}
    figures: dict[str | None, Figures] = {None: _twelve(precision, recall, limits)}
    for name, category in zip(index.classes, index.category_ids.tolist()):
        k = [order[category]]
        figures[name] = _twelve(precision[:, :, k], recall[:, k], limits)
    return figures


def _twelve(precision: NDArray[np.float64], recall: NDArray[np.float64], limits: Limits) -> Figures:
    """The twelve figures from precision [T, R, K, A, M] and recall [T, K, A, M], as pycocotools' `summarize` has them.

    T IoU thresholds from 0.50 to 0.95, R recalls, K classes, A area ranges, M numbers of detections. `summarize` itself
    finds AP at 100 detections only.
    """
    areas = [precision[:, :, :, area, -1] for area in range(4)]
    values = [areas[0], areas[0][:1], areas[0][5:6], *areas[1:]]
    values += [recall[:, :, 0, count] for count in range(3)] + [recall[:, :, area, -1] for area in (1, 2, 3)]
    return {name: _mean(cells) for name, cells in zip(limits.names, values)}


def coco_backend() -> tuple[Any, Any]:
    """COCO and COCOeval: of ultrafast-pycocotools where it is installed, else of pycocotools; the figures are equal."""
    try:
        from ultrafast_pycocotools import COCO, COCOeval
    except ImportError:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    return COCO, COCOeval


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean of what was measured; -1 stands for nothing."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None
