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

from cledet.data.index import Bools, DetectionIndex, Ints
from cledet.evaluation.matching import Order, Pairs

POINTS = 11
"""Recalls 0, 0.1 ... 1 of the rule of 2007."""


def voc_aps(
    index: DetectionIndex, order: Order, pairs: Pairs, threshold: float = 0.5
) -> tuple[list[float | None], list[float | None]]:
    """AP of each class by the 11 points of 2007, and by area; None for a class without objects that count.

    `pairs` are those of `cledet.evaluation.matching.overlapping` at this threshold or a lower one.
    """
    correct, ignored = judge(index, order.all, pairs, threshold)
    objects = np.bincount(index.labels[~index.ignore], minlength=len(index.classes)).tolist()
    found = [correct[rows[~ignored[rows]]] for rows in order.by_class]
    return tuple(  # type: ignore[return-value]
        [rule(hits, count) if count else None for hits, count in zip(found, objects)] for rule in (eleven_points, area)
    )


def judge(index: DetectionIndex, order: Ints, pairs: Pairs, threshold: float) -> tuple[Bools, Bools]:
    """Which detections are correct [D], and which do not count [D]; `order` [D] has them highest score first."""
    correct, ignored = np.zeros((2, len(order)), dtype=np.bool_)
    near = np.flatnonzero(pairs.iou >= threshold)
    near = near[np.lexsort((pairs.truth[near], -pairs.iou[near], pairs.detection[near]))]
    near = near[np.append(True, np.diff(pairs.detection[near]) > 0)[: len(near)]]
    detection, truth = pairs.detection[near], pairs.truth[near]
    difficult = index.ignore[truth]
    ignored[detection[difficult]] = True
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    by_score = np.argsort(place[detection])
    by_score = by_score[~difficult[by_score]]
    correct[detection[by_score[np.unique(truth[by_score], return_index=True)[1]]]] = True
    return correct, ignored


def eleven_points(correct: Bools, objects: int) -> float:
    """The mean, over the recalls 0, 0.1 ... 1, of the highest precision at such a recall or a higher one.

    correct [D] of the detections that count, highest score first. Recalls are compared as whole numbers, so that 3 of
    10 objects reach 0.3.
    """
    found = np.cumsum(correct)
    precision = found / np.arange(1, len(found) + 1)
    reached = [precision[10 * found >= point * objects].max(initial=0) for point in range(POINTS)]
    return float(np.mean(reached))


def area(correct: Bools, objects: int) -> float:
    """The area under precision over recall, precision being the highest at such a recall or a higher one."""
    found = np.cumsum(correct)
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[correct].sum() / objects)
