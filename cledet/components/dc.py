"""Dynamic coefficient loss (DC): positive anchors with accurate boxes receive a larger classification loss.

A close precedent is the IoU-balanced classification loss (Wu et al., arXiv 1908.05641): it weights the positives by a
power of their IoU, and its normalizer, treated as a constant, also keeps the sum of their losses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cledet.ops.boxes import area, centers, elementwise_iou, upcast


def dynamic_coefficient(
    pred_boxes: Tensor, gt_boxes: Tensor, *, eps: float = 1e-6, unit: Tensor | None = None
) -> Tensor:
    """Compute the coefficient lam [N] of each positive anchor, Eq. 2: near 2 for an accurate box, 0.5 for a poor one.

        lam = 1 / (sigmoid(offset^2 / unit^2) + tanh(|w/h - w^/h^|) + eps)

    pred_boxes [N, 4] are decoded and gt_boxes [N, 4] their ground truths, row by row. unit [N] is the unit of the
    centre offset in pixels, see `center_unit`; None is 1 pixel. The height is clamped to eps in w/h.
    """
    offset = centers(pred_boxes) - centers(gt_boxes)
    if unit is not None:
        offset = offset / upcast(unit).clamp(min=eps)[:, None]
    ratio_gap = (_aspect_ratio(pred_boxes, eps) - _aspect_ratio(gt_boxes, eps)).abs()
    return 1 / (offset.square().sum(-1).sigmoid() + ratio_gap.tanh() + eps)


def zero_based_coefficient(
    pred_boxes: Tensor, gt_boxes: Tensor, *, eps: float = 0.25, unit: Tensor | None = None
) -> Tensor:
    """Compute a coefficient lam [N] whose two terms are 0 for an accurate box and respond to small errors.

        lam = 1 / (2 * sigmoid(16 * offset^2 / unit^2) - 1 + |log(w/h) - log(w^/h^)| + eps)

    A reading of Eq. 2, not the paper's: there, sigmoid(0) = 1/2 hides the distance of boxes that are nearly right. The
    arguments are those of `dynamic_coefficient`; eps bounds lam at 4.
    """
    offset = centers(pred_boxes) - centers(gt_boxes)
    if unit is not None:
        offset = offset / upcast(unit).clamp(min=1e-6)[:, None]
    log_gap = (_aspect_ratio(pred_boxes, 1e-6).clamp(min=1e-6) / _aspect_ratio(gt_boxes, 1e-6).clamp(min=1e-6)).log()
    return 1 / (2 * (16 * offset.square().sum(-1)).sigmoid() - 1 + log_gap.abs() + eps)


def iou_coefficient(pred_boxes: Tensor, gt_boxes: Tensor, *, eps: float = 1e-6, unit: Tensor | None = None) -> Tensor:
    """Compute the coefficient IoU^1.5 [N] of the IoU-balanced classification loss, a rival of Eq. 2.

    pred_boxes [N, 4] and gt_boxes [N, 4], row by row; at least eps. There is no distance, so `unit` has no effect.
    Source: Wu et al., IoU-balanced Loss Functions for Single-stage Object Detection (arXiv 1908.05641), Eq. 4.
    """
    return elementwise_iou(pred_boxes, gt_boxes).pow(1.5).clamp(min=eps)


def normalize_coefficient(
    coefficient: Tensor,
    cls_loss: Tensor,
    *,
    groups: Tensor | None = None,
    total: Callable[[Tensor], Tensor] = torch.Tensor.detach,
) -> Tensor:
    """Scale the coefficients so that the sum of the weighted losses equals the sum of the losses, Eq. 3.

        lam' = lam * sum_j(L_j) / sum_j(lam_j * L_j)

    coefficient [N] of Eq. 2 and cls_loss [N], focal losses of the same anchors. With groups [N, G], the sums run over
    each group by itself: its anchors have 1 in its column and 0 in the others. `total` sums a tensor over processes.
    Returns lam' [N] without gradient: with one, the weighted sum would be the plain sum. It is 1 if all losses are 0.
    """
    coefficient, cls_loss = upcast(coefficient.detach()), upcast(cls_loss.detach())
    groups = torch.ones_like(cls_loss)[:, None] if groups is None else groups.to(cls_loss)
    losses = cls_loss[:, None] * groups
    plain, weighted = total(torch.stack([losses.sum(0), (coefficient[:, None] * losses).sum(0)]))
    scale = torch.where(weighted > 0, plain / torch.where(weighted > 0, weighted, 1), 0)
    own = (groups * scale).sum(1)
    return torch.where(own > 0, coefficient * own, 1)


def center_unit(name: str, gt_boxes: Tensor, strides: Tensor) -> Tensor | None:
    """Return the unit [N] of Eq. 2's centre offset in pixels, by its name in CENTER_UNITS.

    gt_boxes [N, 4], strides [N] of the anchors' pyramid levels. Raises KeyError for an unknown name.
    """
    return CENTER_UNITS[name](gt_boxes, strides)


def _aspect_ratio(boxes: Tensor, eps: float) -> Tensor:
    """Compute width over height [N], with a height of at least eps."""
    width, height = (upcast(boxes)[:, 2:] - upcast(boxes)[:, :2]).unbind(-1)
    return width / height.clamp(min=eps)


CENTER_UNITS = {
    "pixel": lambda gt_boxes, strides: None,
    "stride": lambda gt_boxes, strides: upcast(strides),
    "size": lambda gt_boxes, strides: area(gt_boxes).sqrt(),
}
COEFFICIENTS: dict[str, Callable[..., Tensor]] = {
    "as-printed": dynamic_coefficient,
    "zero-based": zero_based_coefficient,
    "iou": iou_coefficient,
}
"""Readings of Eq. 2, and its rival."""
