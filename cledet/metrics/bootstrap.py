"""Paired bootstrap of COCO's AP over the images of a split.

A resample draws as many images as the split has, with replacement, and AP is computed on them. The spread of AP over
the resamples estimates its spread over splits of that size. Detectors and NMS methods are compared on the same
resamples, so the difficulty of an image, which is common to all, cancels. Interpret the interval of the difference
(`paired_differences`), not whether the intervals of two metrics overlap.

A 95 % interval that excludes 0 means that the difference is unlikely to be due to the choice of images. Its limits:

- It does not cover another training run, because the weights are fixed, or images of another kind.
- It is too narrow for few or similar images, such as the frames of one film.
- One of twenty intervals excludes 0 by chance.

AP itself tends to be higher on resamples than on the split (0.296 and 0.284 on 206 photos of COCO). Report AP from
`evaluate`, and the interval of the difference from here.

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
from cledet.metrics.matching import THRESHOLDS, Match, Overlaps, by_class, overlaps
from cledet.metrics.results_file import DetectionRows

Weights = NDArray[np.int32]
"""[I, R] multiplicity of image i in resample r."""

IOUS = {"AP50": slice(0, 1), "AP75": slice(5, 6)}
RANGES = dict(zip(("AP", "APs", "APm", "APl"), Limits().ranges))
AP_METRICS = ("AP", *IOUS, "APs", "APm", "APl")
"""The metrics that `match` supports, by COCO's names."""
CELLS = 2**20
"""Detections of a class times resamples per chunk, at about 20 to 80 bytes each."""
MIN_IMAGES = 10
"""With fewer images, bootstrap intervals are much too narrow, so none is computed."""


class PairedDifference(NamedTuple):
    """A metric minus that of a baseline on the same images, with its 95 % interval over images."""

    value: float | None
    """None where one of the two metrics is undefined."""
    low: float | None = None
    """None, as `high`, where there is no interval."""
    high: float | None = None
    images: int | None = None
    """Images that hold objects that count, where these were counted."""

    @property
    def conclusion(self) -> str:
        """Return "better", "worse" or "within the noise"; without an interval, the reason."""
        if self.low is None or self.high is None:
            return "too few images" if self.images is not None and self.images < MIN_IMAGES else "nothing to measure"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "within the noise"

    def to_dict(self, name: str) -> dict[str, float | None]:
        """Convert to plain data: the value under `name`, and the interval."""
        return {name: self.value, "low": self.low, "high": self.high}


class Matches(NamedTuple):
    """COCO's matching of one class, which is per image and so independent of the resample."""

    objects: Ints
    """[I] ground truths of each image without ignored ones."""
    images: Ints
    """[D] image position of every detection, highest score first."""
    correct: Bools
    """[T, D] true positives at each IoU threshold."""
    ignored: Bools
    """[T, D] detections that are neither true nor false positives."""
    label: int


def ap_samples(
    index: DetectionIndex, results: Mapping[str, DetectionRows], repeats: int = 1000, seed: int = 0
) -> dict[str, Floats]:
    """Compute AP [repeats] of each named set of detections on the same resamples of the images.

    AP is that of `evaluate`: the mean over IoU 0.50:0.95, all areas, 100 detections per image, and the classes that
    have objects in the resample; nan in a resample without objects. Each sample equals pycocotools' AP on copied
    images, except that copies of equally scored detections of a class on one image are not interleaved. Raises
    ValueError for images that the index does not have.
    """
    weights = resamples(len(index), repeats, seed)
    return {name: weighted_ap(match(index, detections), weights) for name, detections in results.items()}


