"""Rank correlation of score, and of closeness to the centre, with IoU among the boxes that standard NMS reduces to one.

CL-B keeps another box of a cluster than standard NMS does, so it can gain only where closeness to the cluster's centre
says more about the IoU with the object than the score does. docs/development-runs.md tests that over detectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from cledet.components.cl_nms import center_distances
from cledet.data.index import DetectionIndex, Floats, Ints
from cledet.evaluation.candidates import Candidates, all_candidates
from cledet.evaluation.misalignment import Objects, matches, objects_of, overlaps
from cledet.metrics.average_precision import mean
from cledet.metrics.coco import spearman_by_group
from cledet.models.nms import NMSOptions
from cledet.ops.nms_clusters import index_clusters

CHOICE = 3
"""Fewest boxes of a cluster in which CL-B has a choice: of two, it keeps the one of higher score."""


class ClusterAlignment(NamedTuple):
    """Agreement of score and closeness with IoU, within the clusters of standard NMS on objects.

    These are the clusters whose kept box is a true positive at IoU 0.5. The correlations are Spearman's, within a
    cluster of three or more boxes, mean over these clusters; None without such a cluster.
    """

    clusters: int
    boxes: float | None
    """Mean number of boxes per cluster."""
    choices: int
    """Number of clusters of three or more boxes."""
    score: float | None
    """Correlation of the boxes' score and their IoU with the object."""
    closeness: float | None
    """Correlation of 1 - d of Eq. 9 and the IoU, with the norm of the options."""


@torch.inference_mode()
def cluster_alignment(
    candidates: Iterable[Candidates], index: DetectionIndex, options: NMSOptions
) -> dict[str | None, ClusterAlignment]:
    """Measure the clusters of standard NMS with conf, iou, max_det and cl_norm of the options.

    Returns the measurements of each class by name, and those of all clusters under None.
    """
    objects = objects_of(index)
    parts, count = [np.zeros((0, 5))], 0
    for image in candidates:
        part = _clusters_on_objects(image, objects[image.image_id], options)
        part[:, 0] += count
        count += len(np.unique(part[:, 0]))
        parts.append(part)
    rows = np.concatenate(parts)
    cluster, (category, score, closeness, iou) = rows[:, 0].astype(np.int64), rows[:, 1:].T
    sizes, category_ids = np.bincount(cluster, minlength=count), np.zeros(count)
    category_ids[cluster] = category
    of_score, of_closeness = (spearman_by_group(values, iou, cluster, count) for values in (score, closeness))
    measured: dict[str | None, ClusterAlignment] = {None: _summarize(sizes, of_score, of_closeness)}
    for name, category_id in zip(index.classes, index.category_ids.tolist()):
        own = category_ids == category_id
        measured[name] = _summarize(sizes[own], of_score[own], of_closeness[own])
    return measured


def _summarize(sizes: Ints, score: Floats, closeness: Floats) -> ClusterAlignment:
    """Summarize the sizes [C] and correlations [C] of clusters."""
    choice = sizes >= CHOICE
    boxes = mean(sizes.astype(np.float64))
    return ClusterAlignment(len(sizes), boxes, int(choice.sum()), mean(score[choice]), mean(closeness[choice]))


def _clusters_on_objects(image: Candidates, objects: Objects, options: NMSOptions) -> Floats:
    """Return cluster from 0, category id, score, closeness and IoU [n, 5] of the boxes in the clusters of one image."""
    high = image.scores > options.conf
    image = image._replace(boxes=image.boxes[high], scores=image.scores[high], labels=image.labels[high])
    cluster_index = index_clusters(image.boxes, image.scores, image.labels, options.iou)
    closeness = 1 - center_distances(image.boxes, image.scores, cluster_index, options.cl_norm).cpu().numpy()
    cluster, rows = cluster_index.cpu().numpy(), all_candidates(image)
    overlap = overlaps(rows, objects)
    keep = np.flatnonzero(cluster == np.arange(len(cluster)))
    keep = keep[np.argsort(-rows[keep, 5], kind="stable")][: options.max_det]
    row, gt, _ = matches(rows[keep], overlap[keep])
    gt_of = np.full(len(rows), -1)  # object of each cluster, at the index of its kept box
    gt_of[keep[row]] = gt
    member = np.flatnonzero(gt_of[cluster] >= 0)
    own = cluster[member]
    number = np.unique(own, return_inverse=True)[1]
    return np.column_stack([number, rows[member, 6], rows[member, 5], closeness[member], overlap[member, gt_of[own]]])
