"""IoU-classification-aware assignment (IAC): an anchor that classifies an object well may answer for it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cledet.ops.assigners.max_iou import Matches, assign_from, match
from cledet.ops.boxes import area, centers, contains, intersection, upcast


class IACOptions(NamedTuple):
    """What makes an anchor positive that IoU alone does not, Eq. 6 and 7; as it stands, the paper's letter.

    The last three narrow it; they are ours.
    """

    alpha: float = 0.75
    """Weight of the probability in Eq. 6."""
    score_threshold: float = 0.5
    """Eq. 7's threshold: the lowest score that recalls."""
    min_iou: float = 0.0
    """IoU with its ground truth that an anchor must exceed; at 0 it must overlap it at all."""
    center: bool = False
    """Whether its centre must lie in the ground truth."""
    cap: int = 0
    """The most that are recalled for a ground truth, the best by score; 0 for any number."""


def iac_score(anchors: Tensor, gt_boxes: Tensor, prob: Tensor, *, alpha: float = 0.75) -> Tensor:
    """Score s [...] of anchors [..., 4] for gt_boxes [..., 4], row by row, Eq. 6.

        s = alpha * prob + (1 - alpha) * intersection / min(area_anchor, area_gt)

    prob [...] is the anchor's predicted probability of that ground truth's class.
    """
    smaller = torch.minimum(area(anchors), area(gt_boxes))
    overlap = intersection(anchors, gt_boxes) / smaller.clamp(min=torch.finfo(smaller.dtype).tiny)
    return alpha * upcast(prob) + (1 - alpha) * overlap


def assign_iac(
    anchors: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    prob: Tensor,
    *,
    fg_threshold: float = 0.5,
    bg_threshold: float = 0.4,
    alpha: float = 0.75,
    score_threshold: float = 0.5,
    recall_min_iou: float = 0.0,
    recall_center: bool = False,
    recall_cap: int = 0,
) -> Tensor:
    """Assignment [..., A] int64 by IoU and score, Eq. 5-7: ground truth index, -1 background, -2 ignored.

    anchors [A, 4], gt_boxes [..., G, 4] padded with zero boxes, gt_labels [..., G] int64, prob [..., A, C]
    predicted probabilities of all classes. With no probability over 1/3 (at the default alpha) this is
    `ops.assign_max_iou`. What the options mean: `IACOptions`.
    """
    rule = IACOptions(alpha, score_threshold, recall_min_iou, recall_center, recall_cap)
    matches = match(anchors, gt_boxes)
    plain = assign_from(matches, fg_threshold=fg_threshold, bg_threshold=bg_threshold)
    prob = at_matched_class(prob.detach(), gt_labels, matches)
    return torch.where(recalled(plain, matches, anchors, gt_boxes, prob, rule), matches.gt, plain)


def at_matched_class(values: Tensor, gt_labels: Tensor, matches: Matches) -> Tensor:
    """Of values [..., A, C], logits or probabilities, those [..., A] of each anchor's ground truth's class.

    gt_labels [..., G] int64, padded with anything. Without ground truths: 0.
    """
    if not gt_labels.shape[-1]:
        return torch.zeros_like(matches.iou)
    label = gt_labels.gather(-1, matches.gt).clamp(min=0)
    return values.gather(-1, label[..., None]).squeeze(-1)


def recalled(
    assignment: Tensor, matches: Matches, anchors: Tensor, gt_boxes: Tensor, prob: Tensor, rule: IACOptions
) -> Tensor:
    """Which anchors [..., A] bool, not positive in assignment [..., A], the rule makes positive, Eq. 7.

    anchors [A, 4], gt_boxes [..., G, 4] padded with zero boxes, prob [..., A] of the class of the ground truth
    that each anchor matches.
    """
    if not gt_boxes.shape[-2]:
        return torch.zeros_like(assignment, dtype=torch.bool)
    matched = gt_boxes.gather(-2, matches.gt[..., None].expand(*matches.gt.shape, 4))
    score = iac_score(anchors, matched, prob, alpha=rule.alpha)
    chosen = (score >= rule.score_threshold) & (matches.iou > rule.min_iou) & (assignment < 0)
    if rule.center:
        chosen &= contains(matched, centers(anchors))
    return _best_of_each(chosen, score, matches.gt, rule.cap) if rule.cap else chosen


def _best_of_each(chosen: Tensor, score: Tensor, gt: Tensor, count: int) -> Tensor:
    """Of the anchors chosen [..., A] bool the `count` of highest score of each ground truth, ties by index."""
    places = chosen.nonzero()
    image, which, value = places[:, :-1], gt[chosen], score[chosen]
    group = torch.cat([image, which[:, None]], 1).unique(dim=0, return_inverse=True)[1]
    order = value.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    sizes = group.bincount()
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    best = torch.zeros_like(chosen)
    best[places[order[rank < count]].unbind(-1)] = True
    return best
