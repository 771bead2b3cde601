"""Box voting: replace a box by the mean of the boxes about it, weighted by score (Gidaris and Komodakis 2015)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cledet.ops.box_pairs import Pairs, side_by_side
from cledet.ops.boxes import elementwise_iou, upcast

LISTED = 1 << 22
"""Most pairs whose overlapping ones are kept for a second pass; more are computed again, in less memory."""


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
    for a, b, _ in _near(box, pairs, iou_threshold):
        apart = box[b] - box[a]
        total.index_add_(0, a, weight[b]).index_add_(0, b, weight[a])
        shift.index_add_(0, a, weight[b, None] * apart).index_add_(0, b, weight[a, None] * -apart)
    return (box[keep] + shift[keep] / total[keep, None]).to(boxes.dtype)


def agreed_means(
    boxes: Tensor, scores: Tensor, pairs: Pairs, keep: Tensor, iou_threshold: float, width: float
) -> tuple[Tensor, Tensor]:
    """Compute for each kept box the mean of its neighbours, near ones first, and how well they agree with it.

        w_ij        = score_j exp(-(1 - IoU_ij)^2 / width)    # all j of its class with IoU_ij > iou_threshold, and i
        box_i       = sum_j(w_ij box_j) / sum_j(w_ij)
        agreement_i = sum_j(score_j IoU(box_i, box_j)) / sum_j(score_j)

    boxes [N, 4], scores [N], their `overlapping_pairs`, keep [K] int64. Returns boxes [K, 4] in the dtype of the boxes,
    and agreements [K] from 0 to 1. A box without neighbours stays, with an agreement of 1.
    """
    box, weight = upcast(boxes), _weight(scores)
    total, shift = weight.clone(), torch.zeros_like(box)
    listed = list(_near(box, pairs, iou_threshold)) if pairs.total <= LISTED else None
    for a, b, iou in listed or _near(box, pairs, iou_threshold):
        closeness = torch.exp(-(1 - iou).square() / width)
        to_a, to_b, apart = weight[b] * closeness, weight[a] * closeness, box[b] - box[a]
        total.index_add_(0, a, to_a).index_add_(0, b, to_b)
        shift.index_add_(0, a, to_a[:, None] * apart).index_add_(0, b, to_b[:, None] * -apart)
    mean = box + shift / total[:, None]
    own = torch.where((mean == box).all(1), 1.0, elementwise_iou(mean, box))
    votes, agreed = weight.clone(), weight * own
    for a, b, _ in listed or _near(box, pairs, iou_threshold):
        votes.index_add_(0, a, weight[b]).index_add_(0, b, weight[a])
        agreed.index_add_(0, a, weight[b] * elementwise_iou(side_by_side(mean, a), side_by_side(box, b)))
        agreed.index_add_(0, b, weight[a] * elementwise_iou(side_by_side(mean, b), side_by_side(box, a)))
    return mean[keep].to(boxes.dtype), agreed[keep] / votes[keep]


def _near(box: Tensor, pairs: Pairs, iou_threshold: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the indices of the two boxes, and the IoU, of the pairs over a threshold, in chunks."""
    for pair in pairs.chunks():
        iou = elementwise_iou(*(side_by_side(box, index) for index in pair))
        near = (iou > iou_threshold).nonzero()[:, 0]
        a, b = (index.index_select(0, near) for index in pair)
        yield a, b, iou.index_select(0, near)


def _weight(scores: Tensor) -> Tensor:
    """Clamp the scores [N] to positive weights, so that a cluster of scores 0 has a mean."""
    return upcast(scores).clamp(min=1e-12)
