"""Duration of comparing and tuning: `python benchmarks/compare_and_tune.py [IMAGES]`.

Times the parts of `cledet compare` on a synthetic split like COCO's val2017 (80 classes, 7 objects and 100 detections
per image). Then times settings of `cledet tune` on the real detections in ../shared/data, if present.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.evaluation.candidates import from_results
from cledet.evaluation.tune.search import TrialRunner
from cledet.metrics.bootstrap import halves, match, resamples, weighted_ap
from cledet.metrics.coco import evaluate
from cledet.metrics.influence import leave_one_out
from cledet.metrics.results_file import DetectionRows, read_results
from cledet.models.nms import NMS, NMSOptions

T = TypeVar("T")
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco2017_sub"


def synthetic_split(
    images: int, classes: int = 80, objects: int = 7, detections: int = 100
) -> tuple[DetectionIndex, DetectionRows]:
    """Draw objects, and detections that are nearer to an object the higher their score; class frequency is 1/rank."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, classes + 1)
    share /= share.sum()
    labels = rng.choice(classes, images * objects, p=share)
    xywh = np.concatenate([rng.uniform(0, 500, (images * objects, 2)), rng.uniform(15, 140, (images * objects, 2))], 1)
    index = DetectionIndex(
        name=f"{images} images",
        classes=tuple(f"c{k}" for k in range(classes)),
        category_ids=np.arange(1, classes + 1),
        paths=np.array([f"{i}.jpg" for i in range(images)]),
        image_ids=np.arange(1, images + 1),
        sizes=np.full((images, 2), 640, dtype=np.int32),
        starts=np.arange(images + 1) * objects,
        xywh=xywh,
        labels=labels,
        ignore=np.zeros(len(labels), dtype=np.bool_),
        area=xywh[:, 2] * xywh[:, 3],
    )
    about = (np.arange(images)[:, None] * objects + rng.integers(objects, size=(images, detections))).ravel()
    score = rng.random(len(about)) ** 3
    boxes = xywh[about] + rng.normal(0, 1, (len(about), 4)) * (2 + 40 * (1 - score[:, None]))
    boxes[:, 2:] = boxes[:, 2:].clip(3)
    other = np.where(
        rng.random(len(about)) < 0.5, labels[about], rng.choice(classes, len(about), p=share / share.sum())
    )
    return index, np.column_stack([index.image_ids[about // objects], boxes, score, index.category_ids[other]])


def main() -> None:
    """Print the seconds of each part."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    index, results = synthetic_split(images)
    print(f"{images} images, {len(results):,} detections, load {os.getloadavg()[0]:.1f}")
    _timed("metrics", lambda: evaluate(index, results))
    matches = _timed("matching", lambda: match(index, results))
    _timed("1000 resamples", lambda: weighted_ap(matches, resamples(images, 1000, 0)))
    _timed("AP without each image", lambda: leave_one_out(matches, images))
    if REAL.is_dir():
        _settings()


def _settings() -> None:
    index = open_source(REAL).index("val", need_images=False)
    raw = list(from_results(read_results(REAL / "detections" / "yolox_nano_raw.json", index)))
    runner = TrialRunner(raw, index, "AP", halves(len(index), 10), resamples(len(index), 1000, seed=0))
    for method in NMS:
        runner.tried.clear()
        start = time.process_time()
        runner(NMSOptions(method=method, conf=0.0))
        print(f"{method:12} {1 / (time.process_time() - start):5.1f} settings a second of CPU")


def _timed(name: str, run: Callable[[], T]) -> T:
    start, cpu = time.perf_counter(), time.process_time()
    result = run()
    print(f"{name:24}{time.perf_counter() - start:8.1f} s, {time.process_time() - cpu:6.1f} s of CPU")
    return result


if __name__ == "__main__":
    main()
