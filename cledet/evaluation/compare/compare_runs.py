"""Paired comparison of detections of one split with a baseline: by class and by image, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cledet.console import Steps
from cledet.data.index import DetectionIndex, Floats
from cledet.errors import UserError
from cledet.metrics.bootstrap import (
    MIN_IMAGES,
    PairedDifference,
    class_ap,
    images_with_objects,
    match,
    mean_ap,
    paired_differences,
    resamples,
    weighted_ap,
)
from cledet.metrics.coco import evaluate
from cledet.metrics.evaluation import Evaluation
from cledet.metrics.influence import leave_one_out
from cledet.metrics.results_file import DetectionRows
from cledet.metrics.seed_pairs import SeedDifference, seed_difference


@dataclass(frozen=True)
class RunDifference:
    """Difference in AP between one set of detections and the first."""

    overall: PairedDifference
    classes: dict[str, PairedDifference]
    """By class name; the intervals hold simultaneously, because the classes shown are the extremes."""
    influence: Floats
    """[I] difference on all images minus the difference without this image; nan if no other image has objects."""


class RunComparison(NamedTuple):
    """Metrics of all sets of detections, and the differences of all but the first from it."""

    evaluations: dict[str, Evaluation]
    differences: dict[str, RunDifference]


class SideComparison(NamedTuple):
    """APs of the runs of each side, and the differences of all sides but the first from it."""

    aps: dict[str, dict[str, float]]
    """By side and run; the runs of all sides are paired in this order."""
    differences: dict[str, SeedDifference]


class _Measured(NamedTuple):
    """Measurements of one set of detections."""

    evaluation: Evaluation
    classes: dict[int, Floats]  # AP [R] on the resamples, by label
    without: Floats  # [I] AP without each image


def compare_runs(index: DetectionIndex, entries: Mapping[str, DetectionRows], repeats: int) -> RunComparison:
    """Compare sets of detections on the same resamples of the images. Raises ValueError for images the index lacks."""
    with Steps("comparing", len(entries) * len(index.classes)) as steps:
        measured = {name: _measure(index, results, repeats, steps) for name, results in entries.items()}
    first, *others = measured
    differences = {name: _compare(index, measured[first], measured[name], repeats) for name in others}
    return RunComparison({name: one.evaluation for name, one in measured.items()}, differences)


def compare_sides(
    index: DetectionIndex, sides: Mapping[str, Mapping[str, DetectionRows]], repeats: int
) -> SideComparison:
    """Compare sides of equally many runs, paired in order, with the first, over runs and resamples of the images.

    The intervals of all sides hold together with 95 %, after Bonferroni: each has a level of 1 - 0.05 / their number.
    Raises UserError if fewer than MIN_IMAGES images hold objects.
    """
    images = int(images_with_objects(index).any(axis=0).sum())
    if images < MIN_IMAGES:
        raise UserError(f"{index.name} has objects on {images} images", f"an interval needs {MIN_IMAGES}")
    weights = resamples(len(index), repeats, seed=0)
    aps: dict[str, dict[str, float]] = {side: {} for side in sides}
    means: dict[str, Floats] = {}
    with Steps("comparing", sum(map(len, sides.values()))) as steps:
        for side, runs in sides.items():
            samples = []
            for name, rows in runs.items():
                aps[side][name] = evaluate(index, rows).metrics["AP"] or 0.0
                samples.append(weighted_ap(match(index, rows), weights))
                steps.advance()
            means[side] = np.mean(samples, axis=0)
    first, *others = sides
    own, level = np.array([*aps[first].values()]), 1 - 0.05 / len(others)
    differences = {
        side: seed_difference(own, np.array([*aps[side].values()]), means[side] - means[first], images, level)
        for side in others
    }
    return SideComparison(aps, differences)


def _measure(index: DetectionIndex, results: DetectionRows, repeats: int, steps: Steps) -> _Measured:
    classes = match(index, results)
    weights = resamples(len(index), repeats, seed=0)
    samples = {matches.label: class_ap(matches, weights) for matches in classes}
    return _Measured(evaluate(index, results), samples, leave_one_out(classes, len(index), steps.advance))


def _compare(index: DetectionIndex, first: _Measured, other: _Measured, repeats: int) -> RunDifference:
    first_samples, samples = (mean_ap(one.classes.values(), repeats) for one in (first, other))
    first_ap, ap = (one.evaluation.metrics["AP"] for one in (first, other))
    images, labels = images_with_objects(index), sorted(first.classes)
    (overall,) = paired_differences([ap], first_ap, samples[None], first_samples, [images.any(axis=0).sum()])
    names = [index.classes[label] for label in labels]
    first_aps, aps = ([one.evaluation.per_class[name]["AP"] for name in names] for one in (first, other))
    by_class, first_by_class = (
        np.reshape([one.classes[label] for label in labels], (-1, repeats)) for one in (other, first)
    )
    classes = paired_differences(aps, first_aps, by_class, first_by_class, images.sum(axis=1)[labels], joint=True)
    influence = (overall.value or 0.0) - (other.without - first.without)
    return RunDifference(overall, dict(zip(names, classes)), influence)


def largest_class_differences(run: RunDifference, most: int = 10) -> dict[str, PairedDifference]:
    """Return the classes whose AP differs most, largest first, those on fewer than MIN_IMAGES images last."""
    unequal = {name: one for name, one in run.classes.items() if one.value}
    order = sorted(unequal, key=lambda name: ((unequal[name].images or 0) < MIN_IMAGES, -abs(unequal[name].value or 0)))
    return {name: unequal[name] for name in order[:most]}


def most_influential_images(run: RunDifference, most: int = 10) -> list[int]:
    """Return the positions of the images with the largest nonzero influence on the difference."""
    size = np.nan_to_num(np.abs(run.influence)).round(12)
    return [int(i) for i in np.argsort(-size, kind="stable")[:most] if size[i] > 0]
