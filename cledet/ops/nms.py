"""Class-by-class suppression of duplicate detections, by the name of the method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cledet.components.clb import by_class, cl_balanced_nms, clusters
from cledet.ops.boxes import box_iou, upcast


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the methods may be told besides the IoU threshold."""

    sigma: float
    """soft: width of the gaussian that decays the scores of overlapping boxes."""
    min_score: float
    """soft: a box whose score decays below this goes."""
    localization: str
    """cl-balanced: "proximity" or "literal", see `cl_balanced_nms`."""
    cl_norm: str
    """cl-balanced: "max" or "diagonal"."""
    cl_score: str
    """cl-balanced: "own" or "max"."""


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
    """Suppress duplicates among the boxes of each class by the method of that name in NMS.

    boxes [N, 4], scores [N], labels [N] int64; the other options are those of `Options`. "soft" has no use
    for iou_threshold. Returns indices keep [K] int64 and scores [K], highest first, ties by the lower index.
    Raises ValueError for an unknown method.
    """
    if method not in NMS:
        raise ValueError(f"method must be one of {', '.join(NMS)}, not {method!r}")
    options = Options(sigma=sigma, min_score=min_score, localization=localization, cl_norm=cl_norm, cl_score=cl_score)
    return NMS[method](boxes, scores, labels, iou_threshold, options)


def _standard(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, options: Options
) -> tuple[Tensor, Tensor]:
    """Keep the boxes that `torchvision.ops.nms` keeps in each class, without shifting any coordinate."""
    return _by_score(clusters(boxes, scores, labels, iou_threshold)[0], scores)


def _soft(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, options: Options
) -> tuple[Tensor, Tensor]:
    """Soft-NMS, gaussian: decay the scores of the boxes that overlap a better one instead of dropping them.

    Each round takes the best box left of every class. Source: Bodla et al., arXiv 1704.04503, section 3.
    """
    final = torch.zeros_like(scores)
    for group in _groups(scores, labels):
        real = group >= 0
        decayed = _decay(upcast(boxes)[group], upcast(scores)[group].where(real, -1), options)
        final[group[real]] = decayed[real].to(final.dtype)
    return _by_score((final >= options.min_score).nonzero().squeeze(-1), final)


def _groups(scores: Tensor, labels: Tensor) -> list[Tensor]:
    """Box indices by class as matrices [C, L] padded with -1: a row is a class, highest score first.

    Classes of like size share a matrix, so that the matrices hold at most about twice the boxes.
    """
    order = by_class(scores, labels)
    sizes = labels[order].unique_consecutive(return_counts=True)[1]
    start = sizes.cumsum(0) - sizes
    level = sizes.clamp(min=32).sub(1).log2().floor()
    groups = []
    for wanted in level.unique():
        size, first = sizes[level == wanted, None], start[level == wanted, None]
        column = torch.arange(int(size.max()), device=order.device)
        index = order[(first + column).clamp(max=len(order) - 1)]
        groups.append(torch.where(column < size, index, -1))
    return groups


def _decay(boxes: Tensor, scores: Tensor, options: Options) -> Tensor:
    """Final scores [C, L] of boxes [C, L, 4] and scores [C, L], each row a class; 0 under the floor."""
    final = torch.zeros_like(scores)
    row = torch.arange(len(scores), device=scores.device)
    for _ in range(scores.shape[1]):
        score, best = scores.max(1)
        if not (score >= options.min_score).any():
            break
        final[row, best] = torch.where(score >= options.min_score, score, final[row, best])
        iou = box_iou(boxes[row, best][:, None], boxes)[:, 0]
        scores = scores * torch.exp(-iou.square() / options.sigma)
        scores[row, best] = -1
    return final


def _cl_balanced(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, options: Options
) -> tuple[Tensor, Tensor]:
    """The paper's CL-B, see `cl_balanced_nms`."""
    return cl_balanced_nms(
        boxes,
        scores,
        labels,
        iou_threshold,
        localization=options.localization,
        cl_norm=options.cl_norm,
        cl_score=options.cl_score,
    )


def _by_score(keep: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The kept boxes, ascending indices [K] of scores [N], by score; equal scores stay by index."""
    order = scores[keep].argsort(descending=True, stable=True)
    return keep[order], scores[keep[order]]


NMS = {"standard": _standard, "soft": _soft, "cl-balanced": _cl_balanced}
