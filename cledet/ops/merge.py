"""Where the boxes about an object agree that it is: means of boxes weighted by score."""

from __future__ import annotations

import torch
from torch import Tensor

from cledet.ops.boxes import elementwise_iou, upcast

PAIRS = {False: 1 << 17, True: 1 << 22}
"""Pairs of boxes, off or on CUDA, that are compared at a time."""


def cluster_means(boxes: Tensor, scores: Tensor, owner: Tensor) -> Tensor:
    """For each box [N, 4] the mean of those that it owns, weighted by score; of any dtype, as the boxes.

    scores [N]; owner [N] int64 the box that each belongs to. A box that owns none, or only itself, stays.
    """
    box, weight = upcast(boxes), _weight(scores)
    total = torch.zeros_like(weight).index_add_(0, owner, weight)
    shift = torch.zeros_like(box).index_add_(0, owner, weight[:, None] * (box - box[owner]))
    return (box + shift / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]).to(boxes.dtype)


def neighbour_means(boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, bound: float) -> Tensor:
    """For each box kept the mean of the boxes of its class whose IoU with it is over the bound, weighted by score.

    boxes [N, 4], scores [N], labels [N], keep [K] int64 -> [K, 4] of the boxes' dtype. The box itself counts;
    one without area, or with no such neighbour, stays.
    """
    box, weight = upcast(boxes), _weight(scores)
    means = [box[:0]]
    for rows in keep.split(max(1, PAIRS[boxes.is_cuda] // max(1, len(boxes)))):
        own = box[rows]
        near = (elementwise_iou(own[:, None], box) > bound) & (labels[rows, None] == labels)
        vote = torch.where(near, weight, 0)
        row, other = vote.nonzero(as_tuple=True)
        shift = torch.zeros_like(own).index_add_(0, row, vote[row, other, None] * (box[other] - own[row]))
        means.append(own + shift / vote.sum(1).clamp(min=torch.finfo(vote.dtype).tiny)[:, None])
    return torch.cat(means).to(boxes.dtype)


def _weight(scores: Tensor) -> Tensor:
    """The scores [N] as weights: positive, that a cluster of scores 0 has a mean."""
    return upcast(scores).clamp(min=1e-12)
