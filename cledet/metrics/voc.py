"""Pascal VOC's average precision, by the rule of 2007 and by that of 2010 and later.

Source: the development kits' VOCevaldet.m and VOCap.m (Everingham et al.), which this follows where ports of them
differ: an IoU of exactly the threshold is enough, as in the kit's code, where Detectron2 and py-faster-rcnn ask for
more. A detection is judged by the ground truth of its class that it overlaps most (of equals, the first), and no other:
if that is difficult the detection does not count, if it was taken by one of higher score (of equals, the first in the
results) it is a false alarm, though another object may be near enough. There is no limit of detections an image.

Boxes of VOC's annotations include their last pixel; the index has them so, and IoU is that of the kit. Its ignored
boxes (COCO's crowds, in a data set that is not VOC) stand for difficult ones.
"""

from __future__ import annotations

import numpy as np

from cledet.data.index import Bools, Ints
from cledet.metrics.average_precision import envelope
from cledet.metrics.matching import Overlaps, Pairs, box_iou, by_class, tied

POINTS = 11
"""Recalls 0, 0.1 ... 1 of the rule of 2007."""


def voc_aps(o: Overlaps, pairs: Pairs, threshold: float = 0.5) -> tuple[list[float | None], list[float | None]]:
    """AP of each class by the 11 points of 2007, and by area; None for a class without objects that count.

    `pairs` are those of one class at this threshold or a lower one.
    """
    correct, ignored = judge(o, pairs, threshold)
    order, objects = _as_they_came(o), o.counts(o.objects).tolist()
    correct = correct[order]
    found = [correct[rows] for rows in by_class(o.label[order], ~ignored[order], len(objects))]
    return tuple(  # type: ignore[return-value]
        [rule(hits, count) if count else None for hits, count in zip(found, objects)] for rule in (eleven_points, area)
    )


def judge(o: Overlaps, pairs: Pairs, threshold: float) -> tuple[Bools, Bools]:
    """Which detections are correct [D], and which do not count [D]."""
    correct, ignored = np.zeros((2, len(o.score)), dtype=np.bool_)
    difficult = o.index.ignore[pairs.gt]
    of_difficult = box_iou(o.xywh[pairs.detection[difficult]], o.index.xywh[pairs.gt[difficult]])
    iou = pairs.iou.copy()  # the share of the detection, with a difficult one
    iou[difficult] = of_difficult
    near = np.flatnonzero(iou >= threshold)
    near = near[np.lexsort((pairs.gt[near], -iou[near], pairs.detection[near]))]
    near = near[np.append(True, np.diff(pairs.detection[near]) > 0)[: len(near)]]
    ignored[pairs.detection[near[difficult[near]]]] = True
    near = near[~difficult[near]]
    correct[pairs.detection[near[np.unique(pairs.gt[near], return_index=True)[1]]]] = True
    return correct, ignored


def _as_they_came(o: Overlaps) -> Ints:
    """The order [D] in which detections of equal score are as in the results."""
    order, equal = np.arange(len(o.score)), tied(o.score)
    order[equal] = equal[np.lexsort((o.row[equal], -o.score[equal]))]
    return order


def eleven_points(correct: Bools, objects: int) -> float:
    """The mean, over the recalls 0, 0.1 ... 1, of the highest precision at such a recall or a higher one.

    correct [D] of the detections that count, highest score first. Recalls are compared as whole numbers, so that 3 of
    10 objects reach 0.3.
    """
    found = np.cumsum(correct)
    precision = found / np.arange(1, len(found) + 1)
    first = np.searchsorted(10 * found, np.arange(POINTS) * objects)
    return float(np.mean([precision[start:].max(initial=0) for start in first]))


def area(correct: Bools, objects: int) -> float:
    """The area under precision over recall, precision being the highest at such a recall or a higher one."""
    found = np.cumsum(correct)
    precision = found / np.arange(1, len(found) + 1)
    return float(envelope(precision)[correct].sum() / objects)
