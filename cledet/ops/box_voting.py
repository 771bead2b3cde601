"""Where the boxes about an object agree that it is: means of boxes weighted by score."""

from __future__ import annotations

import torch
from torch import Tensor

from cledet.ops.boxes import elementwise_iou, upcast
from cledet.ops.soft_nms import by_class

PAIRS = {False: 1 << 17, True: 1 << 22}
"""Pairs of boxes, off or on CUDA, that are compared at a time."""


def cluster_means(boxes: Tensor, scores: Tensor, cluster_index: Tensor) -> Tensor:
    """For each box [N, 4] the mean of those that it owns, weighted by score; of any dtype, as the boxes.

    scores [N]; cluster_index [N] int64 the box that each belongs to. A box that owns none, or only itself, stays.
    """
    box, weight = upcast(boxes), _weight(scores)
    total = torch.zeros_like(weight).index_add_(0, cluster_index, weight)
    shift = torch.zeros_like(box).index_add_(0, cluster_index, weight[:, None] * (box - box[cluster_index]))
    return (box + shift / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]).to(boxes.dtype)


def neighbour_means(boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, bound: float) -> Tensor:
    """For each box kept the mean of the boxes of its class whose IoU with it is over the bound, weighted by score.

    boxes [N, 4], scores [N], labels [N], keep [K] int64 -> [K, 4] of the boxes' dtype. The box itself counts;
    one without area, or with no such neighbour, stays.
    """
    box, weight = upcast(boxes), _weight(scores)
    kept = torch.zeros_like(labels, dtype=torch.bool).index_fill_(0, keep, True)
    means = box.clone()
    for group in by_class(labels):
        row, column = (kept[group] & (group >= 0)).nonzero(as_tuple=True)
        most = max(1, PAIRS[boxes.is_cuda] // group.shape[1])
        for rows, mine in zip(row.split(most), group[row, column].split(most)):
            means[mine] = _voted(box, weight, mine, group[rows], bound)
    return means[keep].to(boxes.dtype)


def _voted(box: Tensor, weight: Tensor, mine: Tensor, others: Tensor, bound: float) -> Tensor:
    """Where to the boxes of indices mine [M] are moved by those of indices others [M, L], -1 for none: [M, 4]."""
    own = box[mine]
    near = (elementwise_iou(own[:, None], box[others]) > bound) & (others >= 0)
    row, column = near.nonzero(as_tuple=True)
    other = others[row, column]
    vote = weight[other]
    total = torch.zeros_like(own[:, 0]).index_add_(0, row, vote)
    shift = torch.zeros_like(own).index_add_(0, row, vote[:, None] * (box[other] - own[row]))
    return own + shift / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]


def _weight(scores: Tensor) -> Tensor:
    """The scores [N] as weights: positive, that a cluster of scores 0 has a mean."""
    return upcast(scores).clamp(min=1e-12)
