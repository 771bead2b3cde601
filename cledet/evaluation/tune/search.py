"""Deterministic search for NMS settings on fixed candidates."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cledet.data.index import DetectionIndex, Floats
from cledet.evaluation.candidates import Candidates, to_results
from cledet.metrics.bootstrap import Weights, match, weighted_ap
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

    post: NMSOptions
    metric: float
    """The metric to maximize, on all images."""
    halves: Floats
    """[2 * repeats] the metric on halves of the images."""
    samples: Floats
    """[R] the metric on resamples of the images."""
    boxes: float
    """Mean number of detections per image."""
    nms_ms: float
    """Mean milliseconds of NMS per image."""


class TrialRunner:
    """Evaluator of settings on fixed candidates, which caches its trials."""

    def __init__(
        self,
        candidates: Iterable[Candidates],
        index: DetectionIndex,
        metric: str,
        halves: Weights,
        resamples: Weights,
        step: Callable[[], object] = lambda: None,
    ) -> None:
        """Store candidates that can be iterated repeatedly, and the weights of images in halves and resamples.

        The weights come from `cledet.metrics.holdout` and `cledet.metrics.bootstrap`. `step` is called before each new
        trial.
        """
        self.candidates, self.index, self.metric, self.step = candidates, index, metric, step
        self.weights = np.concatenate([np.ones((len(index), 1), dtype=np.int32), halves, resamples], axis=1)
        self.halves = halves.shape[1]
        self.tried: dict[NMSOptions, Trial] = {}

    def __call__(self, post: NMSOptions) -> Trial:
        """Evaluate a setting, or return its earlier trial; the metric is nan if no image has an object."""
        if post not in self.tried:
            self.step()
            results, seconds = self.detections(post)
            metrics = weighted_ap(match(self.index, results, self.metric), self.weights)
            halves, samples = np.split(metrics[1:], [self.halves])
            images = max(1, len(self.index))
            trial = Trial(post, float(metrics[0]), halves, samples, len(results) / images, 1000 * seconds / images)
            self.tried[post] = trial
        return self.tried[post]

    @torch.inference_mode()
    def detections(self, post: NMSOptions) -> tuple[DetectionRows, float]:
        """Apply a setting to all candidates; returns detections of the classes of the split, and seconds of NMS."""
        rows, seconds = [np.zeros((0, 7))], 0.0
        for image in self.candidates:
            image = above_conf(image, post.conf)
            start = time.perf_counter()
            kept = apply_nms(image.boxes, image.scores, image.labels, post)
            seconds += time.perf_counter() - start
            rows.append(to_results(image, kept))
        results = np.concatenate(rows)
        return results[np.isin(results[:, 6], self.index.category_ids)], seconds


def above_conf(image: Candidates, conf: float) -> Candidates:
    """Keep the candidates that score above `conf`."""
    high = image.scores > conf
    if high.all():
        return image
    return image._replace(boxes=image.boxes[high], scores=image.scores[high], labels=image.labels[high])


def search(runner: TrialRunner, start: NMSOptions, methods: Sequence[str]) -> Iterator[Trial]:
    """Yield the best setting of each method, from coarse to fine; `start` is tried first and fixes other settings."""
    runner(start)
    for method in methods:
        yield search_method(runner, replace(start, method=method))


def expected_trials(methods: Sequence[str]) -> int:
    """Estimate the number of trials of a search."""
    tried = {"iou": 3 + len(IOUS), "localization": 2 ** len(READINGS) - 1}
    return sum(1 + sum(tried.get(name, 0) for name in PARAMETERS[method]) for method in methods)


def search_method(runner: TrialRunner, start: NMSOptions) -> Trial:
    """Return the best setting of the method of `start`; of equal ones the first that was tried."""
    best, parameters = runner(start), PARAMETERS[start.method]
    if "iou" in parameters:
        best = _best([best, *(runner(replace(start, iou=iou)) for iou in IOUS)])
    if "localization" in parameters:
        readings = (dict(zip(READINGS, values)) for values in itertools.product(*READINGS.values()))
        best = _best([best, *(runner(replace(best.post, **reading)) for reading in readings)])  # type: ignore[arg-type]
    if "iou" in parameters:
        for step in (sign * size for size in STEPS for sign in (-1, 1)):
            best = _climb(runner, best, step)
    return best


def _climb(runner: TrialRunner, best: Trial, step: float) -> Trial:
    """Step from the best IoU threshold in one direction while that improves it."""
    while BOUNDS[0] <= (iou := round(best.post.iou + step, 3)) <= BOUNDS[1]:
        trial = runner(replace(best.post, iou=iou))
        if trial.metric <= best.metric:
            break
        best = trial
    return best


def raise_conf(runner: TrialRunner, chosen: Trial, tolerance: float) -> list[Trial]:
    """Try a setting at increasing conf until the cost exceeds the tolerance; `chosen` comes first."""
    trials = [chosen]
    for conf in CONFS:
        if conf > chosen.post.conf and within(trials, tolerance)[-1] is trials[-1]:
            trials.append(runner(replace(chosen.post, conf=conf)))
    return trials


def within(trials: Sequence[Trial], tolerance: float) -> list[Trial]:
    """Select the trials whose metric is at most the tolerance below the best."""
    best = max(trial.metric for trial in trials)
    return [trial for trial in trials if trial.metric >= best - tolerance]


def _best(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: trial.metric)
