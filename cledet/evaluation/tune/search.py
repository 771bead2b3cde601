"""Deterministic search for NMS settings on fixed candidates."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
import torch

from cledet.data.index import DetectionIndex, Floats
from cledet.evaluation.candidates import Candidates, to_results
from cledet.metrics.bootstrap import Weights, images_with_objects, match, weighted_ap
from cledet.metrics.results_file import DetectionRows
from cledet.models.nms import NMSOptions, apply_nms

PARAMETERS: dict[str, tuple[str, ...]] = {
    "standard": ("iou",),
    "soft-linear": ("iou",),
    "soft": (),
    "diou": ("iou",),
    "weighted": ("iou",),
    "cl-balanced": ("iou", "localization", "cl_norm", "cl_score"),
    "soft-vote": (),
    "agreement": (),
}
"""The settings that affect each method."""
IOUS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
STEPS = (0.05, 0.025)
BOUNDS = (0.05, 0.95)
"""IoU thresholds: a grid, then steps from the best one while they improve it, within bounds."""
READINGS = {"localization": ("proximity", "as-printed"), "cl_norm": ("max", "diagonal"), "cl_score": ("max", "own")}
"""The readings of Eq. 9, all of which are tried at the best IoU threshold of cl-balanced."""
CONFS = (0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Trial:
    """Metrics of one setting."""

    options: NMSOptions
    metric: float
    """The metric to maximize, on all images."""
    halves: Floats
    """[2 * repeats] the metric on halves of the images."""
    samples: Floats
    """[R] the metric on resamples of the images."""
    boxes: float
    """Mean number of detections per image."""


METRIC = attrgetter("metric")


class TrialRunner:
    """Evaluator of settings on fixed candidates, which caches its trials."""

    def __init__(
        self,
        candidates: Iterable[Candidates],
        index: DetectionIndex,
        metric: str,
        halves: Weights,
        resamples: Weights,
    ) -> None:
        """Store candidates that can be iterated repeatedly, and the weights of images in halves and resamples."""
        self.candidates, self.index, self.metric = candidates, index, metric
        self.weights = np.concatenate([np.ones((len(index), 1), dtype=np.int32), halves, resamples], axis=1)
        self.halves = halves.shape[1]
        self.images = int(images_with_objects(index, metric).any(axis=0).sum())
        self.tried: dict[NMSOptions, Trial] = {}

    def __call__(self, options: NMSOptions) -> Trial:
        """Evaluate a setting, or return its earlier trial; the metric is nan if no image has an object."""
        if options not in self.tried:
            results = self.detections(options)
            metrics = weighted_ap(match(self.index, results, self.metric), self.weights)
            halves, samples = np.split(metrics[1:], [self.halves])
            boxes = len(results) / max(1, len(self.index))
            self.tried[options] = Trial(options, float(metrics[0]), halves, samples, boxes)
        return self.tried[options]

    @torch.inference_mode()
    def detections(self, options: NMSOptions) -> DetectionRows:
        """Apply a setting to all candidates; returns the detections of the classes of the split."""
        rows = [np.zeros((0, 7))]
        for image in self.candidates:
            high = image.scores > options.conf
            image = image._replace(boxes=image.boxes[high], scores=image.scores[high], labels=image.labels[high])
            rows.append(to_results(image, apply_nms(image.boxes, image.scores, image.labels, options)))
        results = np.concatenate(rows)
        return results[np.isin(results[:, 6], self.index.category_ids)]


def search(runner: TrialRunner, start: NMSOptions, methods: Sequence[str]) -> Iterator[Trial]:
    """Yield the best setting of each method, from coarse to fine; `start` is tried first and fixes other settings."""
    runner(start)
    for method in methods:
        yield search_method(runner, replace(start, method=method))


def search_method(runner: TrialRunner, start: NMSOptions) -> Trial:
    """Return the best setting of the method of `start`; of equal ones the first that was tried."""
    best, parameters = runner(start), PARAMETERS[start.method]
    if "iou" in parameters:
        best = max([best, *(runner(replace(start, iou=iou)) for iou in IOUS)], key=METRIC)
    if "localization" in parameters:
        readings = (dict(zip(READINGS, values)) for values in itertools.product(*READINGS.values()))
        trials = [runner(replace(best.options, **reading)) for reading in readings]  # type: ignore[arg-type]
        best = max([best, *trials], key=METRIC)
    if "iou" in parameters:
        for step in (sign * size for size in STEPS for sign in (-1, 1)):
            while BOUNDS[0] <= (iou := round(best.options.iou + step, 3)) <= BOUNDS[1]:
                trial = runner(replace(best.options, iou=iou))
                if trial.metric <= best.metric:
                    break
                best = trial
    return best


def raise_conf(runner: TrialRunner, chosen: Trial, tolerance: float) -> list[Trial]:
    """Try a setting at increasing conf until the cost exceeds the tolerance; `chosen` comes first."""
    trials = [chosen]
    for conf in CONFS:
        if conf > chosen.options.conf and within(trials, tolerance)[-1] is trials[-1]:
            trials.append(runner(replace(chosen.options, conf=conf)))
    return trials


def within(trials: Sequence[Trial], tolerance: float) -> list[Trial]:
    """Select the trials whose metric is at most the tolerance below the best."""
    best = max(map(METRIC, trials))
    return [trial for trial in trials if trial.metric >= best - tolerance]
