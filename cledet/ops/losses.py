"""Losses of a dense detector, one value per anchor, computed in float32 under autocast too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss, softplus
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from cledet.ops.assigners.max_iou import BACKGROUND, IGNORED
from cledet.ops.boxes import upcast


def focal_loss(
    logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0, rows: Tensor | None = None
) -> Tensor:
    """Compute the sigmoid focal loss [M] of each anchor, summed over its classes.

    logits [M, C] of any float dtype; labels [M] int64: the class, -1 background, -2 ignored (loss and gradient 0). rows
    [P] int64 are the indices of the positive anchors, for a caller that knows them. The gradient is computed
    analytically, in the dtype of the logits, and has no derivative.
    Source: Lin et al., "Focal Loss for Dense Object Detection" (arXiv 1708.02002), Eq. 5.
    """
    background, hot, rows = _background(logits, labels, rows, 1 - alpha, gamma)
    # a positive of logit x is a negative of logit -x
    foreground, _, _ = _background(-hot[:, None], torch.full_like(rows, BACKGROUND), rows[:0], alpha, gamma)
    return _with_positives(background, labels, rows, foreground)


def quality_focal_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, *, beta: float = 2.0, rows: Tensor | None = None
) -> Tensor:
    """Compute the quality focal loss [M] of each anchor, summed over its classes.

        QFL = |y - p|^beta * BCE(p, y)

    logits [M, C]; labels [M] int64: the class, -1 background, -2 ignored (loss and gradient 0); quality [P] in 0 to 1:
    y of the class of each of the P positive anchors, in their order. y is 0 for all other entries. rows and gradient
    are those of `focal_loss`.
    Source: Li et al., "Generalized Focal Loss" (arXiv 2006.04388), Eq. 4.
    """
    background, hot, rows = _background(logits, labels, rows, 1, beta)
    foreground = binary_cross_entropy_with_logits(hot, quality, reduction="none")
    return _with_positives(background, labels, rows, foreground * (quality - hot.sigmoid()).abs().pow(beta))


def varifocal_loss(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
    rows: Tensor | None = None,
) -> Tensor:
    """Compute the varifocal loss [M] of each anchor, summed over its classes.

        VFL = q * BCE(p, q) where q > 0, else alpha * p^gamma * BCE(p, 0)

    logits [M, C]; labels [M] int64: the class, -1 background, -2 ignored (loss and gradient 0); quality [P] in 0 to 1:
    q of the class of each of the P positive anchors, in their order. q is 0 for all other entries. rows and gradient
    are those of `focal_loss`.
    Source: Zhang et al., "VarifocalNet" (arXiv 2008.13367), Eq. 2.
    """
    background, hot, rows = _background(logits, labels, rows, alpha, gamma)
    foreground = quality * binary_cross_entropy_with_logits(hot, quality, reduction="none")
    poor = alpha * softplus(hot) * hot.sigmoid().pow(gamma)
    return _with_positives(background, labels, rows, torch.where(quality > 0, foreground, poor))


def matchability_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, *, gamma: float = 1.5, rows: Tensor | None = None
) -> Tensor:
    """Compute the matchability-aware loss [M] of each anchor, summed over its classes.

        MAL = BCE(p, q^gamma) for the positives' classes, else p^gamma * BCE(p, 0)

    logits [M, C]; labels [M] int64: the class, -1 background, -2 ignored (loss and gradient 0); quality [P] in 0 to 1:
    q of the class of each of the P positive anchors, in their order. rows and gradient are those of `focal_loss`.
    Source: Huang et al., "DEIM" (arXiv 2412.04234), Eq. 4.
    """
    background, hot, rows = _background(logits, labels, rows, 1, gamma)
    foreground = binary_cross_entropy_with_logits(hot, quality.pow(gamma), reduction="none")
    return _with_positives(background, labels, rows, foreground)


def ghm_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    bins: int = 30,
    total: Callable[[Tensor], Tensor] = Tensor.detach,
    rows: Tensor | None = None,
) -> Tensor:
    """Compute the gradient-harmonized loss [M] of each anchor, summed over its classes; its sum over M is a mean.

        GHM-C = BCE(p, y) / (number of entries in its bin of |p - y| * number of bins that are not empty)

    logits [M, C]; labels [M] int64: the class, -1 background, -2 ignored (loss and gradient 0, not counted). `total`
    sums the counts over processes. The momentum of the counts is 0: there is no moving average. rows are those of
    `focal_loss`.
    Source: Li et al., "Gradient Harmonized Single-stage Detector" (arXiv 1811.05181), Eq. 9 and section 3.3.
    """
    rows, known = _positive_rows(labels) if rows is None else rows, labels != IGNORED
    logits = upcast(logits)
    wrong = logits.index_put((rows, labels[rows]), -logits[rows, labels[rows]])  # its sigmoid is |p - y|
    bin_of = (wrong.detach().sigmoid() * bins).nan_to_num().int().clamp(max=bins - 1)  # of nan the loss remains nan
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


def correlation_loss(scores: Tensor, iou: Tensor) -> Tensor:
    """Compute 1 minus the concordance correlation of scores [P] with the IoU [P] of their boxes, which has no gradient.

        1 - 2 cov(s, q) / (var(s) + var(q) + (mean(s) - mean(q))^2)

    A scalar from 0 to 2; 0 for fewer than two positives.
    Source: Kahraman et al., "Correlation Loss" (arXiv 2301.01019), section 4.
    """
    if len(scores) < 2:
        return scores.sum() * 0
    s, q = upcast(scores) - upcast(scores).mean(), upcast(iou).detach() - upcast(iou).detach().mean()
    gap = upcast(scores).mean() - upcast(iou).detach().mean()
    spread = s.square().mean() + q.square().mean() + gap.square()
    return 1 - 2 * (s * q).mean() / spread.clamp(min=torch.finfo(spread.dtype).tiny)


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


def _positive_rows(labels: Tensor) -> Tensor:
    """Return the indices [P] of the positive anchors."""
    return (labels >= 0).nonzero().squeeze(-1)


def _background(
    logits: Tensor, labels: Tensor, rows: Tensor | None, alpha: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute alpha p^gamma BCE(p, 0) [M] of each anchor, summed over its classes except the one of its label.

    Returns also the logits [P] of the labels, with gradient, and their rows [P].
    """
    rows = _positive_rows(labels) if rows is None else rows
    return *_Background.apply(logits, rows, labels[rows], alpha, gamma), rows


