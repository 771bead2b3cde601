"""COCO's twelve metrics by the reference implementation, `pycocotools.cocoeval.COCOeval`."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from cledet.config.evaluate import ValSettings
from cledet.console import say
from cledet.data.convert.write_coco import coco_document
from cledet.data.index import DetectionIndex
from cledet.metrics.coco import twelve_metrics
from cledet.metrics.evaluation import EvaluatedDetections, Limits, Metrics
from cledet.metrics.results_file import DetectionRows


def coco_annotations(index: DetectionIndex) -> dict[str, Any]:
    """Convert a split to the content of a COCO annotation file, with the paths of the images as their names."""
    return {"info": {"description": index.name}, **coco_document(index, index.paths.tolist())}


def evaluate_with_pycocotools(index: DetectionIndex, results: DetectionRows, limits: Limits = Limits()) -> Metrics:  # noqa: B008
    """Compute the twelve metrics with COCOeval; a metric without objects to measure is None.

    `COCOeval.summarize` measures AP at 100 detections only, so the means over its precision [T, R, K, A, M] and recall
    [T, K, A, M] are taken here.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = coco_annotations(index)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(results) if len(results) else COCO(), "bbox")
        coco.params.maxDets, coco.params.areaRng = list(limits.max_dets), limits.ranges
        coco.evaluate()
        coco.accumulate()
    precision, recall = coco.eval["precision"][..., -1], coco.eval["recall"]
    return twelve_metrics(precision, np.concatenate([recall[:, :, 0], recall[:, :, 1:, -1]], axis=-1), limits)


def apply_evaluator(
    evaluated: EvaluatedDetections, index: DetectionIndex, settings: ValSettings
) -> EvaluatedDetections:
    """Report the metrics of the evaluator that the settings name, and log how pycocotools and the fast one differ."""
    if settings.evaluator == "fast" or evaluated.unlabelled is not None:
        return evaluated
    limits = Limits(settings.eval_max_dets, settings.areas)
    fast, reference = evaluated.evaluation.metrics, evaluate_with_pycocotools(index, evaluated.results, limits)
    say(differences({name: fast[name] for name in reference}, reference))
    return evaluated.with_fields(metrics={**fast, **reference})


def differences(fast: Metrics, reference: Metrics) -> str:
    """Return a sentence that names the metrics of the fast evaluator that are not those of pycocotools."""
    unequal = [name for name, value in reference.items() if fast[name] != value]
    if not unequal:
        return f"pycocotools: all {len(reference)} metrics are equal to those of the fast evaluator"
    parts = []
    for name in unequal:
        known = reference[name] is not None and fast[name] is not None
        gap = f", difference {reference[name] - fast[name]:+.1e}" if known else ""  # type: ignore[operator]
        parts.append(f"{name} {reference[name]} (fast: {fast[name]}{gap})")
    return (
        f"pycocotools differs from the fast evaluator in {len(unequal)} of {len(reference)} metrics: {', '.join(parts)}"
    )
