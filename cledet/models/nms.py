"""Class-by-class non-maximum suppression (NMS), with the methods in a table at the end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cledet.components.cl_nms import cl_balanced_nms
from cledet.ops.box_pairs import Pairs, overlapping_pairs
from cledet.ops.box_voting import agreed_means, cluster_means, neighbour_means
from cledet.ops.boxes import centers, elementwise_iou, upcast
from cledet.ops.nms_clusters import find_clusters
from cledet.ops.soft_nms import soften

DECAY_IOU = 0.3
"""soft-vote, agreement: a box decays the lower scores of the boxes whose IoU with it exceeds this."""
VOTERS_IOU = 0.8
"""soft-vote: the boxes whose IoU with a kept box exceeds this vote for its position (Detectron's VOTE_TH)."""
AGREEING_IOU, CLOSENESS = 0.5, 0.05
"""agreement: the boxes whose IoU with a kept box exceeds this vote, weighted by exp(-(1 - IoU)^2 / CLOSENESS)."""


@dataclass(frozen=True, kw_only=True)
class NMSOptions:
    """Settings of NMS and of its candidates, described by `cledet.config.base.SuppressionSettings`.

    sigma and min_score belong to the soft methods and are no settings of a command.
    """

    method: str = "standard"
    iou: float = 0.5
    conf: float = 0.05
    class_confs: tuple[float, ...] = ()
    """A threshold for each class, in place of conf."""
    max_det: int = 100
    localization: str = "proximity"
    cl_norm: str = "max"
    cl_score: str = "own"
    sigma: float = 0.5
    """soft: width of the Gaussian that decays the scores of overlapping boxes."""
    min_score: float = 0.001
    """soft, soft-linear, soft-vote, agreement: boxes whose score decays below this are dropped."""


class Kept(NamedTuple):
    """Boxes that NMS keeps, best first, ties by the lower index.

    keep [K] int64 indices of the kept boxes; their scores [K]; boxes [K, 4], which are boxes[keep] unless the
    method moves boxes (`MOVING`).
    """

    keep: Tensor
    scores: Tensor
    boxes: Tensor


def apply_nms(boxes: Tensor, scores: Tensor, labels: Tensor, options: NMSOptions) -> Kept:
    """Suppress duplicates in each class and keep the best `max_det` boxes of all classes.

    boxes [N, 4], scores [N], labels [N] int64 of one image. "soft", "soft-vote" and "agreement" ignore
    options.iou, and no method reads options.conf. Raises ValueError for an unknown method.
    """
    if options.method not in NMS:
        raise ValueError(f"method must be one of {', '.join(NMS)}, not {options.method!r}")
    kept = NMS[options.method](boxes, scores, labels, options)
    return Kept(*(values[: options.max_det] for values in kept))


def suppress(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float = 0.5,
    *,
    method: str = "standard",
    sigma: float = 0.5,
    min_score: float = 0.001,
    localization: str = "proximity",
    cl_norm: str = "max",
    cl_score: str = "own",
) -> Kept:
    """Suppress duplicates among the boxes of each class by a method of `NMS`.

    boxes [N, 4], scores [N], labels [N] int64; the other options are those of `NMSOptions`. "soft", "soft-vote"
    and "agreement" ignore iou_threshold. Raises ValueError for an unknown method.
    """
    options = NMSOptions(
        method=method,
        iou=iou_threshold,
        max_det=len(boxes),
        localization=localization,
        cl_norm=cl_norm,
        cl_score=cl_score,
        sigma=sigma,
        min_score=min_score,
    )
    return apply_nms(boxes, scores, labels, options)


def batched_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, *, method: str = "standard"
) -> tuple[Tensor, Tensor]:
    """Run `suppress` with a method that moves no box: indices keep [K] int64 and scores [K].

    Raises ValueError for an unknown method, or one that moves boxes.
    """
    if method in MOVING:
        raise ValueError(f"{method} moves boxes, so indices are not enough: call cledet.ops.suppress instead")
    keep, scores, _ = suppress(boxes, scores, labels, iou_threshold, method=method)
    return keep, scores


def _standard(boxes: Tensor, scores: Tensor, labels: Tensor, options: NMSOptions) -> Kept:
    """Keep the boxes that `torchvision.ops.nms` keeps in each class, without offsetting any coordinate."""
    return _by_score(find_clusters(boxes, scores, labels, options.iou)[0], scores, boxes)


def _weighted(boxes: Tensor, scores: Tensor, labels: Tensor, options: NMSOptions) -> Kept:
    """Run standard NMS and move each kept box to sum(score * box) / sum(score) over its cluster.

    The scores stay. A cluster is a kept box and the boxes that it suppresses, see `find_clusters`.
    """
    keep, cluster_index = find_clusters(boxes, scores, labels, options.iou)
    return _by_score(keep, scores, cluster_means(boxes, scores, cluster_index))


def _soft(boxes: Tensor, scores: Tensor, labels: Tensor, options: NMSOptions) -> Kept:
    """Run Gaussian Soft-NMS: each better box multiplies a score by exp(-iou^2 / sigma). See `soften`."""
    final = soften(boxes, scores, labels, partial(_gaussian, sigma=options.sigma), options.min_score)
    return _by_score((final >= 0).nonzero().squeeze(-1), final, boxes)


def _soft_linear(boxes: Tensor, scores: Tensor, labels: Tensor, options: NMSOptions) -> Kept:
    """Run linear Soft-NMS: each better box of IoU over options.iou multiplies a score by 1 - iou. See `soften`."""
    final = soften(boxes, scores, labels, partial(_linear, threshold=options.iou), options.min_score)
    return _by_score((final >= 0).nonzero().squeeze(-1), final, boxes)


