"""COCO's metrics, equal to those of pycocotools to the last digit, with VOC's, the best F1, and score against IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cledet.data.index import DetectionIndex, Floats, Ints
from cledet.metrics.average_precision import RECALLS, mean, precision_at
from cledet.metrics.confidence import best_confidences
from cledet.metrics.evaluation import Evaluation, Limits, Metrics
from cledet.metrics.matching import THRESHOLDS, Overlaps, overlaps
from cledet.metrics.results_file import DetectionRows
from cledet.metrics.tp_ranks import Part, matchable_detections
from cledet.metrics.voc import voc_aps


def evaluate(
    index: DetectionIndex,
    results: DetectionRows,
    limits: Limits = Limits(),  # noqa: B008
    *,
    correlation: bool = False,
) -> Evaluation:
    """Compute COCO's metrics as pycocotools does, VOC's, and the confidence of highest F1.

    With `correlation`, for detections whose candidates are unknown, `misalignment` is computed too. All metrics of a
    split without boxes are None.
    """
    o = overlaps(index, results, most=None)
    voc = dict(zip(("VOC07", "VOC12"), voc_aps(o, o.same)))
    o = o.best(limits.max_dets[-1])
    coco = coco_metrics(o, limits)
    match = o.match()
    overall, best = best_confidences(o, match)
    per_class = {
        name: {**coco[name], **{key: values[k] for key, values in voc.items()}, **best[k]}
        for k, name in enumerate(index.classes)
    }
    means = {key: mean(np.array(values, dtype=np.float64)) for key, values in voc.items()}
    positives = np.flatnonzero(match.correct)
    positives = positives[np.argsort(o.row[positives])]  # in the order of the results
    matched = np.column_stack([o.score[positives], match.iou[positives]])
    misalignment = score_iou_correlation(matched) if correlation else None
    return Evaluation({**coco[None], **means}, per_class, overall, misalignment=misalignment)


def coco_metrics(o: Overlaps, limits: Limits) -> dict[str | None, Metrics]:
    """Compute the twelve metrics of each class by name, and of all classes under None.

    They are means over the arrays of pycocotools' `accumulate`, in its order, and so equal to the last digit.
    """
    precision, recall = precision_and_recall(o, limits)
    order = np.argsort(o.index.category_ids)
    metrics: dict[str | None, Metrics] = {None: twelve_metrics(precision[:, :, order], recall[:, order], limits)}
    for k, name in enumerate(o.index.classes):
        metrics[name] = twelve_metrics(precision[:, :, [k]], recall[:, [k]], limits)
    return metrics


def precision_and_recall(o: Overlaps, limits: Limits) -> tuple[Floats, Floats]:
    """Compute precision [T, R, C, 4] per area range and recall [T, C, 6] per AR; -1 for classes without objects.

    T IoU thresholds from 0.50 to 0.95, R recalls, C classes.
    """
    matchable, most = matchable_detections(o), limits.max_dets
    precisions, recalls = [], []
    for number, (low, high) in enumerate(limits.ranges):
        objects, detections = ((low <= area) & (area <= high) for area in (o.index.area, o.area))
        precision, recall = _of_part(matchable.part(objects, detections), most[-1:] if number else most)
        precisions.append(precision)
        recalls.append(recall)
    return np.stack(precisions, axis=-1), np.concatenate(recalls, axis=-1)


def _of_part(part: Part, most: Sequence[int]) -> tuple[Floats, Floats]:
    """Compute precision [T, R, C] of a subset, and recall [T, C, M] at each number of detections."""
    count = part.of.o.counts(part.objects)
    known, classes = np.flatnonzero(count), len(count)
    precision = np.full((len(THRESHOLDS), len(RECALLS), classes), -1.0)
    recall = np.full((len(THRESHOLDS), classes, len(most)), -1.0)
    before = part.of.o.before[part.of.detection]
    for t, ranks in enumerate(map(part.ranks, THRESHOLDS)):
        by_class = ranks.by_class(classes)
        for k in known.tolist():
            precision[t, :, k] = precision_at(by_class[k], int(count[k]))
        for m, limit in enumerate(most):
            hits = np.bincount(ranks.label[before[ranks.position] < limit], minlength=classes)
            recall[t, known, m] = hits[known] / count[known]
    return precision, recall


def twelve_metrics(precision: Floats, recall: Floats, limits: Limits) -> Metrics:
    """Compute the twelve metrics from precision [T, R, K, 4] and recall [T, K, 6] of K classes."""
    areas = [precision[:, :, :, area] for area in range(4)]
    values = [areas[0], areas[0][:1], areas[0][5:6], *areas[1:], *(recall[:, :, one] for one in range(6))]
    return {name: _mean(cells) for name, cells in zip(limits.names, values)}


def _mean(values: Floats) -> float | None:
    """Return the mean of the cells that were measured; -1 marks the others."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None


def score_iou_correlation(matched: Floats) -> dict[str, Any]:
    """Compute `spearman` and `kept_iou` of score and IoU [n, 2], see `cledet.evaluation.misalignment`."""
    return {"spearman": spearman(matched[:, 0], matched[:, 1]), "kept_iou": mean(matched[:, 1])}


def spearman(a: Floats, b: Floats) -> float | None:
    """Compute Spearman's rank correlation of two columns [n]; None if n < 2 or a column is constant."""
    x, y = (ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread else None


def ranks(values: Floats) -> Floats:
    """Rank values [n] from 1, lowest first; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: Floats = (counts.cumsum() - (counts - 1) / 2)[place]
    return shared


def spearman_by_group(a: Floats, b: Floats, group: Ints, groups: int) -> Floats:
    """Compute Spearman's rank correlation of two columns [n] within each group [n]: [groups].

    It is nan for a group of fewer than two values, or in which a column is constant.
    """
    x, y = (centered_ranks(values, group, groups) for values in (a, b))
    xy, xx, yy = (np.bincount(group, product, minlength=groups) for product in (x * y, x * x, y * y))
    spread = np.sqrt(xx * yy)
    return np.divide(xy, spread, out=np.full(groups, np.nan), where=spread > 0)


def centered_ranks(values: Floats, group: Ints, groups: int) -> Floats:
    """Rank values [n] within each group [n], minus the mean rank of the group; equal values share their mean rank."""
    order = np.lexsort((values, group))
    one, place = values[order], group[order]
    run = np.concatenate([[0], ((np.diff(one) != 0) | (np.diff(place) != 0)).cumsum()])[: len(order)]
    counts, sizes = np.bincount(run), np.bincount(group, minlength=groups)
    rank = (counts.cumsum() - (counts - 1) / 2)[run]
    middle = sizes.cumsum() - (sizes - 1) / 2
    centered = np.empty(len(order))
    centered[order] = rank - middle[place]
    return centered
