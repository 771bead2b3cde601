"""Comparison: every NMS method on the same candidates, in one pass over them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from cledet.data.index import DetectionIndex
from cledet.distributed import collectives
from cledet.evaluation.candidates import Candidates, to_results
from cledet.evaluation.misalignment import Meter
from cledet.evaluation.timing import EVALUATION, POST, Stages, finish
from cledet.metrics.bootstrap import ap_samples, interval
from cledet.metrics.coco import evaluate
from cledet.metrics.evaluation import Limits, Validation
from cledet.metrics.results_file import Results
from cledet.models.nms import Kept, NMSOptions, apply_nms


@torch.inference_mode()
def compare(
    stream: Iterable[Candidates],
    index: DetectionIndex,
    methods: Mapping[str, NMSOptions],
    meter: Meter | None = None,
    *,
    complete: bool = False,
    limits: Limits = Limits(),  # noqa: B008
    stages: Stages | None = None,
) -> dict[str, Validation]:
    """COCO's figures of each method for what it keeps of the candidates, image by image, of this and other processes.

    With a meter also the time that it takes, and the misalignment that it leaves. `complete`: every image of the index
    must come up.
    """
    seen: list[int] = []
    kept: dict[str, list[Results]] = {name: [np.zeros((0, 7))] for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    stages = stages or Stages()
    for found in stream:
        seen.append(found.image_id)
        for name, detections, taken in _suppressed(found, methods, meter, stages):
            kept[name].append(detections)
            seconds[name].append(taken)
    results = over_processes(seen, {name: np.concatenate(parts) for name, parts in kept.items()}, index, complete)
    if not collectives.is_main_process():
        return collectives.broadcast({})
    validations = {}
    for name, rows in results.items():
        with stages(EVALUATION):
            evaluation = evaluate(index, rows, limits)
            if meter is not None:
                evaluation = replace(evaluation, nms_ms=_milliseconds(seconds[name]), misalignment=meter.figures(name))
        known = rows[np.isin(rows[:, 6], index.category_ids)]  # a model may know classes that the data set lacks
        validations[name] = Validation(evaluation, known, None if index.num_boxes else index.name)
    return collectives.broadcast(validations)


def _suppressed(
    found: Candidates, methods: Mapping[str, NMSOptions], meter: Meter | None, stages: Stages
) -> Iterator[tuple[str, Results, float]]:
    """What each method keeps of an image, and the seconds that it takes; the meter sees all of it."""
    if meter is not None:
        with stages(EVALUATION):
            meter.next(found)
    for name, post in methods.items():
        with stages(POST):
            chosen, taken = _timed(post, found)
            detections = to_results(found, chosen)
        if meter is not None:
            with stages(EVALUATION):
                meter.add(name, detections, chosen.keep.cpu().numpy())
        yield name, detections, taken


def over_processes(
    seen: list[int], kept: dict[str, Results], index: DetectionIndex, complete: bool
) -> dict[str, Results]:
    """What all processes kept, in the order of the index's images: the same for any number of processes.

    seen holds the ids of the images that this process looked at. Raises AssertionError if one came up twice, or, where
    they should be complete, not at all.
    """
    everyone = collectives.all_gather((seen, kept))
    images = [image for ids, _ in everyone for image in ids]
    assert len(set(images)) == len(images), "an image was evaluated twice"
    assert not complete or len(images) == len(index), "an image was not evaluated"
    results = {name: np.concatenate([rows[name] for _, rows in everyone]) for name in kept}
    places = np.argsort(index.image_ids)
    for name, rows in results.items():
        place = places[np.searchsorted(index.image_ids, rows[:, 0], sorter=places)]
        results[name] = rows[np.argsort(place, kind="stable")]
    return results


def _timed(post: NMSOptions, found: Candidates) -> tuple[Kept, float]:
    """What the method keeps, and the seconds that it takes."""
    finish(found.boxes.device)
    start = time.perf_counter()
    kept = apply_nms(found.boxes, found.scores, found.labels, post)
    finish(found.boxes.device)
    return kept, time.perf_counter() - start


def _milliseconds(seconds: Sequence[float]) -> float | None:
    """The median, for the first call does more than the others."""
    return 1000 * float(np.median(seconds)) if seconds else None


def with_gains(validations: Mapping[str, Validation], index: DetectionIndex, repeats: int) -> dict[str, Validation]:
    """The same, each but the first with its gain: AP less the first's, and the 95 % interval over so many resamples."""
    samples = ap_samples(index, {name: one.results for name, one in validations.items()}, repeats)
    first, *others = validations
    base = validations[first].evaluation.metrics["AP"]
    gained = {first: validations[first]}
    for name in others:
        gained[name] = one = validations[name]
        ap = one.evaluation.metrics["AP"]
        low, high = interval(samples[name] - samples[first])
        if ap is not None and base is not None and not np.isnan(low):
            gained[name] = one.with_figures(gain={"AP": ap - base, "low": low, "high": high})
    return gained
