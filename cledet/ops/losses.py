"""Losses of a dense detector, one value per anchor, computed in float32 under autocast too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss, softplus
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from cledet.ops.assigners.max_iou import IGNORED
from cledet.ops.boxes import upcast


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Compute the sigmoid focal loss [M] of each anchor, summed over its classes.

    logits [M, C] of any float dtype; labels [M] int64: the class, -1 background, -2 ignored (loss and gradient 0). The
    gradient is computed analytically, in the dtype of the logits.
    Source: Lin et al., "Focal Loss for Dense Object Detection" (arXiv 1708.02002), Eq. 5.
    """
    return _FocalLoss.apply(logits, labels, alpha, gamma)


def quality_focal_loss(logits: Tensor, labels: Tensor, quality: Tensor, *, beta: float = 2.0) -> Tensor:
    """Compute the quality focal loss [M] of each anchor, summed over its classes.

        QFL = |y - p|^beta * BCE(p, y)

    logits [M, C]; labels [M] int64: the class, -1 background, -2 ignored (loss and gradient 0); quality [P] in 0 to 1:
    y of the class of each of the P positive anchors, in their order. y is 0 for all other entries.
    Source: Li et al., "Generalized Focal Loss" (arXiv 2006.04388), Eq. 4.
    """
    rows = (labels >= 0).nonzero().squeeze(-1)
    column, logits = labels[rows], upcast(logits)
    background = softplus(logits) * logits.sigmoid().pow(beta)
    hot = logits[rows, column]
    foreground = binary_cross_entropy_with_logits(hot, quality, reduction="none")
    change = foreground * (quality - hot.sigmoid()).abs().pow(beta) - background[rows, column]
    return background.sum(-1).index_add(0, rows, change).masked_fill(labels == IGNORED, 0)


def varifocal_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, *, alpha: float = 0.75, gamma: float = 2.0
) -> Tensor:
    """Compute the varifocal loss [M] of each anchor, summed over its classes.

        VFL = q * BCE(p, q) where q > 0, else alpha * p^gamma * BCE(p, 0)

    logits [M, C]; labels [M] int64: the class, -1 background, -2 ignored (loss and gradient 0); quality [P] in 0 to 1:
    q of the class of each of the P positive anchors, in their order. q is 0 for all other entries.
    Source: Zhang et al., "VarifocalNet" (arXiv 2008.13367), Eq. 2.
    """
    rows = (labels >= 0).nonzero().squeeze(-1)
    column, logits = labels[rows], upcast(logits)
    background = alpha * softplus(logits) * logits.sigmoid().pow(gamma)
    foreground = quality * binary_cross_entropy_with_logits(logits[rows, column], quality, reduction="none")
    change = torch.where(quality > 0, foreground - background[rows, column], 0)
    return background.sum(-1).index_add(0, rows, change).masked_fill(labels == IGNORED, 0)