def interval(differences: Floats, level: float = 0.95) -> tuple[float, float]:
    """Compute the percentile interval of samples [R]; (1 - level) / 2 of them lie below it and as many above.

    nan samples (resamples without objects) are dropped; without samples the interval is (nan, nan). Raises ValueError
    unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    known = differences[~np.isnan(differences)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def simultaneous(differences: Floats, samples: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Compute simultaneous intervals [S] of differences [S] from their samples [S, R].

    All S intervals hold at once with this level, so that of the largest difference holds too. Each is the difference
    plus or minus a multiple of its standard deviation. The multiple is the quantile, over the resamples, of the largest
    standardized deviation: correlated settings count as few, and noisy ones do not widen the intervals of others. nan
    as in `interval`.

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


def paired_differences(
    metrics: Sequence[float | None],
    baseline: Sequence[float | None] | float | None,
    samples: Floats,
    baseline_samples: Floats,
    images: Sequence[int] | Ints | None = None,
    *,
    joint: bool = False,
) -> list[PairedDifference]:
    """Compute metrics [S] minus a baseline, a number or [S], with 95 % intervals from paired samples [S, R].

    The samples of the baseline are [R] or [S, R], on the same resamples. Intervals are percentiles, or with `joint`
    those that hold simultaneously. `images` [S] counts the images with objects: with fewer than MIN_IMAGES there is no
    interval.
    """
    values = np.array(metrics, dtype=np.float64) - np.array(baseline, dtype=np.float64)
    measurable = ~np.isnan(values)
    if images is not None:
        measurable &= np.asarray(images) >= MIN_IMAGES
    rows = np.flatnonzero(measurable)
    moved = (samples - baseline_samples)[rows]
    ends = list(zip(*simultaneous(values[rows], moved))) if joint else [interval(row) for row in moved]
    low, high = np.full((2, len(values)), np.nan)
    if ends:
        low[rows], high[rows] = zip(*ends)
    counts = [None] * len(values) if images is None else [int(count) for count in images]
    columns = ([None if np.isnan(v) else float(v) for v in column] for column in (values, low, high))
    return [PairedDifference(*row) for row in zip(*columns, counts)]


def images_with_objects(index: DetectionIndex, metric: str = "AP") -> Bools:
    """Return a mask [C, I] of the images that hold objects of a class that count for one of AP_METRICS."""
    low, high = RANGES.get(metric, RANGES["AP"])
    count = ~index.ignore & (low <= index.area) & (index.area <= high)
    mask = np.zeros((len(index.classes), len(index)), dtype=np.bool_)
    mask[index.labels[count], index.image_of_boxes()[count]] = True
    return mask


def resamples(images: int, repeats: int, seed: int) -> Weights:
    """Draw as many images as there are with replacement, `repeats` times, and return their multiplicities [I, R]."""
    if not images:
        return np.zeros((0, repeats), dtype=np.int32)
    counts = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=repeats)
    return np.ascontiguousarray(counts.T, dtype=np.int32)


def weighted_ap(classes: Sequence[Matches], weights: Weights) -> Floats:
    """Compute AP [R] of data sets that hold image i weights[i, r] times; nan without objects."""
    return mean_ap((class_ap(matches, weights) for matches in classes), weights.shape[1])


def mean_ap(classes: Iterable[Floats], repeats: int) -> Floats:
    """Compute the mean [R] over classes of their AP [R] without nan; nan where no class is left."""
    total, present = np.zeros((2, repeats))
    for ap in classes:
        total += np.nan_to_num(ap)
        present += ~np.isnan(ap)
    return np.divide(total, present, out=np.full(repeats, np.nan), where=present > 0)


def class_ap(matches: Matches, weights: Weights) -> Floats:
    """Compute AP [R] of one class as in `weighted_ap`; nan where a data set holds none of its objects."""
    objects = matches.objects @ weights
    ap = np.empty(len(objects))
    step = chunk(matches)
    for first in range(0, len(ap), step):
        part = slice(first, first + step)
        ap[part] = copied_ap(matches, weights[matches.images, part], objects[part])
    return np.where(objects > 0, ap, np.nan)


def chunk(matches: Matches) -> int:
    """Return the number of resamples of a class per chunk."""
    return max(1, CELLS // max(1, len(matches.images)))


def copied_ap(matches: Matches, copies: NDArray[Any], objects: Ints) -> Floats:
    """Compute AP [R] of one class with copies[d, r] copies of detection d and objects[r] objects; 0 without objects."""
    seen = copies.cumsum(axis=0, dtype=np.int32)
    most = int(copies[matches.correct.any(axis=0)].sum(axis=0, dtype=np.int64).max(initial=0))
    counts, column = np.unique(objects, return_inverse=True)
    reached = np.searchsorted(RECALLS, np.arange(most + 1) / np.maximum(counts, 1)[:, None], side="right")
    total: Floats = np.zeros(len(objects))
    for correct, left_out in (map(np.flatnonzero, rows) for rows in zip(matches.correct, matches.ignored)):
        before = np.pad(copies[left_out].cumsum(axis=0, dtype=np.int32), ((1, 0), (0, 0)))
        count = seen[correct] - before[np.searchsorted(left_out, correct)]
        true_positives = copies[correct].cumsum(axis=0, dtype=np.int32)
        total += _area(true_positives, count, reached[column, true_positives])
    return total / len(matches.correct)


def _area(true_positives: Weights, count: Weights, reached: Ints) -> Floats:
    """Compute the mean [R] of the interpolated precision at COCO's 101 recalls.

    The rows are the true positives, highest score first: the number of true positives so far [P, R], of detections
    [P, R], and of recalls reached [P, R]. Between true positives recall is constant and precision falls, so other
    detections need no row.
    """
    precision = envelope(true_positives / (count + np.spacing(1)))
    area: Floats = (precision * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / len(RECALLS)
    return area


def match(index: DetectionIndex, results: DetectionRows, metric: str = "AP") -> list[Matches]:
    """Match detections with ground truths for one of AP_METRICS, for each class with objects, by category id.

    Detections of unknown classes are dropped. Raises ValueError for images that the index does not have.
    """
    o = overlaps(index, results)
    low, high = RANGES.get(metric, RANGES["AP"])
    objects, detections = ((low <= area) & (area <= high) for area in (index.area, o.area))
    matches = [o.match(threshold, objects, detections) for threshold in THRESHOLDS[IOUS.get(metric, slice(None))]]
    return matches_by_class(o, matches, o.objects & objects)


def matches_by_class(o: Overlaps, matches: Sequence[Match], real: Bools) -> list[Matches]:
    """Split matches at each IoU threshold by class, for classes that have `real` [B] objects, by category id."""
    correct, ignored = np.stack([one.correct for one in matches]), np.stack([one.ignored for one in matches])
    rows_of = by_class(o.label, np.ones(len(o.label), dtype=np.bool_), len(o.index.classes))
    by_label = []
    for label in np.argsort(o.index.category_ids).tolist():
        counts = np.bincount(o.gt_image[real & (o.index.labels == label)], minlength=len(o.index))
        rows = rows_of[label]
        if counts.any():
            by_label.append(Matches(counts, o.image[rows], correct[:, rows], ignored[:, rows], label))
    return by_label


class HeldOut(NamedTuple):
    """Gains of the best of many settings over the first on held-out halves of the images.

    The metric of the best of many settings is biased upward on the images where it was chosen. So the setting is chosen
    on a random half and evaluated on the other half, in both directions, many times.
    """

    gain: float
    """Mean gain; nan without halves."""
    better: int
    """Halves on which the chosen setting is better than the first."""
    halves: int
    """Number of halves."""


def halves(images: int, repeats: int, seed: int = 0) -> Weights:
    """Draw random halves, each followed by its complement, as masks [I, 2 * repeats] of 0 and 1."""
    rng = np.random.default_rng(seed)
    chosen = np.array([rng.permutation(images) < images // 2 for _ in range(repeats)]).reshape(repeats, images)
    return np.ascontiguousarray(np.stack([chosen, ~chosen], axis=1).reshape(2 * repeats, images).T, dtype=np.int32)


def held_out(metrics: Floats) -> HeldOut:
    """Compute the held-out gain over the first setting from the metric [S, 2 * repeats] of S settings on `halves`.

    Of equal settings the first is chosen; halves without objects are left out.
    """
    metrics = metrics[:, ~np.isnan(metrics).any(axis=0).reshape(-1, 2).any(axis=1).repeat(2)]
    columns = np.arange(metrics.shape[1])
    gains = (metrics - metrics[0])[metrics.argmax(axis=0), columns ^ 1]
    return HeldOut(float(gains.mean()) if len(gains) else np.nan, int((gains > 0).sum()), len(gains))
