"""Box voting: replace a box by the mean of the boxes about it, weighted by score (Gidaris and Komodakis 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from cledet.ops.boxes import elementwise_iou, upcast
from cledet.ops.soft_nms import group_by_class

PAIRS = {False: 1 << 17, True: 1 << 22}
"""Pairs of boxes, off or on CUDA, that are compared at a time."""


def cluster_means(boxes: Tensor, scores: Tensor, cluster_index: Tensor) -> Tensor:
    """Compute the mean box of each cluster, weighted by score, at the index of its kept box.

    boxes [N, 4] of any dtype, scores [N], cluster_index [N] int64. Returns [N, 4] in the dtype of the boxes; boxes that
    are no cluster's kept box stay.
    """
    box, weight = upcast(boxes), _weight(scores)
    total = torch.zeros_like(weight).index_add_(0, cluster_index, weight)
    shift = torch.zeros_like(box).index_add_(0, cluster_index, weight[:, None] * (box - box[cluster_index]))
    return (box + shift / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]).to(boxes.dtype)


def neighbour_means(boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, iou_threshold: float) -> Tensor:
    """Compute for each kept box the mean, weighted by score, of its class's boxes with an IoU over the threshold.

    boxes [N, 4], scores [N], labels [N], keep [K] int64. Returns [K, 4] in the dtype of the boxes. The mean includes
    the box itself; a box without area or neighbours stays. Source: Gidaris and Komodakis, arXiv 1505.01749, section 5.
    """
    box, weight = upcast(boxes), _weight(scores)
    kept = torch.zeros_like(labels, dtype=torch.bool).index_fill_(0, keep, True)
    means = box.clone()
    for index in group_by_class(labels):
        row, column = (kept[index] & (index >= 0)).nonzero(as_tuple=True)
        most = max(1, PAIRS[boxes.is_cuda] // index.shape[1])
        for rows, part in zip(row.split(most), index[row, column].split(most)):
            means[part] = _vote(box, weight, part, index[rows], iou_threshold)
    return means[keep].to(boxes.dtype)


def _vote(box: Tensor, weight: Tensor, keep: Tensor, voters: Tensor, iou_threshold: float) -> Tensor:
    """Compute the mean boxes [M, 4] at indices keep [M] over the indices voters [M, L], padded with -1."""
    kept = box[keep]
    near = (elementwise_iou(kept[:, None], box[voters]) > iou_threshold) & (voters >= 0)
    row, column = near.nonzero(as_tuple=True)
    voter = voters[row, column]
    vote = weight[voter]
    total = torch.zeros_like(kept[:, 0]).index_add_(0, row, vote)
    shift = torch.zeros_like(kept).index_add_(0, row, vote[:, None] * (box[voter] - kept[row]))
    return kept + shift / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]


def _weight(scores: Tensor) -> Tensor:
    """Clamp the scores [N] to positive weights, so that a cluster of scores 0 has a mean."""
    return upcast(scores).clamp(min=1e-12)
