"""Class-by-class suppression of duplicate detections, by the name of the method."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cledet.components.cl_nms import cl_balanced_nms
from cledet.ops.box_voting import cluster_means, neighbour_means
from cledet.ops.boxes import centers, elementwise_iou
from cledet.ops.nms_clusters import clusters
from cledet.ops.soft_nms import soften

DECAY_IOU = 0.3
"""soft-vote: a better box decays the scores of those whose IoU with it is over this."""
VOTERS_IOU = 0.8
"""soft-vote: the boxes whose IoU with a box is over this say where its object is."""


class Kept(NamedTuple):
    """What suppression leaves, best first, ties by the lower index.

    keep [K] int64 indices of the boxes kept; their scores [K]; boxes [K, 4], which are boxes[keep] unless the
    method moves boxes (`MOVING`).
    """

    keep: Tensor
    scores: Tensor
    boxes: Tensor


class Options(NamedTuple):
    """What the methods may be told besides the IoU threshold."""

    sigma: float
    """soft: width of the gaussian that decays the scores of overlapping boxes."""
    min_score: float
    """soft, soft-linear, soft-vote: a box whose score decays below this goes."""
    localization: str
    """cl-balanced: "proximity" or "as-printed", see `cl_balanced_nms`."""
    cl_norm: str
    """cl-balanced: "max" or "diagonal"."""
    cl_score: str
    """cl-balanced: "own" or "max"."""


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
    """Suppress duplicates among the boxes of each class by the method of that name in NMS.

    boxes [N, 4], scores [N], labels [N] int64; the other options are those of `Options`. "soft" and "soft-vote"
    have no use for iou_threshold. Raises ValueError for an unknown method.
    """
    if method not in NMS:
        raise ValueError(f"method must be one of {', '.join(NMS)}, not {method!r}")
    options = Options(sigma=sigma, min_score=min_score, localization=localization, cl_norm=cl_norm, cl_score=cl_score)
    return NMS[method](boxes, scores, labels, iou_threshold, options)


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    *,
    method: str = "standard",
    sigma: float = 0.5,
    min_score: float = 0.001,
    localization: str = "proximity",
    cl_norm: str = "max",
    cl_score: str = "own",
) -> tuple[Tensor, Tensor]:
    """`suppress`, for a method that leaves the boxes where they are: indices keep [K] int64 and scores [K].

    Raises ValueError for an unknown method, or one that moves boxes.
    """
    if method in MOVING:
        raise ValueError(f"{method} moves boxes, so indices do not say all: call cledet.ops.suppress instead")
    keep, scores, _ = suppress(
        boxes,
        scores,
        labels,
        iou_threshold,
        method=method,
        sigma=sigma,
        min_score=min_score,
        localization=localization,
        cl_norm=cl_norm,
        cl_score=cl_score,
    )
    return keep, scores


def _standard(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, options: Options) -> Kept:
    """Keep the boxes that `torchvision.ops.nms` keeps in each class, without shifting any coordinate."""
    return _by_score(clusters(boxes, scores, labels, iou_threshold)[0], scores, boxes)


def _weighted(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, options: Options) -> Kept:
    """Standard NMS; each kept box moves to sum(score * box) / sum(score) over its cluster, and keeps its score.

    The cluster: the box and those that it took away, see `clusters`.
    """
    keepers, owner = clusters(boxes, scores, labels, iou_threshold)
    return _by_score(keepers, scores, cluster_means(boxes, scores, owner))


def _soft(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, options: Options) -> Kept:
    """Soft-NMS, gaussian: each better box leaves exp(-iou^2 / sigma) of a score. See `soften`."""
    final = soften(boxes, scores, labels, partial(_gaussian, sigma=options.sigma), options.min_score)
    return _by_score((final >= 0).nonzero().squeeze(-1), final, boxes)


def _soft_linear(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, options: Options) -> Kept:
    """Soft-NMS, linear: each better box whose IoU is over the threshold leaves 1 - iou of a score. See `soften`."""
    final = soften(boxes, scores, labels, partial(_linear, threshold=iou_threshold), options.min_score)
    return _by_score((final >= 0).nonzero().squeeze(-1), final, boxes)


def _soft_vote(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, options: Options) -> Kept:
    """Soft-NMS, linear from an IoU of DECAY_IOU, and each box left moves to where those about it put its object.

        box_i = sum_j(score_j * box_j) / sum_j(score_j)    # over all j of its class with IoU(i, j) > VOTERS_IOU

    The scores in the sum are those before any decay, and boxes that went count too. Ours: the idea of CL-B's
    Eq. 8, that a cluster knows where its object is, joined with a suppression that loses no object in a crowd.
    Boxes vote in Gidaris and Komodakis (arXiv 1505.01749, section 5), of IoU over 0.5 and after standard NMS;
    nearer ones are the object's own rather than a neighbour's.
    """
    keep, final, _ = _soft_linear(boxes, scores, labels, DECAY_IOU, options)
    return Kept(keep, final, neighbour_means(boxes, scores, labels, keep, VOTERS_IOU))


def _diou(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, options: Options) -> Kept:
    """Greedy NMS by DIoU: boxes whose centres lie apart overlap less. Zheng et al., arXiv 1911.08287, Eq. 8.

    As Soft-NMS whose factors are 0 and 1, on places in the order of scores instead of scores.
    """
    place = torch.empty_like(labels)
    place[scores.argsort(stable=True, descending=True)] = torch.arange(len(labels), 0, -1, device=labels.device)
    left = soften(boxes, place.float(), labels, partial(_spared, threshold=iou_threshold), 1)
    return _by_score((left >= 0).nonzero().squeeze(-1), scores, boxes)


def _gaussian(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    return torch.exp(-elementwise_iou(a, b).square() / sigma)


def _linear(a: Tensor, b: Tensor, threshold: float) -> Tensor:
    iou = elementwise_iou(a, b)
    return torch.where(iou > threshold, 1 - iou, 1)


def _spared(a: Tensor, b: Tensor, threshold: float) -> Tensor:
    return (_elementwise_diou(a, b) <= threshold).float()


def _elementwise_diou(a: Tensor, b: Tensor) -> Tensor:
    """IoU [...] less the squared distance of the centres over the squared diagonal of the enclosing box."""
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    diagonal = (high - low).square().sum(-1)
    distance = (centers(a) - centers(b)).square().sum(-1)
    return elementwise_iou(a, b) - distance / diagonal.clamp(min=torch.finfo(diagonal.dtype).tiny)


def _cl_balanced(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, options: Options) -> Kept:
    """The paper's CL-B, see `cl_balanced_nms`."""
    keep, scores = cl_balanced_nms(
        boxes,
        scores,
        labels,
        iou_threshold,
        localization=options.localization,
        cl_norm=options.cl_norm,
        cl_score=options.cl_score,
    )
    return Kept(keep, scores, boxes.index_select(0, keep))


def _by_score(keep: Tensor, scores: Tensor, boxes: Tensor) -> Kept:
    """The kept boxes, ascending indices [K] of scores [N], by score; equal scores stay by index."""
    order = scores[keep].argsort(descending=True, stable=True)
    keep = keep[order]
    return Kept(keep, scores[keep], boxes[keep])


NMS = {
    "standard": _standard,
    "soft": _soft,
    "soft-linear": _soft_linear,
    "soft-vote": _soft_vote,
    "diou": _diou,
    "weighted": _weighted,
    "cl-balanced": _cl_balanced,
}
MOVING = ("weighted", "soft-vote")
