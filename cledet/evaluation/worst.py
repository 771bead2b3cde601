"""The images that cost most AP: how much AP would rise were an image's detections replaced by its objects.

Replaced means: the image's detections are gone, and each of its objects is detected exactly, before all other
detections. That is computed for the images that an estimate puts first. The estimate adds up, for every class and IoU
threshold, what each wrong detection, each low place of a right one and each object that was not found cost by
themselves, with the precision as it is instead of its maximum from there on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cledet.data.index import Floats, Ints, group_by_image
from cledet.evaluation.average import ap_of_ranks
from cledet.evaluation.overlaps import MAX_DETECTIONS, Match, Overlaps

SHORTLIST = 100


class LostAP(NamedTuple):
    """What an image costs."""

    image: int
    """Position in the index."""
    ap: float


class _Class(NamedTuple):
    """The detections of one class at one IoU threshold, ignored ones left out, best first."""

    images: Ints  # [D]
    hits: Ints  # [K] which of them are right
    by_image: Ints  # [D] the detections ordered by image
    starts: Ints  # [I + 1] where each image's begin there
    objects: int

    def ap(self) -> float:
        return ap_of_ranks(self.hits + 1, self.objects)

    def ap_without(self, image: int, own: int) -> float:
        """AP were the image's detections replaced by its `own` objects, all of them first."""
        gone = self.by_image[self.starts[image] : self.starts[image + 1]]
        stay = self.hits[self.images[self.hits] != image]
        ranks = stay + 1 - np.searchsorted(gone, stay) + own
        return ap_of_ranks(np.concatenate([np.arange(1, own + 1), ranks]), self.objects)


def worst_images(o: Overlaps, matches: Sequence[Match], most: int, shortlist: int = SHORTLIST) -> list[LostAP]:
    """The images that cost most of the mean AP over `matches`, one an IoU threshold; those that cost none left out."""
    objects, own = o.counts(o.objects), _objects_by_image(o)
    labels = np.flatnonzero(objects).tolist()
    parts = [(k, _class(o, match, k, int(objects[k]))) for match in matches for k in labels]
    estimate = np.zeros(len(o.index))
    for k, one in parts:
        estimate += _estimate(one, own[:, k])
    first = np.argsort(-estimate, kind="stable")[:shortlist]
    present = own > 0
    present[o.image, o.label] = True
    total = np.zeros(len(first))
    for k, one in parts:
        base = one.ap()
        for place in np.flatnonzero(present[first, k]).tolist():
            total[place] += one.ap_without(int(first[place]), int(own[first[place], k])) - base
    lost = total / max(len(parts), 1)
    order = np.argsort(-lost, kind="stable")[:most]
    return [LostAP(int(first[i]), float(lost[i])) for i in order if lost[i] > 0]


def _objects_by_image(o: Overlaps) -> Ints:
    """How many objects of each class each image has [I, C], at most as many as count of its detections."""
    own = np.zeros((len(o.index), len(o.index.classes)), dtype=np.int64)
    np.add.at(own, (o.gt_image[o.objects], o.index.labels[o.objects]), 1)
    return np.minimum(own, MAX_DETECTIONS)


def _class(o: Overlaps, match: Match, k: int, objects: int) -> _Class:
    mine = np.flatnonzero((o.label == k) & ~match.ignored)
    images = o.image[mine]
    by_image, starts = group_by_image(images, len(o.index))
    return _Class(images, np.flatnonzero(match.correct[mine]), by_image, starts, objects)


def _estimate(one: _Class, own: Ints) -> Floats:
    """What each image costs of the class's AP [I], to first order."""
    ranks = one.hits + 1
    precision = np.arange(1, len(ranks) + 1) / ranks
    below = np.append((precision / ranks)[::-1].cumsum()[::-1], 0)  # what a place more costs all from here on
    rise = ((1 - precision) / ranks).sum()
    cost = below[np.searchsorted(one.hits, np.arange(len(one.images)))]
    cost[one.hits] = 1 - precision
    found = np.bincount(one.images[one.hits], minlength=len(own))
    by_image: Floats = np.bincount(one.images, weights=cost, minlength=len(own)) + (own - found) * (1 + rise)
    return by_image / one.objects
