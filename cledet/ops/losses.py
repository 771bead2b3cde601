"""The losses of a dense detector, one value per anchor, in float32 whatever autocast hands in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import smooth_l1_loss, softplus
from torchvision.ops import generalized_box_iou_loss

from cledet.ops.assign import IGNORED
from cledet.ops.boxes import upcast


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss [M] of each anchor, summed over its classes.

    logits [M, C] of any float dtype; labels [M] int64: the class, -1 background, -2 ignored (loss and
    gradient 0). The gradient is written down instead of recorded, and comes back in the dtype of the logits.
    Source: Lin et al., "Focal Loss for Dense Object Detection" (arXiv 1708.02002), Eq. 5.
    """
    return _FocalLoss.apply(logits, labels, alpha, gamma)


def smooth_l1(pred: Tensor, target: Tensor, beta: float = 1 / 9) -> Tensor:
    """Smooth L1 loss [M] of each row of [M, K], summed over the row; beta 0 is L1."""
    return smooth_l1_loss(upcast(pred), upcast(target), beta=beta, reduction="none").sum(-1)


def giou_loss(pred_boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """Generalized IoU loss [M] in (0, 2) of boxes [M, 4] and [M, 4], row by row (arXiv 1902.09630)."""
    return generalized_box_iou_loss(upcast(pred_boxes), upcast(gt_boxes), reduction="none")


class _FocalLoss(torch.autograd.Function):
    """Every entry as a negative first, then the one positive entry of each positive anchor put right."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.alpha, ctx.gamma = alpha, gamma
        rows = (labels >= 0).nonzero().squeeze(-1)
        hot = upcast(logits[rows, labels[rows]])
        loss = _negative_loss(upcast(logits), alpha, gamma).sum(-1).masked_fill_(labels == IGNORED, 0)
        return loss.index_add_(0, rows, _positive_loss(hot, alpha, gamma) - _negative_loss(hot, alpha, gamma))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        logits, labels = ctx.saved_tensors
        rows = (labels >= 0).nonzero().squeeze(-1)
        hot = upcast(logits[rows, labels[rows]])
        scale = grad_output.masked_fill(labels == IGNORED, 0)
        grad = _negative_slope(upcast(logits), ctx.alpha, ctx.gamma).mul_(scale[:, None])
        grad[rows, labels[rows]] = _positive_slope(hot, ctx.alpha, ctx.gamma) * scale[rows]
        return grad.to(logits.dtype), None, None, None


def _negative_loss(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """(1 - alpha) p^gamma softplus(x), where softplus(x) = -log(1 - p)."""
    return softplus(x).mul_(x.sigmoid().pow_(gamma)).mul_(1 - alpha)


def _negative_slope(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """Its derivative, (1 - alpha) p^gamma (gamma (1 - p) softplus(x) + p); in brackets, a lerp to 1 by p."""
    p = x.sigmoid()
    slope = softplus(x).mul_(gamma)
    return slope.lerp_(slope.new_ones(()), p).mul_(p.pow_(gamma)).mul_(1 - alpha)


def _positive_loss(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """The negative's mirror image: alpha (1 - p)^gamma softplus(-x)."""
    return _negative_loss(-x, 1 - alpha, gamma)


def _positive_slope(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """Its derivative."""
    return -_negative_slope(-x, 1 - alpha, gamma)
