"""The images that cost most AP: the gain in AP if the detections of an image were replaced by its objects.

With the replacement, each object of the image is detected exactly and precedes all other detections. The gain is
computed exactly for the images that a first-order estimate ranks first. The estimate sums, over classes and IoU
thresholds, the separate costs of each false positive, each low rank of a true positive and each missed object, with raw
instead of interpolated precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cledet.data.index import Floats, Ints
from cledet.metrics.average_precision import ap_of_columns, ap_of_ranks
from cledet.metrics.matching import MAX_DETECTIONS, Match, Overlaps, by_class

SHORTLIST = 100
CELLS = 2**20
"""True positives of a class times images per chunk, at about 60 bytes each."""


class LostAP(NamedTuple):
    """Cost of an image."""

    image: int
    """Position in the index."""
    ap: float


class _Class(NamedTuple):
    """The detections of one class at one IoU threshold without ignored ones, highest score first."""

    images: Ints  # [D]
    hits: Ints  # [K] positions of the true positives
    places: Ints  # [D] image times D plus position among these detections, ascending
    objects: int

    def ap(self) -> float:
        return ap_of_ranks(self.hits + 1, self.objects)

    def ap_without(self, images: Ints, own: Ints) -> Floats:
        """Compute AP [J] with the detections of one of these images [J] replaced by its `own` [J] objects."""
        step = max(1, CELLS // (len(self.hits) + MAX_DETECTIONS))
        parts = (slice(first, first + step) for first in range(0, len(images), step))
        return np.concatenate([self._ap_without(images[part], own[part]) for part in parts])

    def _ap_without(self, images: Ints, own: Ints) -> Floats:
        first = np.arange(own.max()) >= own.max() - own[:, None]
        present = np.concatenate([first, self.images[self.hits] != images[:, None]], axis=1).T
        start = images[:, None] * len(self.images)
        gone = np.searchsorted(self.places, start + self.hits) - np.searchsorted(self.places, start)
        true_positives = present.cumsum(axis=0)
        ranks = true_positives.copy()
        ranks[own.max() :] = (self.hits + 1 - gone + own[:, None]).T
        return ap_of_columns(present, true_positives, ranks, self.objects)


def hardest_images(o: Overlaps, matches: Sequence[Match], most: int, shortlist: int = SHORTLIST) -> list[LostAP]:
    """Find the images that cost most of the mean AP over `matches`, one per IoU threshold; costs of 0 are left out."""
    objects, own = o.counts(o.objects), _objects_by_image(o)
    parts = [(k, one) for match in matches for k, one in _classes(o, match, objects)]
    estimate = np.zeros(len(o.index))
    for k, one in parts:
        estimate += _estimate(one, own[:, k])
    first = np.argsort(-estimate, kind="stable")[:shortlist]
    present = own > 0
    present[o.image, o.label] = True
    total = np.zeros(len(first))
    for k, one in parts:
        places = np.flatnonzero(present[first, k])
        if len(places):
            total[places] += one.ap_without(first[places], own[first[places], k]) - one.ap()
    lost = total / max(len(parts), 1)
    order = np.argsort(-lost, kind="stable")[:most]
    return [LostAP(int(first[i]), float(lost[i])) for i in order if lost[i] > 0]


def _objects_by_image(o: Overlaps) -> Ints:
    """Count the objects of each image and class [I, C], up to the limit of detections."""
    own = np.zeros((len(o.index), len(o.index.classes)), dtype=np.int64)
    np.add.at(own, (o.gt_image[o.objects], o.index.labels[o.objects]), 1)
    return np.minimum(own, MAX_DETECTIONS)


def _classes(o: Overlaps, match: Match, objects: Ints) -> Iterator[tuple[int, _Class]]:
    """Yield label and detections of each class that has objects [C]."""
    correct = match.correct
    for k, rows in enumerate(by_class(o.label, ~match.ignored, len(objects))):
        if objects[k]:
            images = o.image[rows]
            places = np.sort(images * len(rows) + np.arange(len(rows)))
            yield k, _Class(images, np.flatnonzero(correct[rows]), places, int(objects[k]))


def _estimate(one: _Class, own: Ints) -> Floats:
    """Estimate the cost of each image in AP of the class [I] to first order."""
    ranks = one.hits + 1
    precision = np.arange(1, len(ranks) + 1) / ranks
    below = np.append((precision / ranks)[::-1].cumsum()[::-1], 0)  # cost of one more rank for all from here on
    rise = ((1 - precision) / ranks).sum()
    cost = below[np.searchsorted(one.hits, np.arange(len(one.images)))]
    cost[one.hits] = 1 - precision
    true_positives = np.bincount(one.images[one.hits], minlength=len(own))
    by_image: Floats = np.bincount(one.images, weights=cost, minlength=len(own)) + (own - true_positives) * (1 + rise)
    return by_image / one.objects
