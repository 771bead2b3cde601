"""AP and time of weighted boxes fusion (Solovyev et al., arXiv 1910.13302) beside cledet's NMS methods.

    pip install ensemble-boxes
    python benchmarks/weighted_boxes_fusion.py --data ../shared/data/coco2017_sub \\
        --source ../shared/data/coco2017_sub/detections/yolox_nano_raw.json
    python benchmarks/weighted_boxes_fusion.py --data ../shared/data/bccd --split test --source runs/train/bccd

The source is the weights or run folder of a model, or a .json of raw detections. All methods get the same candidates:
those of `cledet val` in float32 (`--conf` for a model). Fusion is that of ensemble-boxes with one list of boxes. It
was made to fuse the detections of several models after their NMS. Of one model, its score rules `avg` (the default),
`box_and_model_avg` and `absent_model_aware_avg` give the same score: the mean of the fused boxes. `max` is the highest,
and `sum`, `allows_overflow=True`, their sum. The best 100 boxes per image count, as for cledet's methods.

Prints AP, the gain over standard NMS with its 95 % interval over images, and the median and mean milliseconds of CPU
per image on one thread. On every image the methods take turns in random order.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from cledet.config.evaluate import TuneSettings
from cledet.config.loading import resolve
from cledet.detector import Detector
from cledet.evaluation.candidates import Candidates, to_results
from cledet.evaluation.tune.tuner import open_candidates
from cledet.metrics.bootstrap import ap_samples, paired_differences
from cledet.metrics.coco import evaluate
from cledet.metrics.results_file import DetectionRows
from cledet.models.nms import NMS, NMSOptions, apply_nms

Fusion = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
RULES = {"avg": {}, "max": {"conf_type": "max"}, "sum": {"allows_overflow": True}}


def fuse(fusion: Fusion, image: Candidates, iou: float, rule: str, max_det: int) -> DetectionRows:
    """Fuse the boxes of an image by ensemble-boxes; returns the best detections [K, 7].

    Boxes are mapped to the unit square, which changes no IoU and clips no box.
    """
    boxes = image.boxes.double().numpy()
    low = boxes.reshape(-1, 2).min(0) if len(boxes) else np.zeros(2)
    size = boxes.reshape(-1, 2).max(0) - low if len(boxes) else np.ones(2)
    unit = (boxes - np.tile(low, 2)) / np.tile(size, 2)
    fused = fusion([unit], [image.scores.numpy()], [image.labels.numpy()], iou_thr=iou, skip_box_thr=0.0, **RULES[rule])
    xyxy, scores, labels = (values[:max_det] for values in fused)
    xyxy = (xyxy * np.tile(size, 2) + np.tile(low, 2)) * image.scale.numpy()
    ids = np.full(len(scores), image.image_id)
    category_ids = image.category_ids[labels.astype(np.int64)]
    return np.column_stack([ids, xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2], scores, category_ids])


def suppress(image: Candidates, options: NMSOptions) -> DetectionRows:
    """Apply one of cledet's methods to an image."""
    return to_results(image, apply_nms(image.boxes, image.scores, image.labels, options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--source", required=True)
    parser.add_argument("--conf", type=float, default=0.05, help="lowest score of a model's candidates")
    parser.add_argument("--iou", type=float, nargs="+", default=[0.55], help="thresholds of fusion")
    args = parser.parse_args()
    try:
        from ensemble_boxes import weighted_boxes_fusion
    except ModuleNotFoundError as missing:
        sys.exit(f"this needs {missing.name}: pip install ensemble-boxes")
    torch.set_num_threads(1)
    random.seed(0)

    from_file = args.source.endswith(".json")
    own = {"predictions": args.source} if from_file else {"device": "cpu", "workers": 0, "conf": args.conf}
    settings = resolve(TuneSettings, {"data": args.data, "split": args.split, "amp": "off", **own}, environ={})
    candidates, index, options = open_candidates(None if from_file else Detector(args.source).model, settings)
    methods: dict[str, Callable[[Candidates], DetectionRows]] = {
        name: partial(suppress, options=replace(options, method=name)) for name in ("standard", *NMS)
    }
    for rule in RULES:
        for iou in args.iou:
            given = {"iou": iou, "rule": rule, "max_det": options.max_det}
            methods[f"fusion, {rule}, {iou:g}"] = partial(fuse, weighted_boxes_fusion, **given)

    rows: dict[str, list[DetectionRows]] = {name: [np.zeros((0, 7))] for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    with torch.inference_mode():
        for image in [next(iter(candidates)), *candidates]:  # the first one warms up
            for name in random.sample(list(methods), len(methods)):  # the method before affects the caches
                start = time.process_time()
                rows[name].append(methods[name](image))
                seconds[name].append(time.process_time() - start)
    results = {name: np.concatenate([parts[0], *parts[2:]]) for name, parts in rows.items()}
    results = {name: part[np.isin(part[:, 6], index.category_ids)] for name, part in results.items()}
    metrics = {name: evaluate(index, part).metrics for name, part in results.items()}
    samples = ap_samples(index, results, 1000)
    print("| NMS | AP | AP50 | AP75 | gain | 95 % from | to | ms per image: median | mean |")
    print("|---|" + "--:|" * 8)
    for name, metric in metrics.items():
        (gain,) = paired_differences(
            [metric["AP"]], metrics["standard"]["AP"], samples[name][None], samples["standard"]
        )
        ms = 1000 * np.array(seconds[name][1:])
        print(
            f"| {name} | {100 * metric['AP']:.1f} | {100 * metric['AP50']:.1f} | {100 * metric['AP75']:.1f} "
            f"| {100 * gain.value:+.1f} | {100 * gain.low:+.1f} | {100 * gain.high:+.1f} "
            f"| {np.median(ms):.2f} | {ms.mean():.2f} |"
        )


if __name__ == "__main__":
    main()
