"""Box voting: replace a box by the mean of the boxes about it, weighted by score (Gidaris and Komodakis 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from cledet.ops.box_pairs import Pairs, side_by_side
from cledet.ops.boxes import elementwise_iou, upcast


def cluster_means(boxes: Tensor, scores: Tensor, cluster_index: Tensor) -> Tensor:
    """Compute the mean box of each cluster, weighted by score, at the index of its kept box.

    boxes [N, 4] of any dtype, scores [N], cluster_index [N] int64. Returns [N, 4] in the dtype of the boxes; boxes that
    are no cluster's kept box stay.
    """
    box, weight = upcast(boxes), _weight(scores)
    total = torch.zeros_like(weight).index_add_(0, cluster_index, weight)
    shift = torch.zeros_like(box).index_add_(0, cluster_index, weight[:, None] * (box - box[cluster_index]))
    return (box + shift / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]).to(boxes.dtype)


def neighbour_means(boxes: Tensor, scores: Tensor, pairs: Pairs, keep: Tensor, iou_threshold: float) -> Tensor:
    """Compute for each kept box the mean, weighted by score, of its class's boxes with an IoU over the threshold.

    boxes [N, 4], scores [N], their `overlapping_pairs`, keep [K] int64. Returns [K, 4] in the dtype of the boxes. The
    mean includes the box itself; a box without area or neighbours stays. Source: Gidaris and Komodakis, arXiv
    1505.01749, section 5.
    """
    box, weight = upcast(boxes), _weight(scores)
    total, shift = weight.clone(), torch.zeros_like(box)
    for pair in pairs.chunks():
        near = (elementwise_iou(*(side_by_side(box, index) for index in pair)) > iou_threshold).nonzero()[:, 0]
        a, b = (index.index_select(0, near) for index in pair)
        apart = box[b] - box[a]
        total.index_add_(0, a, weight[b]).index_add_(0, b, weight[a])
        shift.index_add_(0, a, weight[b, None] * apart).index_add_(0, b, weight[a, None] * -apart)
    return (box[keep] + shift[keep] / total[keep, None]).to(boxes.dtype)


def _weight(scores: Tensor) -> Tensor:
    """Clamp the scores [N] to positive weights, so that a cluster of scores 0 has a mean."""
    return upcast(scores).clamp(min=1e-12)
