"""Evaluation of several NMS methods on the same candidates, in one pass."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch

from cledet.console import say
from cledet.data.index import DetectionIndex
from cledet.distributed import collectives
from cledet.evaluation.candidates import Candidates, to_results
from cledet.evaluation.misalignment import MisalignmentMeter
from cledet.evaluation.timing import EVALUATION, POST, StageTimer, synchronize
from cledet.metrics.bootstrap import MIN_IMAGES, ap_samples, images_with_objects, paired_differences
from cledet.metrics.coco import evaluate
from cledet.metrics.evaluation import EvaluatedDetections, Limits
from cledet.metrics.results_file import DetectionRows
from cledet.models.nms import NMSOptions, apply_nms


@torch.inference_mode()
def evaluate_methods(
    stream: Iterable[Candidates],
    index: DetectionIndex,
    methods: Mapping[str, NMSOptions],
    meter: MisalignmentMeter | None = None,
    *,
    complete: bool = False,
    limits: Limits = Limits(),  # noqa: B008
    timer: StageTimer | None = None,
) -> dict[str, EvaluatedDetections]:
    """Apply each NMS method to the candidates of every image and evaluate its detections, over all processes.

    With a meter, the time of NMS and the misalignment are measured too. `complete` requires that every image of the
    index is in the stream of some process.
    """
    image_ids: list[int] = []
    kept: dict[str, list[DetectionRows]] = {name: [np.zeros((0, 7))] for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    timer = timer or StageTimer()
    for image in stream:
        image_ids.append(image.image_id)
        if meter is not None:
            with timer(EVALUATION):
                meter.start_image(image)
        for name, options in methods.items():
            with timer(POST):
                synchronize(image.boxes.device)
                start = time.perf_counter()
                one = apply_nms(image.boxes, image.scores, image.labels, options)
                synchronize(image.boxes.device)
                seconds[name].append(time.perf_counter() - start)
                kept[name].append(to_results(image, one))
            if meter is not None:
                with timer(EVALUATION):
                    meter.add(name, kept[name][-1], one.keep.cpu().numpy())
    results = gather_results(image_ids, {name: np.concatenate(parts) for name, parts in kept.items()}, index, complete)
    if not collectives.is_main_process():
        return collectives.broadcast({})
    evaluated = {}
    for name, rows in results.items():
        with timer(EVALUATION):
            evaluation = evaluate(index, rows, limits)
            if meter is not None:
                median = 1000 * float(np.median(seconds[name])) if seconds[name] else None  # the first includes warm-up
                evaluation = replace(evaluation, nms_ms=median, misalignment=meter.metrics(name))
        known = rows[np.isin(rows[:, 6], index.category_ids)]  # a model may know classes that the data set lacks
        evaluated[name] = EvaluatedDetections(evaluation, known, None if index.num_boxes else index.name)
    return collectives.broadcast(evaluated)


def gather_results(
    image_ids: list[int], kept: dict[str, DetectionRows], index: DetectionIndex, complete: bool
) -> dict[str, DetectionRows]:
    """Gather the detections of all processes in the order of the index's images, for any number of processes.

    image_ids are the images of this process. Raises AssertionError if an image was evaluated twice or, with `complete`,
    not at all.
    """
    parts = collectives.all_gather((image_ids, kept))
    images = [image for ids, _ in parts for image in ids]
    assert len(set(images)) == len(images), "an image was evaluated twice"
    assert not complete or len(images) == len(index), "an image was not evaluated"
    results = {name: np.concatenate([rows[name] for _, rows in parts]) for name in kept}
    places = np.argsort(index.image_ids)
    for name, rows in results.items():
        place = places[np.searchsorted(index.image_ids, rows[:, 0], sorter=places)]
        results[name] = rows[np.argsort(place, kind="stable")]
    return results


def add_gains(
    evaluated: Mapping[str, EvaluatedDetections], index: DetectionIndex, repeats: int
) -> dict[str, EvaluatedDetections]:
    """Add to each method but the first its gain in AP over the first, with its 95 % interval over resamples.

    With objects on fewer than MIN_IMAGES images there is no interval, and a message says so.
    """
    images = int(images_with_objects(index).any(axis=0).sum())
    if 0 < images < MIN_IMAGES:
        say(f"{index.name} has objects on {images} images: an interval of the gain needs {MIN_IMAGES}")
    samples = ap_samples(index, {name: one.results for name, one in evaluated.items()}, repeats)
    first, *others = evaluated
    baseline, *metrics = (one.evaluation.metrics["AP"] for one in evaluated.values())
    other_samples = np.array([samples[name] for name in others]).reshape(-1, repeats)
    gained = dict(evaluated)
    counts = [images] * len(others)
    for name, gain in zip(others, paired_differences(metrics, baseline, other_samples, samples[first], counts)):
        if gain.value is not None:
            gained[name] = evaluated[name].with_fields(gain=gain.to_dict("AP"))
    return gained