def _with_positives(background: Tensor, labels: Tensor, rows: Tensor, foreground: Tensor) -> Tensor:
    """Add the foreground loss [P] of the positives to the background loss [M], which is 0 for ignored anchors."""
    return background.index_add(0, rows, foreground).masked_fill(labels == IGNORED, 0)


class _Background(torch.autograd.Function):
    """Background loss of all entries except one per positive anchor, and the logits of those.

    The forward pass computes and saves the derivatives, which share their costly terms with the loss. Both passes go
    over blocks of anchors, so that intermediate results stay in the cache and take little memory.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Tensor, column: Tensor, alpha: float, gamma: float
    ) -> tuple[Tensor, Tensor]:
        positive, place = upcast(logits[rows]), column[:, None]
        loss = positive.new_empty(len(logits))
        slope = positive.new_empty(logits.shape) if ctx.needs_input_grad[0] else None
        for block in _blocks(logits):
            part = None if slope is None else slope[block]
            loss[block] = _as_negative(upcast(logits[block]), alpha, gamma, part)
        hot = positive.gather(1, place).squeeze(1)
        loss[rows] = _as_negative(positive.scatter_(1, place, -torch.inf), alpha, gamma, None)  # -inf: loss 0
        ctx.dtype = logits.dtype
        ctx.set_materialize_grads(False)  # autograd has no device for a gradient that is not there
        ctx.save_for_backward(slope, rows, column)
        return loss, hot

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, grad_hot: Tensor | None) -> tuple[Tensor, None, None, None, None]:
        slope, rows, column = ctx.saved_tensors
        grad_loss = slope.new_zeros(len(slope)) if grad_loss is None else grad_loss
        grad_hot = slope.new_zeros(len(rows)) if grad_hot is None else grad_hot
        with torch.no_grad():
            gradient = torch.empty_like(slope, dtype=ctx.dtype)
            for block in _blocks(slope):
                torch.mul(slope[block], grad_loss[block, None], out=gradient[block])
            gradient[rows, column] = grad_hot.to(ctx.dtype)
        if torch.is_grad_enabled():  # create_graph=True
            gradient = _NotDifferentiable.apply(gradient, gradient.new_zeros((), requires_grad=True))
        return gradient, None, None, None, None


class _NotDifferentiable(torch.autograd.Function):
    """The identity, whose derivative is an error instead of zero."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, with_gradient: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        raise RuntimeError("the gradient of a classification loss of cledet.ops cannot be differentiated again")


def _as_negative(x: Tensor, alpha: float, gamma: float, slope: Tensor | None) -> Tensor:
    """Compute the loss [M], summed over classes, for logits x [M, C], all as negatives; write its derivative to slope.

    loss        alpha p^gamma softplus(x)                              # softplus(x) = -log(1 - p) = BCE(p, 0)
    derivative  alpha p^gamma (gamma (1 - p) softplus(x) + p)          # brackets: lerp to 1 by p
    """
    p, plus = x.sigmoid(), softplus(x).mul_(alpha)
    focus = p.pow(gamma)
    loss = (plus * focus).sum(-1)
    if slope is not None:
        torch.mul(plus.mul_(gamma).lerp_(plus.new_full((), alpha), p), focus, out=slope)
    return loss


def _blocks(values: Tensor) -> Iterator[slice]:
    """Yield slices of the rows of [M, C] with about 2^16 entries for each CPU thread, or 2^24 on another device."""
    entries = 2**16 * torch.get_num_threads() if values.device.type == "cpu" else 2**24
    rows = max(1, entries // values.shape[1])
    return (slice(start, start + rows) for start in range(0, len(values), rows))
