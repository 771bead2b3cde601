"""Pascal VOC's average precision, by the rule of 2007 and by that of 2010 and later.

Source: the development kits' VOCevaldet.m and VOCap.m (Everingham et al.), which this follows where ports of them
differ. An IoU of exactly the threshold is sufficient, as in the kit; Detectron2 and py-faster-rcnn require more. A
detection is compared only with the ground truth of its class of highest IoU (of equal IoU, the first). If that is
difficult, the detection is ignored. If a detection of higher score (of equal score, the first in the results) has
matched it, the detection is a false positive, even if it overlaps another object. The number of detections per image is
unlimited.

Boxes of VOC's annotations include their last pixel, and so do those of the index, so IoU is that of the kit. Ignored
boxes of other data sets, such as COCO's crowds, count as difficult.
"""

from __future__ import annotations

import numpy as np

from cledet.data.index import Bools
from cledet.metrics.average_precision import envelope
from cledet.metrics.matching import Overlaps, Pairs, box_iou, by_class, tied

POINTS = 11
"""Number of recalls 0, 0.1 ... 1 of the rule of 2007."""


def voc_aps(o: Overlaps, pairs: Pairs, threshold: float = 0.5) -> tuple[list[float | None], list[float | None]]:
    """Compute AP of each class by the 11 points of 2007, and by area; None for classes without objects that count.

    `pairs` are those of equal class at this threshold or a lower one.
    """
    correct, ignored = match_voc(o, pairs, threshold)
    objects, order, equal = o.counts(o.objects).tolist(), np.arange(len(o.score)), tied(o.score)
    order[equal] = equal[np.lexsort((o.row[equal], -o.score[equal]))]  # equal scores in the order of the results
    correct = correct[order]
    by_label = [correct[rows] for rows in by_class(o.label[order], ~ignored[order], len(objects))]
    return tuple(  # type: ignore[return-value]
        [rule(hits, count) if count else None for hits, count in zip(by_label, objects)]
        for rule in (eleven_point_ap, area_ap)
    )


def match_voc(o: Overlaps, pairs: Pairs, threshold: float) -> tuple[Bools, Bools]:
    """Match by VOC's rule; returns masks [D] of the true positives and of the ignored detections."""
    correct, ignored = np.zeros((2, len(o.score)), dtype=np.bool_)
    difficult = o.index.ignore[pairs.gt]
    of_difficult = box_iou(o.xywh[pairs.detection[difficult]], o.index.xywh[pairs.gt[difficult]])
    iou = pairs.iou.copy()  # with a difficult one, pairs hold the share of the detection
    iou[difficult] = of_difficult
    near = np.flatnonzero(iou >= threshold)
    near = near[np.lexsort((pairs.gt[near], -iou[near], pairs.detection[near]))]
    near = near[np.append(True, np.diff(pairs.detection[near]) > 0)[: len(near)]]
    ignored[pairs.detection[near[difficult[near]]]] = True
    near = near[~difficult[near]]
    correct[pairs.detection[near[np.unique(pairs.gt[near], return_index=True)[1]]]] = True
    return correct, ignored


def eleven_point_ap(correct: Bools, objects: int) -> float:
    """Compute the mean of the interpolated precision at the recalls 0, 0.1 ... 1.

    correct [D] marks true positives among the detections that count, highest score first. Recalls are compared as whole
    numbers, so that 3 of 10 objects reach 0.3.
    """
    true_positives = np.cumsum(correct)
    precision = true_positives / np.arange(1, len(true_positives) + 1)
    first = np.searchsorted(10 * true_positives, np.arange(POINTS) * objects)
    return float(np.mean([precision[start:].max(initial=0) for start in first]))


def area_ap(correct: Bools, objects: int) -> float:
    """Compute the area under the interpolated precision-recall curve."""
    true_positives = np.cumsum(correct)
    precision = true_positives / np.arange(1, len(true_positives) + 1)
    return float(envelope(precision)[correct].sum() / objects)
