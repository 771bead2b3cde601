"""The search for NMS settings: which are tried on the same candidates, and in what order. No chance is involved."""

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
from cledet.metrics.results_file import Results
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
"""The settings that make a difference to each method."""
IOUS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
STEPS = (0.05, 0.025)
BOUNDS = (0.05, 0.95)
"""IoU thresholds: tried first, then in these steps from the best one on as long as that helps, within these bounds."""
READINGS = {"localization": ("proximity", "as-printed"), "cl_norm": ("max", "diagonal"), "cl_score": ("max", "own")}
"""Eq. 9's open readings, all of which are tried at cl-balanced's best IoU threshold."""
CONFS = (0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Trial:
    """What a setting makes of the candidates."""

    post: NMSOptions
    figure: float
    """The figure that is to be raised, of all images."""
    halves: Floats
    """[2 * repeats] the same of each half of the images."""
    samples: Floats
    """[R] the same of each resample of the images."""
    boxes: float
    """Detections an image."""
    nms_ms: float
    """Milliseconds of NMS an image, the mean."""


class Bench:
    """Tries settings on the same candidates, each once."""

    def __init__(
        self,
        candidates: Iterable[Candidates],
        index: DetectionIndex,
        figure: str,
        halves: Weights,
        resamples: Weights,
        step: Callable[[], object] = lambda: None,
    ) -> None:
        """Candidates that can be gone through again and again; the images' weights in halves and resamples of them, as
        from `cledet.metrics.holdout` and `cledet.metrics.bootstrap`.

        `step` is called before each setting that was not tried yet.
        """
        self.candidates, self.index, self.figure, self.step = candidates, index, figure, step
        self.weights = np.concatenate([np.ones((len(index), 1), dtype=np.int32), halves, resamples], axis=1)
        self.halves = halves.shape[1]
        self.tried: dict[NMSOptions, Trial] = {}

    def __call__(self, post: NMSOptions) -> Trial:
        """The trial of a setting: its figure is nan where no image has an object."""
        if post not in self.tried:
            self.step()
            results, seconds = self.detections(post)
            figures = weighted_ap(match(self.index, results, self.figure), self.weights)
            halves, samples = np.split(figures[1:], [self.halves])
            images = max(1, len(self.index))
            trial = Trial(post, float(figures[0]), halves, samples, len(results) / images, 1000 * seconds / images)
            self.tried[post] = trial
        return self.tried[post]

    @torch.inference_mode()
    def detections(self, post: NMSOptions) -> tuple[Results, float]:
        """What a setting leaves of the candidates, without classes that the split lacks, and NMS's seconds."""
        rows, seconds = [np.zeros((0, 7))], 0.0
        for found in self.candidates:
            found = over(found, post.conf)
            start = time.perf_counter()
            kept = apply_nms(found.boxes, found.scores, found.labels, post)
            seconds += time.perf_counter() - start
            rows.append(to_results(found, kept))
        results = np.concatenate(rows)
        return results[np.isin(results[:, 6], self.index.category_ids)], seconds


def over(found: Candidates, conf: float) -> Candidates:
    """The candidates that score over `conf`."""
    high = found.scores > conf
    if high.all():
        return found
    return found._replace(boxes=found.boxes[high], scores=found.scores[high], labels=found.labels[high])


def search(bench: Bench, start: NMSOptions, methods: Sequence[str]) -> Iterator[Trial]:
    """The best setting of each method, from coarse to fine; all else is as in `start`, which is tried first."""
    bench(start)
    for method in methods:
        yield search_method(bench, replace(start, method=method))


def expected(methods: Sequence[str]) -> int:
    """About how many settings a search tries."""
    tried = {"iou": 3 + len(IOUS), "localization": 2 ** len(READINGS) - 1}
    return sum(1 + sum(tried.get(name, 0) for name in PARAMETERS[method]) for method in methods)


def search_method(bench: Bench, start: NMSOptions) -> Trial:
    """The best setting of the method of `start`; of equal ones that which was tried first."""
    best, parameters = bench(start), PARAMETERS[start.method]
    if "iou" in parameters:
        best = _best([best, *(bench(replace(start, iou=iou)) for iou in IOUS)])
    if "localization" in parameters:
        readings = (dict(zip(READINGS, values)) for values in itertools.product(*READINGS.values()))
        best = _best([best, *(bench(replace(best.post, **reading)) for reading in readings)])  # type: ignore[arg-type]
    if "iou" in parameters:
        for step in (sign * size for size in STEPS for sign in (-1, 1)):
            best = _climb(bench, best, step)
    return best


def _climb(bench: Bench, best: Trial, step: float) -> Trial:
    """Go on from the best IoU threshold in one direction as long as that helps."""
    while BOUNDS[0] <= (iou := round(best.post.iou + step, 3)) <= BOUNDS[1]:
        trial = bench(replace(best.post, iou=iou))
        if trial.figure <= best.figure:
            break
        best = trial
    return best


def raise_conf(bench: Bench, chosen: Trial, tolerance: float) -> list[Trial]:
    """The same setting at higher and higher conf, the one given first; the last one alone may cost more than that."""
    trials = [chosen]
    for conf in CONFS:
        if conf > chosen.post.conf and within(trials, tolerance)[-1] is trials[-1]:
            trials.append(bench(replace(chosen.post, conf=conf)))
    return trials


def within(trials: Sequence[Trial], tolerance: float) -> list[Trial]:
    """Those whose figure is at most the tolerance below the best."""
    best = max(trial.figure for trial in trials)
    return [trial for trial in trials if trial.figure >= best - tolerance]


def _best(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: trial.figure)
