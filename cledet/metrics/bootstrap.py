"""How far COCO's AP would move on other images of the same kind: a paired bootstrap over the images of a split.

A resample draws as many images as the split has, with replacement, and AP is computed on those; the spread of AP over
the resamples stands for its spread over splits of that size. Detectors, or ways to suppress duplicates, are compared
on the same resamples, so that what makes an image easy or hard for all of them cancels: look at
`interval(samples["a"] - samples["b"])`, not at whether the intervals of the two figures overlap.

An interval at level 0.95 that leaves out 0 says that the difference is hardly an accident of which images the split
holds. It says nothing about another training run (the weights are held fixed), nor about images of another kind; it is
too narrow where images are few or alike (frames of one film), and of twenty comparisons one leaves out 0 by chance.
AP itself tends to be higher on resamples than on the split (0.296 for 0.284 on 206 photos of COCO): report AP from
`evaluate`, and from here the interval of the difference.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 13.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cledet.data.index import Bools, DetectionIndex, Floats, Ints
from cledet.metrics.average_precision import RECALLS, envelope
from cledet.metrics.evaluation import Limits
from cledet.metrics.matching import THRESHOLDS, by_class, overlaps
from cledet.metrics.results_file import Results

Weights = NDArray[np.int32]
"""[I, R] how often image i is in resample r."""

IOUS = {"AP50": slice(0, 1), "AP75": slice(5, 6)}
RANGES = dict(zip(("AP", "APs", "APm", "APl"), Limits().ranges))
FIGURES = ("AP", *IOUS, "APs", "APm", "APl")
"""The figures that `match` is for, by COCO's names."""
CELLS = 2**20
"""Detections of a class times resamples worked on at once, at some 20 to 80 bytes each."""


class Matches(NamedTuple):
    """COCO's matching of one class: it does not depend on the resample, for it is image by image."""

    objects: Ints
    """[I] ground truths of each image, ignored ones left out."""
    images: Ints
    """[D] the image position of every detection, highest score first."""
    correct: Bools
    """[T, D] matched with an object, at each IoU threshold."""
    ignored: Bools
    """[T, D] neither a true nor a false positive."""
    label: int


def ap_samples(
    index: DetectionIndex, results: Mapping[str, Results], repeats: int = 1000, seed: int = 0
) -> dict[str, Floats]:
    """AP [repeats] of each named set of detections over resamples of the images, the same resamples for all.

    AP is that of `evaluate`: the mean over IoU 0.50:0.95, all areas, 100 detections an image, and the classes that have
    objects in the resample; nan in a resample without any object. Each sample is what pycocotools gives on images
    that are really copied, but where two detections of a class on one image score exactly the same: their copies
    have no order of their own, and stand together here. Raises ValueError for images that the index does not have.
    """
    weights = resamples(len(index), repeats, seed)
    return {name: weighted_ap(match(index, found), weights) for name, found in results.items()}


