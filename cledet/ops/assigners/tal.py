"""Task-aligned assignment (TAL): positives are the anchors that classify and localize a ground truth best."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cledet.ops.assigners.atss import MARGIN, assign_best, lowest
from cledet.ops.assigners.max_iou import BACKGROUND
from cledet.ops.boxes import centers, elementwise_iou, upcast


def assign_tal(
    anchors: Tensor,
    boxes: Tensor,
    logits: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 6.0,
    count: int = 13,
    chunk: int = 16,
) -> tuple[Tensor, Tensor]:
    """Assign anchors by classification and localization, and compute their target scores.

        t = p^alpha * IoU^beta

    anchors [A, 4], their predicted boxes [N, A, 4] and logits [N, A, C]; gt_boxes [N, G, 4] padded with zero boxes,
    gt_labels [N, G] int64 with any padding. Positive are per ground truth the `count` anchors of highest t, ties by
    index, among those with t > 0 and the centre inside it. An anchor of several ground truths is assigned to that of
    highest IoU, ties by the lowest index. The target score of a positive is t over the highest t of its ground truth's
    positives, times their highest IoU. Memory is N * A * chunk floats.

    Returns the assignment [N, A] int64, the ground truth's index or -1 background, and the target scores [N, A], which
    are 0 for the background.
    Source: Feng et al., "TOOD" (arXiv 2108.07755), section 3.2.
    """
    best = torch.zeros(len(gt_boxes), len(anchors), device=anchors.device, dtype=upcast(boxes).dtype)
    assigned = torch.full_like(best, BACKGROUND, dtype=torch.int64)
    points, scores = centers(anchors), logits.transpose(1, 2)
    for start in range(0, gt_boxes.shape[1], chunk):
        gts, labels = gt_boxes[:, start : start + chunk, None], gt_labels[:, start : start + chunk, None]
        iou = elementwise_iou(boxes[:, None], gts)
        score = scores.gather(1, labels.clamp(min=0).expand(-1, -1, len(anchors)))
        inside = torch.cat([points - gts[..., :2], gts[..., 2:] - points], -1).amin(-1) > MARGIN
        fit = alignment(score, iou, alpha, beta).masked_fill(~inside, -torch.inf)
        anchor = lowest(-fit, min(count, len(anchors)))
        image, gt, place = (fit.gather(-1, anchor) > -torch.inf).nonzero(as_tuple=True)
        taken = anchor[image, gt, place]
        assign_best(best.view(-1), assigned.view(-1), image * len(anchors) + taken, iou[image, gt, taken], gt + start)
    return assigned, _targets(assigned, boxes, logits, gt_boxes, gt_labels, alpha, beta)


def alignment(logits: Tensor, iou: Tensor, alpha: float, beta: float) -> Tensor:
    """Compute log t [...] from logits [...] and IoU [...]; t itself underflows in float32 for the worst boxes."""
    return alpha * logsigmoid(upcast(logits)) + beta * iou.log()


def _targets(
    assigned: Tensor, boxes: Tensor, logits: Tensor, gt_boxes: Tensor, gt_labels: Tensor, alpha: float, beta: float
) -> Tensor:
    """Compute the target scores [N, A], which are 0 for the background."""
    image, anchor = (assigned >= 0).nonzero(as_tuple=True)
    gt = assigned[image, anchor]
    iou = elementwise_iou(boxes[image, anchor], gt_boxes[image, gt])
    fit = alignment(logits[image, anchor, gt_labels[image, gt]], iou, alpha, beta)
    gt_index = image * gt_boxes.shape[1] + gt
    count = gt_boxes.shape[0] * gt_boxes.shape[1]
    top = fit.new_full((count,), -torch.inf).scatter_reduce(0, gt_index, fit, "amax")
    top_iou = iou.new_zeros(count).scatter_reduce(0, gt_index, iou, "amax")
    target = torch.zeros_like(assigned, dtype=iou.dtype)
    target[image, anchor] = (fit - top[gt_index]).exp() * top_iou[gt_index]
    return target