def _soft_vote(boxes: Tensor, scores: Tensor, labels: Tensor, options: NMSOptions) -> Kept:
    """Run linear Soft-NMS from an IoU of DECAY_IOU, then box voting.

        box_i = sum_j(score_j * box_j) / sum_j(score_j)    # over all j of its class with IoU(i, j) > VOTERS_IOU

    The votes are weighted by the scores before any decay, and suppressed boxes vote too. Detectron combined the two
    in 2018 (TEST.SOFT_NMS and TEST.BBOX_VOTE). Sources: Soft-NMS, Bodla et al., arXiv 1704.04503, section 3; box
    voting, Gidaris and Komodakis, arXiv 1505.01749, section 5.
    """
    pairs, keep, final = _decayed(boxes, scores, labels, options)
    keep, final, _ = _by_score(keep, final, boxes)
    return Kept(keep, final, neighbour_means(boxes, scores, pairs, keep, VOTERS_IOU))


def _agreement(boxes: Tensor, scores: Tensor, labels: Tensor, options: NMSOptions) -> Kept:
    """Run linear Soft-NMS from an IoU of DECAY_IOU, box voting, and multiply each score by the voters' agreement.

    A box about which the detector's other boxes scatter is less certain than one that they repeat. Suppressed boxes
    vote too, by their scores before any decay; nearer ones weigh more. See `agreed_means`. Close relatives: Detectron's
    TEST.BBOX_VOTE with SCORING_METHOD IOU_AVG (2018), and the confidence of weighted boxes fusion (Solovyev et al.,
    arXiv 1910.13302). The weight by closeness is that of variance voting (He et al., arXiv 1809.08545), without a
    predicted variance.
    """
    pairs, keep, final = _decayed(boxes, scores, labels, options)
    moved, agreement = agreed_means(boxes, scores, pairs, keep, AGREEING_IOU, CLOSENESS)
    final = final[keep] * agreement.to(final)
    order = final.argsort(descending=True, stable=True)
    return Kept(keep[order], final[order], moved[order])


def _decayed(boxes: Tensor, scores: Tensor, labels: Tensor, options: NMSOptions) -> tuple[Pairs, Tensor, Tensor]:
    """Run linear Soft-NMS from an IoU of DECAY_IOU; returns pairs of boxes, ascending kept indices [K], scores [N]."""
    pairs = overlapping_pairs(upcast(boxes.detach()), labels)
    final = soften(boxes, scores, labels, partial(_linear, threshold=DECAY_IOU), options.min_score, pairs)
    return pairs, (final >= 0).nonzero().squeeze(-1), final


def _diou(boxes: Tensor, scores: Tensor, labels: Tensor, options: NMSOptions) -> Kept:
    """Run greedy NMS by DIoU, which is lower for boxes with distant centres. Zheng et al., arXiv 1911.08287, Eq. 8.

    This is Soft-NMS with factors 0 and 1, applied to the ranks of the scores instead of the scores.
    """
    rank = torch.empty_like(labels, dtype=torch.int64)
    rank[scores.argsort(stable=True, descending=True)] = torch.arange(len(labels), 0, -1, device=labels.device)
    final = soften(boxes, rank.float(), labels, partial(_diou_factor, threshold=options.iou), 1)
    return _by_score((final >= 0).nonzero().squeeze(-1), scores, boxes)


def _cl_balanced(boxes: Tensor, scores: Tensor, labels: Tensor, options: NMSOptions) -> Kept:
    """Run the paper's CL-B NMS, see `cl_balanced_nms`."""
    keep, scores = cl_balanced_nms(
        boxes,
        scores,
        labels,
        options.iou,
        localization=options.localization,
        cl_norm=options.cl_norm,
        cl_score=options.cl_score,
    )
    return Kept(keep, scores, boxes.index_select(0, keep))


def _gaussian(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    return torch.exp(-elementwise_iou(a, b).square() / sigma)


def _linear(a: Tensor, b: Tensor, threshold: float) -> Tensor:
    iou = elementwise_iou(a, b)
    return torch.where(iou > threshold, 1 - iou, 1)


def _diou_factor(a: Tensor, b: Tensor, threshold: float) -> Tensor:
    """Return 0 where the DIoU exceeds the threshold, else 1.

    DIoU is IoU [...] minus the squared centre distance over the squared diagonal of the enclosing box.
    """
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    diagonal = (high - low).square().sum(-1)
    distance = (centers(a) - centers(b)).square().sum(-1)
    diou = elementwise_iou(a, b) - distance / diagonal.clamp(min=torch.finfo(diagonal.dtype).tiny)
    return (diou <= threshold).float()


def _by_score(keep: Tensor, scores: Tensor, boxes: Tensor) -> Kept:
    """Sort the kept boxes, ascending indices keep [K], by score; equal scores stay in the order of index."""
    order = scores[keep].argsort(descending=True, stable=True)
    keep = keep[order]
    return Kept(keep, scores[keep], boxes[keep])


NMS = {
    "standard": _standard,
    "soft": _soft,
    "soft-linear": _soft_linear,
    "soft-vote": _soft_vote,
    "agreement": _agreement,
    "diou": _diou,
    "weighted": _weighted,
    "cl-balanced": _cl_balanced,
}
MOVING = ("weighted", "soft-vote", "agreement")
"""Methods that return boxes other than the candidates."""
