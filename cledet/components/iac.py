"""IoU-classification-aware assignment (IAC): anchors that classify an object well become positive at a lower IoU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cledet.ops.assigners.max_iou import Matches, assign_from, match
from cledet.ops.boxes import area, centers, contains, elementwise_iou, intersection, upcast


class IACOptions(NamedTuple):
    """Settings of Eq. 6 and 7, with the defaults of the paper.

    Those after the first two are not in the paper: they restrict which anchors may be recalled, and what these learn.
    """

    alpha: float = 0.75
    """Weight of the probability in Eq. 6."""
    score_threshold: float = 0.5
    """Lowest score that recalls an anchor, Eq. 7."""
    min_iou: float = 0.0
    """IoU with its ground truth that a recalled anchor exceeds; 0 requires an overlap."""
    center: bool = False
    """Require the anchor's centre to lie in the ground truth."""
    cap: int = 0
    """Most recalled anchors per ground truth, the best by score; 0 for no limit."""
    fill: int = 0
    """Number of positives up to which a ground truth recalls anchors, the best by score; 0 for no limit."""
    relative: float = 0.0
    """Share of min(highest IoU of any anchor with the ground truth, 0.5) that the IoU of a recalled anchor reaches."""
    decoded: bool = False
    """Take Eq. 6's overlap from the predicted box, and require that its IoU with the ground truth is at least 0.5."""
    box_loss: bool = True
    """Recalled anchors have a box loss."""
    soft_target: bool = False
    """The target score of recalled anchors is the IoU of their predicted box instead of 1."""
    fade: bool = False
    """Weight the losses of recalled anchors by (score - threshold) / (1 - threshold), so that they fade in."""


def iac_score(anchors: Tensor, gt_boxes: Tensor, prob: Tensor, *, alpha: float = 0.75) -> Tensor:
    """Compute the score s [...] of anchors [..., 4] for gt_boxes [..., 4], row by row, Eq. 6.

        s = alpha * prob + (1 - alpha) * intersection / min(area_anchor, area_gt)

    prob [...] is the anchor's predicted probability of the ground truth's class.
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
    """Assign anchors to ground truths by IoU and score, Eq. 5-7.

    anchors [A, 4], gt_boxes [..., G, 4] padded with zero boxes, gt_labels [..., G] int64, prob [..., A, C] predicted
    probabilities of all classes; the options are those of `IACOptions`. Returns [..., A] int64: ground truth index, -1
    background, -2 ignored. If no probability exceeds 1/3 (at the default alpha), this equals `ops.assign_max_iou`.
    """
    options = IACOptions(alpha, score_threshold, recall_min_iou, recall_center, recall_cap)
    matches = match(anchors, gt_boxes)
    by_iou = assign_from(matches, fg_threshold=fg_threshold, bg_threshold=bg_threshold)
    prob = at_matched_class(prob.detach(), gt_labels, matches)
    return torch.where(recalled(by_iou, matches, anchors, gt_boxes, prob, options)[0], matches.gt, by_iou)


def at_matched_class(values: Tensor, gt_labels: Tensor, matches: Matches) -> Tensor:
    """Select from values [..., A, C], logits or probabilities, the class of each anchor's matched ground truth.

    gt_labels [..., G] int64 with any padding. Returns [..., A], or zeros without ground truths.
    """
    if not gt_labels.shape[-1]:
        return torch.zeros_like(matches.iou)
    label = gt_labels.gather(-1, matches.gt).clamp(min=0)
    return values.gather(-1, label[..., None]).squeeze(-1)


def recalled(
    assignment: Tensor,
    matches: Matches,
    anchors: Tensor,
    gt_boxes: Tensor,
    prob: Tensor,
    options: IACOptions,
    boxes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Select the anchors [..., A] bool that become positive by score, Eq. 7, among those not positive already.

    assignment [..., A] by IoU, anchors [A, 4], gt_boxes [..., G, 4] padded with zero boxes, prob [..., A] of the class
    of each anchor's matched ground truth, boxes [..., A, 4] predicted, needed for `options.decoded`. Returns also the
    scores [..., A] of Eq. 6.
    """
    if not gt_boxes.shape[-2]:
        return torch.zeros_like(assignment, dtype=torch.bool), torch.zeros_like(matches.iou)
    matched = gt_boxes.gather(-2, matches.gt[..., None].expand(*matches.gt.shape, 4))
    overlapping = anchors if boxes is None or not options.decoded else boxes
    score = iac_score(overlapping, matched, prob, alpha=options.alpha)
    chosen = (score >= options.score_threshold) & (matches.iou > options.min_iou) & (assignment < 0)
    if options.center:
        chosen &= contains(matched, centers(anchors))
    if options.relative:
        chosen &= matches.iou >= options.relative * matches.top.gather(-1, matches.gt).clamp(max=0.5)
    if options.decoded:
        chosen &= elementwise_iou(overlapping, matched) >= 0.5
    if options.cap:
        chosen = _best_per_gt(chosen, score, matches.gt, torch.full_like(matches.gt, options.cap))
    if options.fill:
        positive = (assignment >= 0).long()
        have = positive.new_zeros(gt_boxes.shape[:-1]).scatter_add(-1, matches.gt, positive)
        chosen = _best_per_gt(chosen, score, matches.gt, options.fill - have.gather(-1, matches.gt))
    return chosen, score


def _best_per_gt(chosen: Tensor, score: Tensor, gt: Tensor, count: Tensor) -> Tensor:
    """Keep of the chosen anchors [..., A] bool the `count` of highest score per ground truth, ties by index.

    score, gt, count [..., A]; anchors of the same ground truth have the same count.
    """
    index = chosen.nonzero()
    image, value = index[:, :-1], score[chosen]
    group = torch.cat([image, gt[chosen][:, None]], 1).unique(dim=0, return_inverse=True)[1]
    order = value.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    sizes = group.bincount()
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    best = torch.zeros_like(chosen)
    best[index[order[rank < count[chosen][order]]].unbind(-1)] = True
    return best
