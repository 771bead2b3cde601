"""Task-aligned assignment (TAL): a ground truth takes the anchors that both classify and localize it best."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cledet.ops.assigners.atss import MARGIN, give, lowest
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
    """Assignment [N, A] int64, the ground truth's index or -1 background, and what each score [N, A] should be.

        t = p^alpha * IoU^beta

    anchors [A, 4], the boxes [N, A, 4] and logits [N, A, C] that the network makes of them; gt_boxes [N, G, 4] padded
    with zero boxes, gt_labels [N, G] int64 padded with anything. Positive are a ground truth's `count` anchors of
    highest t, ties by index, of those with the centre inside it and t over 0; one that several claim is given to the
    one of highest IoU, the first of equals. A positive's score should be its t over the highest t of its ground
    truth's positives, times their highest IoU; 0 elsewhere. Memory is N * A * chunk floats.
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
        give(best.view(-1), assigned.view(-1), image * len(anchors) + taken, iou[image, gt, taken], gt + start)
    return assigned, _targets(assigned, boxes, logits, gt_boxes, gt_labels, alpha, beta)


def alignment(logits: Tensor, iou: Tensor, alpha: float, beta: float) -> Tensor:
    """The logarithm [...] of t, of logits [...] and IoU [...]: t itself is no number in float32 for the worst boxes."""
    return alpha * logsigmoid(upcast(logits)) + beta * iou.log()


def _targets(
    assigned: Tensor, boxes: Tensor, logits: Tensor, gt_boxes: Tensor, gt_labels: Tensor, alpha: float, beta: float
) -> Tensor:
    """What the scores [N, A] of the positives should be."""
    image, anchor = (assigned >= 0).nonzero(as_tuple=True)
    gt = assigned[image, anchor]
    iou = elementwise_iou(boxes[image, anchor], gt_boxes[image, gt])
    fit = alignment(logits[image, anchor, gt_labels[image, gt]], iou, alpha, beta)
    owner = image * gt_boxes.shape[1] + gt
    groups = gt_boxes.shape[0] * gt_boxes.shape[1]
    top = fit.new_full((groups,), -torch.inf).scatter_reduce(0, owner, fit, "amax")
    top_iou = iou.new_zeros(groups).scatter_reduce(0, owner, iou, "amax")
    target = torch.zeros_like(assigned, dtype=iou.dtype)
    target[image, anchor] = (fit - top[owner]).exp() * top_iou[owner]
    return target
