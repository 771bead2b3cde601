"""Positives, DC coefficients, NMS clusters and the peaks of both branches for one image.

The image is treated as a training batch of one; all boxes and points are returned in pixels of the original image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cledet.components.cl_nms import approximate_centers, cl_balanced_nms
from cledet.components.iac import at_matched_class
from cledet.config.train import TrainSettings
from cledet.explain.explanation import Clusters, Explanation, Objects, Peaks, Positives
from cledet.models.assignment import Targets, positives
from cledet.models.criterion import Criterion
from cledet.models.network import RawOutputs
from cledet.models.postprocess import Detected, candidates
from cledet.ops.assigners.max_iou import match
from cledet.ops.boxes import centers, clip_boxes, elementwise_iou
from cledet.ops.nms_clusters import index_clusters
from cledet.training.init_model import build_criterion


def explain(
    raw: RawOutputs,
    size: tuple[int, int],
    objects: Objects,
    settings: TrainSettings,
    *,
    image: NDArray[np.uint8],
    path: Path | None,
    names: tuple[str, ...],
) -> Explanation:
    """Explain one image from its raw outputs and its objects.

    `size` is the height and width of the network's input without padding, in whose pixels the objects are given. All
    boxes and points are scaled to pixels of `image`, the original of any size. `settings` are those of training. Every
    component that the assignment admits is shown, on or off.
    """
    all_on = settings.model_copy(update={"ablation": settings.possible})
    detected = candidates(raw, torch.tensor([size]), settings.conf)[0]
    positives = find_positives(raw, objects, build_criterion(all_on))
    clusters = find_clusters(detected, settings.iou, localization=settings.localization, cl_norm=settings.cl_norm)
    peaks = find_peaks(raw, size, objects)
    ratio = torch.tensor([image.shape[1] / size[1], image.shape[0] / size[0]])  # x, y
    scale = ratio.repeat(2)
    return Explanation(
        path=path,
        image=image,
        names=names,
        settings=settings,
        objects=objects._replace(boxes=objects.boxes * scale, ignored=objects.ignored * scale),
        positives=positives._replace(anchors=positives.anchors * scale, boxes=positives.boxes * scale),
        clusters=clusters._replace(boxes=clusters.boxes * scale, centers=clusters.centers * ratio),
        peaks=peaks._replace(classified_at=peaks.classified_at * ratio, localized_at=peaks.localized_at * ratio),
    )


def find_positives(raw: RawOutputs, objects: Objects, criterion: Criterion) -> Positives:
    """Assign and weigh the anchors of the first image with a criterion, and return the positives."""
    targets = Targets(objects.boxes[None], objects.labels[None], objects.ignored[None])
    assignment = criterion.assign(raw, targets)
    positive = positives(raw, targets, assignment)
    loss = criterion.classification(raw, assignment, positive).flatten()[positive.flat_index]
    logits = raw.logits.flatten(0, 1)[positive.flat_index]
    _, weight = criterion.weigh(criterion.of_recalled(loss, logits, positive), logits, positive)
    return Positives(positive.anchors, positive.boxes, positive.gt, positive.recalled, weight)


def find_clusters(detected: Detected, iou: float, *, localization: str = "proximity", cl_norm: str = "max") -> Clusters:
    """Cluster the candidates, and find the one of each cluster that standard NMS and CL-B keep.

    `localization` and `cl_norm` are options of CL-B.
    """
    boxes, scores, labels = detected
    cluster_index = index_clusters(boxes, scores, labels, iou)
    balanced = cl_balanced_nms(boxes, scores, labels, iou, localization=localization, cl_norm=cl_norm)[0]
    balanced = balanced[scores[cluster_index[balanced]].argsort(descending=True, stable=True)]
    standard = cluster_index[balanced]
    cluster = torch.empty_like(cluster_index).index_put_((standard,), torch.arange(len(standard)))[cluster_index]
    cluster_centers = approximate_centers(centers(boxes.double()).t(), scores.double(), cluster_index).t()[standard]
    return Clusters(boxes, scores, labels, cluster, cluster_centers.float(), standard, balanced)


def find_peaks(raw: RawOutputs, size: tuple[int, int], objects: Objects) -> Peaks:
    """Find the positions of the highest probability and of the highest IoU of each object (the paper's Fig. 1).

    Each anchor is matched to the object that it overlaps most. It counts with the probability of that object's class
    and with the IoU of its decoded box, clipped to the image; both are 0 if it overlaps no object.
    """
    matches = match(raw.anchors, objects.boxes[None])
    overlaps, gt = matches.iou[0] > 0, matches.gt[0]
    probability = at_matched_class(raw.logits, objects.labels[None], matches)[0].float().sigmoid() * overlaps
    iou = torch.zeros_like(probability)
    boxes = clip_boxes(raw.boxes(0, overlaps), size)
    iou[overlaps] = elementwise_iou(boxes, objects.boxes[gt[overlaps]])
    object_index = torch.where(overlaps, gt, -1)
    classified_at, best_probability = _best_anchors(probability, object_index, raw.anchors, len(objects.boxes))
    localized_at, best_iou = _best_anchors(iou, object_index, raw.anchors, len(objects.boxes))
    maps = interpolate_map(probability, raw, size), interpolate_map(iou, raw, size)
    return Peaks(*maps, classified_at, localized_at, best_probability, best_iou)


def interpolate_map(values: Tensor, raw: RawOutputs, size: tuple[int, int]) -> Tensor:
    """Interpolate values [A] of the anchors to a map [h, w].

    The maximum is taken over the anchors of a position, then interpolated bilinearly, then the maximum over levels.
    """
    result = torch.zeros(size)
    for value, center in zip(values.split(raw.levels), centers(raw.anchors).split(raw.levels)):
        xs, ys = center[:, 0].unique(), center[:, 1].unique()
        grid = value.view(len(ys), len(xs), -1).amax(-1)
        result = torch.maximum(result, _linear_weights(ys, size[0]) @ grid @ _linear_weights(xs, size[1]).T)
    return result


def _linear_weights(points: Tensor, count: int) -> Tensor:
    """Compute the weights [count, n] that interpolate values at n ascending points to `count` pixel centres."""
    pixels, known = np.arange(count) + 0.5, points.numpy()
    weights = [np.interp(pixels, known, unit) for unit in np.eye(len(known))]
    return torch.from_numpy(np.stack(weights, 1)).float()


def _best_anchors(values: Tensor, object_index: Tensor, anchors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the anchor of highest value for each of `count` objects: its centre [count, 2] and the value [count].

    The centre is NaN and the value 0 for an object without anchors.
    """
    positions, best = torch.full((count, 2), torch.nan), torch.zeros(count)
    for i in range(count):
        matched = (object_index == i).nonzero().squeeze(-1)
        if len(matched):
            best[i], k = values[matched].max(0)
            positions[i] = centers(anchors[matched[k]])
    return positions, best
