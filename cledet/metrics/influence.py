"""AP without each image in turn (jackknife), and with the detections of each image replaced by its objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cledet.data.index import Floats, Ints
from cledet.metrics.bootstrap import CELLS, Matches, chunk, class_ap, copied_ap, matches_by_class
from cledet.metrics.matching import MAX_DETECTIONS, Match, Overlaps

SHORTLIST = 100
"""Images whose cost is computed exactly."""


class LostAP(NamedTuple):
    """Cost of an image."""

    image: int
    """Position in the index."""
    ap: float


def leave_one_out(classes: Sequence[Matches], images: int, step: Callable[[], object] = lambda: None) -> Floats:
    """Compute AP [I] of a split of I = `images` images without image i; nan where no object is left.

    Equal to `weighted_ap` with weight 0 for one image and 1 for the others. The AP of a class is recomputed only
    without images that hold detections or objects of it. `step` is called after each class.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11.
    """
    total, present = 0.0, np.full(images, len(classes))
    change = np.zeros(images)
    once = np.ones((images, 1), dtype=np.int32)
    for matches in classes:
        ap = float(class_ap(matches, once)[0])
        touched = np.union1d(matches.images, np.flatnonzero(matches.objects))
        for first in range(0, len(touched), chunk(matches)):
            part = touched[first : first + chunk(matches)]
            objects = matches.objects.sum() - matches.objects[part]
            copies = (matches.images[:, None] != part).view(np.int8)
            change[part] += copied_ap(matches, copies, objects) - ap
            present[part] -= objects == 0
        total += ap
        step()
    return np.divide(total + change, present, out=np.full(images, np.nan), where=present > 0)


def hardest_images(o: Overlaps, matches: Sequence[Match], most: int, shortlist: int = SHORTLIST) -> list[LostAP]:
    """Find the images that cost most AP: the gain if the detections of an image were replaced by its objects.

    `matches` are those at COCO's IoU thresholds; costs of 0 are left out. Each object of the image is then detected
    exactly and precedes all other detections. The gain is computed exactly for the images that a first-order estimate
    ranks first.
    """
    classes = matches_by_class(o, matches, o.objects)
    estimate = sum((_estimate(one) for one in classes), np.zeros(len(o.index)))
    first = np.argsort(-estimate, kind="stable")[:shortlist]
    gain, once = np.zeros(len(first)), np.ones((len(o.index), 1), dtype=np.int32)
    for one in classes:
        own = np.minimum(one.objects[first], MAX_DETECTIONS)
        touched = np.flatnonzero((own > 0) | np.isin(first, one.images))
        gain[touched] += _ap_replaced(one, first[touched], own[touched]) - class_ap(one, once)
    lost = gain / max(len(classes), 1)
    order = np.argsort(-lost, kind="stable")[:most]
    return [LostAP(int(first[i]), float(lost[i])) for i in order if lost[i] > 0]


def _ap_replaced(one: Matches, images: Ints, own: Ints) -> Floats:
    """Compute AP [J] of a class with the detections of one of these images [J] replaced by its `own` [J] objects."""
    most = int(own.max(initial=0))
    right = np.ones((len(one.correct), most), dtype=np.bool_)
    ideal = one._replace(correct=np.hstack([right, one.correct]), ignored=np.hstack([~right, one.ignored]))
    objects, ap = np.full(len(images), one.objects.sum()), np.zeros(len(images))
    step = max(1, CELLS // (most + len(one.images) + 1))
    for first in range(0, len(images), step):
        part = slice(first, first + step)
        copies = np.concatenate([np.arange(most)[:, None] < own[part], one.images[:, None] != images[part]])
        ap[part] = copied_ap(ideal, copies.view(np.int8), objects[part])
    return ap


def _estimate(one: Matches) -> Floats:
    """Estimate the cost [I] of each image in AP of a class to first order.

    It sums, over the IoU thresholds, the separate costs of each false positive, each low rank of a true positive and
    each missed object, with raw instead of interpolated precision.
    """
    own = np.minimum(one.objects, MAX_DETECTIONS)
    total = np.zeros(len(own))
    for correct, ignored in zip(one.correct, one.ignored):
        images, hits = one.images[~ignored], np.flatnonzero(correct[~ignored])
        ranks = hits + 1
        precision = np.arange(1, len(ranks) + 1) / ranks
        below = np.append((precision / ranks)[::-1].cumsum()[::-1], 0)  # cost of one more rank for all from here on
        rise = ((1 - precision) / ranks).sum()
        cost = below[np.searchsorted(hits, np.arange(len(images)))]
        cost[hits] = 1 - precision
        true_positives = np.bincount(images[hits], minlength=len(own))
        total += np.bincount(images, weights=cost, minlength=len(own)) + (own - true_positives) * (1 + rise)
    return total / one.objects.sum()
