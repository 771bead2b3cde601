"""IoU-classification-aware assignment (IAC): an anchor that classifies an object well may answer for it."""

from __future__ import annotations

import torch
from torch import Tensor

from cledet.ops.assign import Matches, assign_from, match
from cledet.ops.boxes import area, intersection, upcast


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
) -> Tensor:
    """Assignment [..., A] int64 by IoU and score, Eq. 5-7: ground truth index, -1 background, -2 ignored.

    anchors [A, 4], gt_boxes [..., G, 4] padded with zero boxes, gt_labels [..., G] int64, prob [..., A, C]
    predicted probabilities of all classes. With no probability over 1/3 (at the default alpha) this is
    `ops.assign_max_iou`.
    """
    matches = match(anchors, gt_boxes)
    plain = assign_from(matches, fg_threshold=fg_threshold, bg_threshold=bg_threshold)
    score = match_score(matches, anchors, gt_boxes, at_matched_class(prob.detach(), gt_labels, matches), alpha=alpha)
    return recall(plain, matches, score, score_threshold=score_threshold, recall_min_iou=recall_min_iou)


def at_matched_class(values: Tensor, gt_labels: Tensor, matches: Matches) -> Tensor:
    """Of values [..., A, C], logits or probabilities, those [..., A] of each anchor's ground truth's class.

    gt_labels [..., G] int64, padded with anything. Without ground truths: 0.
    """
    if not gt_labels.shape[-1]:
        return torch.zeros_like(matches.iou)
    label = gt_labels.gather(-1, matches.gt).clamp(min=0)
    return values.gather(-1, label[..., None]).squeeze(-1)


def match_score(matches: Matches, anchors: Tensor, gt_boxes: Tensor, prob: Tensor, *, alpha: float = 0.75) -> Tensor:
    """Score s [..., A], Eq. 6, of each anchor [A, 4] for the ground truth that it matches.

    gt_boxes [..., G, 4] padded with zero boxes; prob [..., A] the anchor's probability of its match's class.
    Without ground truths: 0.
    """
    if not gt_boxes.shape[-2]:
        return torch.zeros_like(matches.iou)
    matched = gt_boxes.gather(-2, matches.gt[..., None].expand(*matches.gt.shape, 4))
    return iac_score(anchors, matched, prob, alpha=alpha)


def recall(
    assignment: Tensor,
    matches: Matches,
    score: Tensor,
    *,
    score_threshold: float = 0.5,
    recall_min_iou: float = 0.0,
) -> Tensor:
    """Make positive, Eq. 7, the anchors of assignment [..., A] whose score [..., A] reaches score_threshold.

    Only those whose IoU is over recall_min_iou: at 0, those that overlap their ground truth at all.
    """
    recalled = (score >= score_threshold) & (matches.iou > recall_min_iou)
    return torch.where(recalled, matches.gt, assignment)
