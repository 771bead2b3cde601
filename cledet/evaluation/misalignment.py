"""Misalignment of score and localization, and the gain of an oracle that chooses the best box of each NMS cluster.

Interpretation of the metrics:

- `spearman`: rank correlation of score and IoU over the true positives: 1 if a higher score always means a higher IoU,
0 if they are unrelated, negative if the score misleads.
- `kept_iou`: mean IoU of the true positives that NMS keeps, 0.5 to 1; higher is better.
- `best_iou`: mean IoU of the best box of each cluster; its excess over `kept_iou` is lost by NMS.
- `oracle`: AP, AP50 and AP75 if that box were kept of each cluster; the excess over the AP of standard NMS bounds what
  another choice within the clusters can be expected to gain.

A cluster is a box that standard NMS keeps, together with those that it suppresses. Detections are matched as in COCO's
evaluation at IoU 0.5, and ignored objects and detections on them do not count. A method that moves boxes (weighted) may
produce better boxes than the candidates and so exceed `best_iou`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from cledet.data.index import DetectionIndex, Floats, Ints
from cledet.evaluation.candidates import Candidates, all_candidates
from cledet.metrics.average_precision import mean
from cledet.metrics.coco import evaluate, score_iou_correlation
from cledet.metrics.results_file import DetectionRows
from cledet.ops.boxes import box_iou
from cledet.ops.nms_clusters import index_clusters

MATCHED = 0.5
"""IoU threshold of the matching."""


class Objects(NamedTuple):
    """The ground truths of one image without ignored ones."""

    xywh: Floats  # [G, 4]
    category_ids: Ints  # [G]


def objects_of(index: DetectionIndex) -> dict[int, Objects]:
    """Collect the objects of every image by image id."""
    real = index.objects()
    objects = {}
    for image, image_id in enumerate(index.image_ids.tolist()):
        rows = index.rows(image)
        labels = index.labels[rows][real[rows]]
        objects[image_id] = Objects(index.xywh[rows][real[rows]], index.category_ids[labels])
    return objects


def overlaps(detections: DetectionRows, objects: Objects) -> Floats:
    """Compute IoU [N, G] of detections [N, 7] of an image and its objects; 0 for different classes."""
    iou = box_iou(_corners(detections[:, 1:5]), _corners(objects.xywh)).numpy()
    return np.where(detections[:, 6, None] == objects.category_ids, iou, 0.0)


def _corners(xywh: Floats) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1))


def match(overlap: Floats) -> Ints:
    """Match detections, highest score first, with objects by IoU [K, G]; returns objects [K], -1 for none."""
    matched = np.full(len(overlap), -1)
    left = np.where(overlap >= MATCHED, overlap, 0.0)
    for row in np.flatnonzero(left.any(axis=1)):
        if left[row].any():
            matched[row] = left[row].argmax()
            left[:, matched[row]] = 0
    return matched


def matches(detections: DetectionRows, overlap: Floats) -> tuple[Ints, Ints, Floats]:
    """Match the detections [K, 7] of an image, highest score first; overlap [K, G] as from `overlaps`.

    Returns the rows [n] of the true positives, their objects [n], and score and IoU [n, 2].
    """
    gt = match(overlap)
    row = np.flatnonzero(gt >= 0)
    return row, gt[row], np.column_stack([detections[row, 5], overlap[row, gt[row]]])


class MisalignmentMeter:
    """Accumulator of the misalignment of each NMS method over images."""

    def __init__(self, index: DetectionIndex, iou: float, max_det: int) -> None:
        self.index, self.objects = index, objects_of(index)
        self.iou, self.max_det = iou, max_det
        self.rows: dict[str, list[Floats]] = {}
        self.best: list[DetectionRows] = [np.zeros((0, 7))]

    def start_image(self, image: Candidates) -> None:
        """Set the current image: its clusters, and the box of highest IoU of each with the cluster's highest score."""
        self.current, candidates = self.objects[image.image_id], all_candidates(image)
        self.overlap = overlaps(candidates, self.current)  # [M, G]
        # [M] index of the kept candidate of each one's cluster
        self.cluster_index = index_clusters(image.boxes, image.scores, image.labels, self.iou).cpu().numpy()
        order = np.lexsort((-candidates[:, 5], -self.overlap.max(axis=1, initial=0), self.cluster_index))
        keepers, first = np.unique(self.cluster_index[order], return_index=True)
        chosen = candidates[order[first]]
        chosen[:, 5] = candidates[keepers, 5]
        self.best.append(chosen[np.argsort(-chosen[:, 5], kind="stable")][: self.max_det])

    def add(self, method: str, detections: DetectionRows, keep: Ints) -> None:
        """Add the detections [K, 7] of a method on this image, highest score first, and their candidate indices [K]."""
        row, gt, score_iou = matches(detections, overlaps(detections, self.current))
        members = self.cluster_index == self.cluster_index[keep[row], None]
        best = np.where(members, self.overlap[:, gt].T, 0.0).max(axis=1, initial=0)
        self.rows.setdefault(method, [np.zeros((0, 3))]).append(np.column_stack([score_iou, best]))

    def metrics(self, method: str) -> dict[str, Any]:
        """Compute `spearman`, `kept_iou`, `best_iou` and `oracle` over all images."""
        rows = np.concatenate(self.rows.get(method, [np.zeros((0, 3))]))
        return score_iou_correlation(rows[:, :2]) | {"best_iou": mean(rows[:, 2]), "oracle": self.oracle}

    @cached_property
    def oracle(self) -> dict[str, float | None]:
        """Compute AP, AP50 and AP75 of the best box of each cluster."""
        metrics = evaluate(self.index, np.concatenate(self.best)).metrics
        return {name: metrics[name] for name in ("AP", "AP50", "AP75")}