def ghm_loss(
    logits: Tensor, labels: Tensor, *, bins: int = 30, total: Callable[[Tensor], Tensor] = Tensor.detach
) -> Tensor:
    """Compute the gradient-harmonized loss [M] of each anchor, summed over its classes; its sum over M is a mean.

        GHM-C = BCE(p, y) / (number of entries in its bin of |p - y| * number of bins that are not empty)

    logits [M, C]; labels [M] int64: the class, -1 background, -2 ignored (loss and gradient 0, not counted). `total`
    sums the counts over processes. The momentum of the counts is 0: there is no moving average.
    Source: Li et al., "Gradient Harmonized Single-stage Detector" (arXiv 1811.05181), Eq. 9 and section 3.3.
    """
    rows, known = (labels >= 0).nonzero().squeeze(-1), labels != IGNORED
    logits = upcast(logits)
    wrong = logits.index_put((rows, labels[rows]), -logits[rows, labels[rows]])  # its sigmoid is |p - y|
    bin_of = (wrong.detach().sigmoid() * bins).int().clamp(max=bins - 1)
    counts = total(bin_of[known].flatten().bincount(minlength=bins))
    density = (counts * (counts > 0).sum()).clamp(min=1)
    return (softplus(wrong) / density[bin_of]).sum(-1).masked_fill(~known, 0)


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the distribution focal loss [...] of distributions over 0, 1, ... n with logits [..., n + 1].

        DFL = -((i + 1 - y) log S_i + (y - i) log S_(i + 1)),  i <= y <= i + 1

    target [...]: y, from 0 to n. Source: Li et al., "Generalized Focal Loss" (arXiv 2006.04388), Eq. 6.
    """
    low = target.floor().clamp(max=logits.shape[-1] - 2)
    index = low.long()[..., None]
    log = upcast(logits).log_softmax(-1)
    share = target - low
    return -(1 - share) * log.gather(-1, index).squeeze(-1) - share * log.gather(-1, index + 1).squeeze(-1)


def smooth_l1(pred: Tensor, target: Tensor, beta: float = 1 / 9) -> Tensor:
    """Compute the smooth L1 loss [M] of each row of [M, K], summed over the row; beta 0 is L1."""
    return smooth_l1_loss(upcast(pred), upcast(target), beta=beta, reduction="none").sum(-1)


def giou_loss(pred_boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """Compute the generalized IoU loss [M] in (0, 2) of boxes [M, 4], row by row (arXiv 1902.09630)."""
    return generalized_box_iou_loss(upcast(pred_boxes), upcast(gt_boxes), reduction="none")


def diou_loss(pred_boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """Compute the distance IoU loss [M] in 0 to 2 of boxes [M, 4], row by row (arXiv 1911.08287, Eq. 7)."""
    return distance_box_iou_loss(upcast(pred_boxes), upcast(gt_boxes), reduction="none")


def ciou_loss(pred_boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """Compute the complete IoU loss [M] of boxes [M, 4], row by row (arXiv 1911.08287, Eq. 10).

    Predicted sides are clamped to at least 0.001 pixels, because a box of 0 by 0 pixels has no aspect ratio.
    """
    boxes = upcast(pred_boxes)
    low, high = boxes[..., :2], boxes[..., 2:]
    real = torch.cat([low, torch.maximum(high, low + 1e-3)], -1)
    return complete_box_iou_loss(real, upcast(gt_boxes), reduction="none")


class _FocalLoss(torch.autograd.Function):
    """Focal loss of all entries as negatives, corrected at the one positive entry of each positive anchor.

    The forward pass computes and saves the derivatives, which share their costly terms with the loss.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        rows = (labels >= 0).nonzero().squeeze(-1)
        column = labels[rows]
        hot = upcast(logits[rows, column])[:, None]
        loss, slope = _as_negative(upcast(logits), alpha, gamma, ctx.needs_input_grad[0])
        # a positive of logit x is a negative of logit -x, with 1 - alpha for alpha
        mirrored, hot_slope = _as_negative(-hot, 1 - alpha, gamma, True)
        change = mirrored - _as_negative(hot, alpha, gamma, False)[0]
        if ctx.needs_input_grad[0]:
            slope[rows, column] = -hot_slope.squeeze(-1)
            ctx.save_for_backward(slope, labels)
            ctx.dtype = logits.dtype
        return loss.masked_fill_(labels == IGNORED, 0).index_add_(0, rows, change)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        slope, labels = ctx.saved_tensors
        scale = grad_output.masked_fill(labels == IGNORED, 0)
        return (slope * scale[:, None]).to(ctx.dtype), None, None, None


def _as_negative(x: Tensor, alpha: float, gamma: float, with_slope: bool) -> tuple[Tensor, Tensor]:
    """Compute the loss [M], summed over classes, and its derivative [M, C] for logits x [M, C], all as negatives.

    loss        (1 - alpha) p^gamma softplus(x)                                  # softplus(x) = -log(1 - p)
    derivative  (1 - alpha) p^gamma (gamma (1 - p) softplus(x) + p)              # brackets: lerp to 1 by p
    """
    p, plus = x.sigmoid(), softplus(x)
    focus = p.pow(gamma).mul_(1 - alpha)
    loss = (plus * focus).sum(-1)
    return loss, plus.mul_(gamma).lerp_(plus.new_ones(()), p).mul_(focus) if with_slope else plus
