"""Adaptive training sample selection (ATSS): each ground truth sets the IoU that its anchors must have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cledet.ops.assigners.max_iou import BACKGROUND
from cledet.ops.boxes import centers, elementwise_iou, upcast

MARGIN = 0.01
"""Pixels by which an anchor's centre must lie inside its ground truth, as published; no box without area holds one."""


def assign_atss(anchors: Tensor, gt_boxes: Tensor, levels: Sequence[int], *, count: int = 9, chunk: int = 16) -> Tensor:
    """Assignment [N, A] int64: the ground truth's index, or -1 background; nothing is ignored.

    anchors [A, 4], `levels` of them on each pyramid level; gt_boxes [N, G, 4] padded with zero boxes. The candidates
    of a ground truth are on each level the `count` anchors (or all) with centres nearest to its own, ties by index;
    positive are those whose IoU reaches the candidates' mean plus standard deviation, and whose centre is in the ground
    truth. An anchor that several claim is given to the one of highest IoU, the first of equals. Memory is N * A * chunk
    floats. Source: Zhang et al., "Bridging the Gap" (arXiv 1912.02424), algorithm 1.
    """
    best = torch.zeros(len(gt_boxes), len(anchors), device=anchors.device, dtype=upcast(anchors).dtype)
    assigned = torch.full_like(best, BACKGROUND, dtype=torch.int64)
    for start in range(0, gt_boxes.shape[1], chunk):
        boxes = gt_boxes[:, start : start + chunk]
        anchor = candidates(anchors, boxes, levels, count)
        iou = elementwise_iou(anchors[anchor], boxes[:, :, None])
        image, gt, place = chosen(anchors[anchor], boxes, iou).nonzero(as_tuple=True)
        at = image * len(anchors) + anchor[image, gt, place]
        give(best.view(-1), assigned.view(-1), at, iou[image, gt, place], gt + start)
    return assigned


def candidates(anchors: Tensor, boxes: Tensor, levels: Sequence[int], count: int) -> Tensor:
    """The indices [N, G, K] of the `count` anchors of each level that are nearest to the centre of each box."""
    points, found, first = centers(anchors), [], 0
    for level in levels:
        apart = points[first : first + level] - centers(boxes)[:, :, None]
        found.append(first + lowest(apart.square().sum(-1), min(count, level)))
        first += level
    return torch.cat(found, -1)


def chosen(candidates: Tensor, boxes: Tensor, iou: Tensor) -> Tensor:
    """Which candidates [N, G, K, 4] are positive for boxes [N, G, 4], given their IoU [N, G, K]: bool [N, G, K]."""
    spread = iou.std(-1, keepdim=True) if iou.shape[-1] > 1 else 0
    points, boxes = centers(candidates), boxes[:, :, None]
    room = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1).amin(-1)
    return (iou >= iou.mean(-1, keepdim=True) + spread) & (room > MARGIN)


def lowest(distance: Tensor, count: int) -> Tensor:
    """The indices [..., count] of the smallest of distances [..., A], rising; of equals the first."""
    last = distance.topk(count, largest=False, sorted=True).values[..., -1:]
    nearer, equal = distance < last, distance == last
    taken = nearer | (equal & (equal.cumsum(-1) <= count - nearer.sum(-1, keepdim=True)))
    return taken.nonzero()[:, -1].view(*distance.shape[:-1], count)


def give(best: Tensor, assigned: Tensor, at: Tensor, iou: Tensor, gt: Tensor) -> None:
    """Give the anchors `at` to the ground truths of highest IoU: changes best [M] and assigned [M] in place."""
    before = best.clone()
    best.scatter_reduce_(0, at, iou, "amax")
    wins = (iou == best[at]) & (iou > before[at])
    at, gt = at[wins], gt[wins]
    assigned[at] = torch.iinfo(gt.dtype).max
    assigned.scatter_reduce_(0, at, gt, "amin")
