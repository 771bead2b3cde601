"""Adaptive training sample selection (ATSS): an IoU threshold per ground truth from its nearest anchors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cledet.ops.assigners.max_iou import BACKGROUND
from cledet.ops.boxes import centers, elementwise_iou, upcast

MARGIN = 0.01
"""Distance in pixels of an anchor's centre from the sides of its ground truth, as published; excludes empty boxes."""


def assign_atss(anchors: Tensor, gt_boxes: Tensor, levels: Sequence[int], *, count: int = 9, chunk: int = 16) -> Tensor:
    """Assign anchors by ATSS: [N, A] int64, the ground truth's index or -1 background; none is ignored.

    anchors [A, 4], of which `levels` are on each pyramid level; gt_boxes [N, G, 4] padded with zero boxes. The
    candidates of a ground truth are on each level the `count` anchors with the nearest centres, ties by index. A
    candidate is positive if its IoU is at least the candidates' mean plus standard deviation and its centre lies in the
    ground truth. An anchor of several ground truths is assigned to that of highest IoU, ties by the lowest index.
    Memory is N * A * chunk floats. Source: Zhang et al., "Bridging the Gap" (arXiv 1912.02424), algorithm 1.
    """
    best = torch.zeros(len(gt_boxes), len(anchors), device=anchors.device, dtype=upcast(anchors).dtype)
    assigned = torch.full_like(best, BACKGROUND, dtype=torch.int64)
    for start in range(0, gt_boxes.shape[1], chunk):
        boxes = gt_boxes[:, start : start + chunk]
        anchor = candidates(anchors, boxes, levels, count)
        iou = elementwise_iou(anchors[anchor], boxes[:, :, None])
        image, gt, place = select_positives(anchors[anchor], boxes, iou).nonzero(as_tuple=True)
        index = image * len(anchors) + anchor[image, gt, place]
        assign_best(best.view(-1), assigned.view(-1), index, iou[image, gt, place], gt + start)
    return assigned


def candidates(anchors: Tensor, boxes: Tensor, levels: Sequence[int], count: int) -> Tensor:
    """Return the indices [N, G, K] of the `count` anchors of each level whose centres are nearest to each box."""
    points, indices, first = centers(anchors), [], 0
    for level in levels:
        offset = points[first : first + level] - centers(boxes)[:, :, None]
        indices.append(first + lowest(offset.square().sum(-1), min(count, level)))
        first += level
    return torch.cat(indices, -1)


def select_positives(candidates: Tensor, boxes: Tensor, iou: Tensor) -> Tensor:
    """Select the candidates [N, G, K, 4] that are positive for boxes [N, G, 4] by IoU [N, G, K]: bool [N, G, K]."""
    spread = iou.std(-1, keepdim=True) if iou.shape[-1] > 1 else 0
    points, boxes = centers(candidates), boxes[:, :, None]
    margin = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1).amin(-1)
    return (iou >= iou.mean(-1, keepdim=True) + spread) & (margin > MARGIN)


def lowest(distance: Tensor, count: int) -> Tensor:
    """Return the indices [..., count] of the smallest distances [..., A], ascending; ties by the lowest index."""
    last = distance.topk(count, largest=False, sorted=True).values[..., -1:]
    nearer, equal = distance < last, distance == last
    taken = nearer | (equal & (equal.cumsum(-1) <= count - nearer.sum(-1, keepdim=True)))
    return taken.nonzero()[:, -1].view(*distance.shape[:-1], count)


def assign_best(best: Tensor, assigned: Tensor, index: Tensor, iou: Tensor, gt: Tensor) -> None:
    """Assign the anchors at `index` to the ground truths of highest IoU: updates best [M] and assigned [M] in place."""
    before = best.clone()
    best.scatter_reduce_(0, index, iou, "amax")
    wins = (iou == best[index]) & (iou > before[index])
    index, gt = index[wins], gt[wins]
    assigned[index] = torch.iinfo(gt.dtype).max
    assigned.scatter_reduce_(0, index, gt, "amin")
