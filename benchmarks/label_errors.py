"""Planted label errors that `cledet val` finds: precision and recall of its list of suspects.

    python benchmarks/label_errors.py --data bccd --split test --weights runs/train/bccd [--seeds 5] [--share 0.05]
    python benchmarks/label_errors.py --data bccd --split test --predictions runs/val/test/detections.json

Errors are planted in memory: a share of the labels, one third of them each

- swapped: the label gets another class
- dropped: the label is removed
- shifted: the box is moved by 0.3 to 0.6 of its sides in a random direction (IoU 0.2 to 0.54), within the image

The detections are those of a model that was trained without these errors. A suspect is right if it names a swapped or
shifted label, or if it is a missing label whose detection lies on the box (IoU 0.5 or more) of a dropped label, or on
the true box of a shifted one. A second suspect of the same error is wrong, and so are real label errors of the data
set: precision is a lower bound.

Prints, as means over the seeds: precision among the first N suspects for N planted errors (R-precision, equal to recall
there), precision among the first 50, recall among the first 2 N, and the recall of each kind at N and 2 N.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.data.index import DetectionIndex, Floats, Ints, group_by_image
from cledet.data.open import open_source
from cledet.metrics.matching import Overlaps, box_iou, overlaps
from cledet.metrics.results_file import DetectionRows, read_results
from cledet.metrics.suspects import Suspect, find_suspects

KINDS = ("swapped", "dropped", "shifted")
SHIFT = (0.3, 0.6)


class Planted(NamedTuple):
    """Errors planted in a split, in the order of KINDS."""

    split: DetectionIndex
    kind: Ints
    """[N] index into KINDS."""
    row: Ints
    """[N] box row of the label, -1 for a dropped one."""
    image: Ints
    """[N]"""
    box: Floats
    """[N, 4] the true box."""


def plant(index: DetectionIndex, seed: int, share: float) -> Planted:
    """Plant errors in a share of the labels, the same number of each kind."""
    rng = np.random.default_rng(seed)
    each = max(1, round(share * int((~index.ignore).sum()) / len(KINDS)))
    chosen = rng.permutation(np.flatnonzero(~index.ignore))[: each * len(KINDS)]
    swapped, dropped, shifted = chosen.reshape(len(KINDS), each)
    image, labels, xywh = index.image_of_boxes(), index.labels.copy(), index.xywh.copy()
    classes = len(index.classes)
    labels[swapped] = (labels[swapped] + rng.integers(1, classes, each)) % classes
    xywh[shifted] = _shifted(xywh[shifted], index.sizes[image[shifted]], rng)
    kept = np.ones(len(labels), dtype=np.bool_)
    kept[dropped] = False
    _, starts = group_by_image(image[kept], len(index))
    changed = {"xywh": xywh, "labels": labels, "ignore": index.ignore, "area": index.area}
    columns = {name: values[kept] for name, values in changed.items()}
    row = np.where(kept, kept.cumsum() - 1, -1)[chosen]
    planted = replace(index, **columns, starts=starts, cache_folder=None)  # type: ignore[arg-type]
    return Planted(planted, np.repeat(np.arange(len(KINDS)), each), row, image[chosen], index.xywh[chosen])


def _shifted(xywh: Floats, sizes: Any, rng: np.random.Generator) -> Floats:
    """Move boxes [N, 4] in a random direction, or in the opposite one where they would leave their image [N, 2]."""
    angle, distance = rng.uniform(0, 2 * np.pi, len(xywh)), rng.uniform(*SHIFT, len(xywh))
    step = distance[:, None] * np.column_stack([np.cos(angle), np.sin(angle)]) * xywh[:, 2:]
    outside = (xywh[:, :2] + step < 0) | (xywh[:, :2] + step + xywh[:, 2:] > sizes)
    return np.hstack([xywh[:, :2] + np.where(outside, -step, step), xywh[:, 2:]])


def errors_found(planted: Planted, o: Overlaps, suspects: list[Suspect]) -> Ints:
    """Return the planted error [S] that each suspect is the first to find, -1 for none."""
    of_row = {int(row): i for i, row in enumerate(planted.row) if row >= 0}
    of_image = defaultdict(list)
    for i in np.flatnonzero(planted.kind > 0):
        of_image[int(planted.image[i])].append(int(i))
    found, seen = [], set()
    for suspect in suspects:
        error = of_row.get(suspect.gt, -1)
        if suspect.gt < 0:
            box = o.xywh[suspect.detection][None]
            ious = {i: float(box_iou(box, planted.box[i][None])[0]) for i in of_image[suspect.image] if i not in seen}
            best = max(ious, key=lambda i: ious[i], default=-1)
            error = best if ious.get(best, 0.0) >= 0.5 else -1
        error = -1 if error in seen else error
        seen.add(error)
        found.append(error)
    return np.array(found, dtype=np.int64)


def measure(planted: Planted, results: DetectionRows) -> dict[str, float]:
    """Measure precision and recall of the suspects of a split with planted errors."""
    count = len(planted.kind)
    o = overlaps(planted.split, results)
    found = errors_found(planted, o, find_suspects(o, o.match(), 2 * count))
    metrics = {
        "planted": count,
        "R-precision": float((found[:count] >= 0).sum() / count),
        "precision@50": float((found[:50] >= 0).mean()) if len(found) else 0.0,
        "recall@2N": float((found >= 0).sum() / count),
    }
    for kind, name in enumerate(KINDS):
        for title, part in (("N", found[:count]), ("2N", found)):
            mine = planted.kind[part[part >= 0]] == kind
            metrics[f"{name}@{title}"] = float(mine.sum() / (planted.kind == kind).sum())
    return metrics


def detections(args: argparse.Namespace, index: DetectionIndex) -> DetectionRows:
    """Read the detections, or compute them as `cledet val` does."""
    if args.predictions is not None:
        return read_results(args.predictions, index)
    from cledet import Detector

    settings = resolve(ValSettings, {"data": args.data, "split": args.split})
    (evaluated,) = Detector(args.weights).validate(settings, index).values()
    return evaluated.results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--weights")
    given.add_argument("--predictions", type=Path)
    parser.add_argument("--seeds", type=int, default=5, help="plant with seeds 0, 1, ... and average")
    parser.add_argument("--share", type=float, default=0.05, help="share of the labels")
    args = parser.parse_args()
    index = open_source(args.data).index(args.split, need_images=False)
    results = detections(args, index)
    runs = [measure(plant(index, seed, args.share), results) for seed in range(args.seeds)]
    print(f"{index.name}: {int((~index.ignore).sum()):,} labels, {len(results):,} detections, {args.seeds} seeds")
    for name in runs[0]:
        values = np.array([one[name] for one in runs])
        print(f"{name:>14} {values.mean():8.3f}   {values.min():.3f} to {values.max():.3f}")


if __name__ == "__main__":
    main()
