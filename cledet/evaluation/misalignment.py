"""Misalignment: whether a detection's score says how well its box lies, and what choosing other boxes could gain.

How to read the figures:

- `spearman`: 1 if of two detections that are matched with an object the one of higher score always lies better, 0 if
  the score says nothing about that, less than 0 if it misleads.
- `kept_iou`: how well the boxes that NMS kept lie on their objects, 0.5 to 1; higher is better.
- `best_iou`: how well the best box of each one's cluster would lie; what it has over `kept_iou` is lost by the choice.
- `oracle`: AP, AP50 and AP75 if of each cluster that box were kept; what they have over the AP of standard NMS is the
  most that another choice within the clusters could be expected to gain.

A cluster is a box that standard NMS keeps together with those that it takes away. A detection is matched with an object
of its class as in COCO's evaluation at IoU 0.5: the detection of highest score first, each with the best object that is
left; crowds and ignored objects, and detections on them, do not count. A method that moves boxes (weighted) may put one
where no candidate was, and so come above `best_iou`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from cledet.data.index import DetectionIndex, Floats, Ints
from cledet.evaluation.candidates import Candidates, everything
from cledet.metrics.average_precision import mean
from cledet.metrics.coco import evaluate
from cledet.metrics.results_file import Results
from cledet.metrics.score_iou import agreement
from cledet.ops.boxes import box_iou
from cledet.ops.nms_clusters import index_clusters

MATCHED = 0.5
"""The IoU from which a detection is matched with an object."""


class Objects(NamedTuple):
    """The ground truths of one image, crowds and ignored ones left out."""

    xywh: Floats  # [G, 4]
    category_ids: Ints  # [G]


class Clusters(NamedTuple):
    """The candidates of one image in the clusters of standard NMS, beside its objects."""

    candidates: Results  # [M, 7]
    owner: Ints  # [M] index of the candidate that standard NMS keeps of each one's cluster
    overlap: Floats  # [M, G] as from `overlaps`


def objects_of(index: DetectionIndex) -> dict[int, Objects]:
    """The objects of every image, by image id."""
    real = ~(index.ignore | index.degenerate())
    found = {}
    for image, image_id in enumerate(index.image_ids.tolist()):
        rows = index.rows(image)
        labels = index.labels[rows][real[rows]]
        found[image_id] = Objects(index.xywh[rows][real[rows]], index.category_ids[labels])
    return found


def overlaps(detections: Results, objects: Objects) -> Floats:
    """IoU [N, G] of detections [N, 7] of an image with its objects, 0 where the class is another."""
    iou = box_iou(_corners(detections[:, 1:5]), _corners(objects.xywh)).numpy()
    return np.where(detections[:, 6, None] == objects.category_ids, iou, 0.0)


def _corners(xywh: Floats) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1))


def cluster(found: Candidates, objects: Objects, iou: float) -> Clusters:
    """The clusters of standard NMS at that IoU threshold."""
    candidates = everything(found)
    owner = index_clusters(found.boxes, found.scores, found.labels, iou).cpu().numpy()
    return Clusters(candidates, owner, overlaps(candidates, objects))


def match(overlap: Floats) -> Ints:
    """Which object each detection is matched with [K], -1 for none, from IoU [K, G]; detections best first."""
    matched = np.full(len(overlap), -1)
    left = np.where(overlap >= MATCHED, overlap, 0.0)
    for row in np.flatnonzero(left.any(axis=1)):
        if left[row].any():
            matched[row] = left[row].argmax()
            left[:, matched[row]] = 0
    return matched


def matches(detections: Results, overlap: Floats) -> tuple[Ints, Ints, Floats]:
    """The matched ones of an image's detections [K, 7], best first: their rows [n], their objects [n], and [n, 2] score
    and IoU; overlap [K, G] as from `overlaps`.
    """
    gt = match(overlap)
    row = np.flatnonzero(gt >= 0)
    return row, gt[row], np.column_stack([detections[row, 5], overlap[row, gt[row]]])


def best_available(image: Clusters, kept: Ints, gt: Ints) -> Floats:
    """The highest IoU [n] with object gt [n] in the cluster of candidate kept [n]."""
    members = image.owner == image.owner[kept, None]
    best: Floats = np.where(members, image.overlap[:, gt].T, 0.0).max(axis=1, initial=0)
    return best


def best_boxes(image: Clusters, max_det: int) -> Results:
    """Of each cluster the box that lies best on any object, with the cluster's highest score: the best `max_det`."""
    quality = image.overlap.max(axis=1, initial=0)
    order = np.lexsort((-image.candidates[:, 5], -quality, image.owner))
    owners, first = np.unique(image.owner[order], return_index=True)
    chosen = image.candidates[order[first]]
    chosen[:, 5] = image.candidates[owners, 5]
    return chosen[np.argsort(-chosen[:, 5], kind="stable")][:max_det]


class Meter:
    """Takes in the candidates of image after image, and what each NMS method keeps of them."""

    def __init__(self, index: DetectionIndex, iou: float, max_det: int) -> None:
        self.index, self.objects = index, objects_of(index)
        self.iou, self.max_det = iou, max_det
        self.rows: dict[str, list[Floats]] = {}
        self.best: list[Results] = [np.zeros((0, 7))]

    def next(self, found: Candidates) -> None:
        """Go on to the next image."""
        self.current = self.objects[found.image_id]
        self.clusters = cluster(found, self.current, self.iou)
        self.best.append(best_boxes(self.clusters, self.max_det))

    def add(self, method: str, detections: Results, keep: Ints) -> None:
        """What a method keeps of this image: detections [K, 7], best first, and their indices among the candidates."""
        row, gt, figures = matches(detections, overlaps(detections, self.current))
        best = best_available(self.clusters, keep[row], gt)
        self.rows.setdefault(method, [np.zeros((0, 3))]).append(np.column_stack([figures, best]))

    def figures(self, method: str) -> dict[str, Any]:
        """Over all images: `spearman`, `kept_iou`, `best_iou` and `oracle`."""
        rows = np.concatenate(self.rows.get(method, [np.zeros((0, 3))]))
        return agreement(rows[:, :2]) | {"best_iou": mean(rows[:, 2]), "oracle": self.oracle}

    @cached_property
    def oracle(self) -> dict[str, float | None]:
        """AP, AP50 and AP75 of the best box of each cluster."""
        metrics = evaluate(self.index, np.concatenate(self.best)).metrics
        return {name: metrics[name] for name in ("AP", "AP50", "AP75")}