def interval(differences: Floats, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of samples [R]: (1 - level) / 2 of them lie below it, and as many above.

    nan (resamples without any object) is left out; (nan, nan) where nothing is left. Raises ValueError unless
    0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    known = differences[~np.isnan(differences)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def simultaneous(differences: Floats, samples: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Intervals [S] of S differences [S], from their samples [S, R], all of which hold at once with that level.

    So they hold of the largest too, whichever it was. Each is its difference, give or take so many of its own standard
    deviations that in that share of the resamples no difference is farther from its mean: settings that move together
    count as few, others that jump about do not widen it. nan as in `interval`.

    Source: Westfall and Young, Resampling-Based Multiple Testing, 1993, section 2.3 (max t).
    """
    known = samples[:, ~np.isnan(samples).any(axis=0)]
    if not known.size:
        return np.full_like(differences, np.nan), np.full_like(differences, np.nan)
    away = known - known.mean(axis=1, keepdims=True)
    deviation = away.std(axis=1)
    farthest = np.abs(away / np.where(deviation > 0, deviation, 1)[:, None]).max(axis=0)
    width = np.quantile(farthest, level) * deviation
    return differences - width, differences + width


def resamples(images: int, repeats: int, seed: int) -> Weights:
    """Multiplicities [I, R] of images drawn with replacement, as many as there are, R = repeats times."""
    if not images:
        return np.zeros((0, repeats), dtype=np.int32)
    counts = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=repeats)
    return np.ascontiguousarray(counts.T, dtype=np.int32)


def weighted_ap(classes: Sequence[Matches], weights: Weights) -> Floats:
    """AP [R] where image i stands weights[i, r] times in data set r; nan where that holds no object."""
    return mean_ap((class_ap(matches, weights) for matches in classes), weights.shape[1])


def mean_ap(classes: Iterable[Floats], repeats: int) -> Floats:
    """The mean [R] over classes of their AP [R], nan left out; nan where nothing is left."""
    total, present = np.zeros((2, repeats))
    for ap in classes:
        total += np.nan_to_num(ap)
        present += ~np.isnan(ap)
    return np.divide(total, present, out=np.full(repeats, np.nan), where=present > 0)


def class_ap(matches: Matches, weights: Weights) -> Floats:
    """The same [R] of one class; nan where the data set holds none of its objects."""
    objects = matches.objects @ weights
    ap = np.empty(len(objects))
    step = chunk(matches)
    for first in range(0, len(ap), step):
        part = slice(first, first + step)
        ap[part] = copied_ap(matches, weights[matches.images, part], objects[part])
    return np.where(objects > 0, ap, np.nan)


def chunk(matches: Matches) -> int:
    """How many resamples of a class to work on at once."""
    return max(1, CELLS // max(1, len(matches.images)))


def copied_ap(matches: Matches, copies: NDArray[Any], objects: Ints) -> Floats:
    """AP [R] of one class whose detection d is there copies[d, r] times beside objects[r] objects; 0 without any."""
    seen = copies.cumsum(axis=0, dtype=np.int32)
    most = int(copies[matches.correct.any(axis=0)].sum(axis=0, dtype=np.int64).max(initial=0))
    counts, column = np.unique(objects, return_inverse=True)
    reached = np.searchsorted(RECALLS, np.arange(most + 1) / np.maximum(counts, 1)[:, None], side="right")
    total: Floats = np.zeros(len(objects))
    for correct, left_out in (map(np.flatnonzero, rows) for rows in zip(matches.correct, matches.ignored)):
        before = np.pad(copies[left_out].cumsum(axis=0, dtype=np.int32), ((1, 0), (0, 0)))
        count = seen[correct] - before[np.searchsorted(left_out, correct)]
        found = copies[correct].cumsum(axis=0, dtype=np.int32)
        total += _area(found, count, reached[column, found])
    return total / len(matches.correct)


def _area(found: Weights, count: Weights, reached: Ints) -> Floats:
    """Mean [R] of the interpolated precision at COCO's 101 recalls.

    At each correct detection, highest score first, how many are found [P, R], out of a count [P, R] of detections, and
    how many of the recalls are reached [P, R]. Only there can recall reach one and precision peak, so the curve is
    followed along them alone.
    """
    precision = envelope(found / (count + np.spacing(1)))
    area: Floats = (precision * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / len(RECALLS)
    return area


def match(index: DetectionIndex, results: Results, figure: str = "AP") -> list[Matches]:
    """How the detections match the ground truths for one of FIGURES: a class that has objects each, by category id.

    Raises ValueError for images that the index does not have; classes that it lacks do not count.
    """
    o = overlaps(index, results)
    low, high = RANGES.get(figure, RANGES["AP"])
    objects, detections = ((low <= area) & (area <= high) for area in (index.area, o.area))
    matches = [o.match(threshold, objects, detections) for threshold in THRESHOLDS[IOUS.get(figure, slice(None))]]
    correct, ignored = np.stack([one.correct for one in matches]), np.stack([one.ignored for one in matches])
    real = o.objects & objects
    rows_of = by_class(o.label, np.ones_like(detections), len(index.classes))
    found = []
    for label in np.argsort(index.category_ids).tolist():
        held = np.bincount(o.gt_image[real & (index.labels == label)], minlength=len(index))
        rows = rows_of[label]
        if held.any():
            found.append(Matches(held, o.image[rows], correct[:, rows], ignored[:, rows], label))
    return found
