"""Dynamic coefficient loss (DC): the better a positive anchor is localized, the more its class counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cledet.ops.boxes import area, centers, upcast


def dynamic_coefficient(
    pred_boxes: Tensor, gt_boxes: Tensor, *, eps: float = 1e-6, unit: Tensor | None = None
) -> Tensor:
    """Coefficient lam [N] of each positive anchor, Eq. 2: near 2 for a good box, near 0.5 for a bad one.

        lam = 1 / (sigmoid(offset^2 / unit^2) + tanh(|w/h - w^/h^|) + eps)

    pred_boxes [N, 4] decoded, gt_boxes [N, 4], row by row; unit [N] pixels that the centre offset is counted
    in (None: 1 pixel), see `center_unit`. A box without height has a huge but finite ratio of sides.
    """
    offset = centers(pred_boxes) - centers(gt_boxes)
    if unit is not None:
        offset = offset / upcast(unit).clamp(min=eps)[:, None]
    ratio_gap = (_aspect(pred_boxes, eps) - _aspect(gt_boxes, eps)).abs()
    return 1 / (offset.square().sum(-1).sigmoid() + ratio_gap.tanh() + eps)


def normalize_coefficient(
    coefficient: Tensor, cls_loss: Tensor, *, total: Callable[[Tensor], Tensor] = torch.Tensor.detach
) -> Tensor:
    """Coefficient lam' [N], Eq. 3: scaled so that the weighted losses sum to what the plain losses sum to.

        lam' = lam * sum_j(L_j) / sum_j(lam_j * L_j)

    coefficient [N] of Eq. 2, cls_loss [N] focal losses of the same anchors; total adds up what several processes
    hold of a batch. The result carries no gradient: if it did, the weighted sum would be the plain sum. Where all
    losses are zero it is 1.
    """
    coefficient, cls_loss = upcast(coefficient.detach()), upcast(cls_loss.detach())
    plain, weighted = total(torch.stack([cls_loss.sum(), (coefficient * cls_loss).sum()]))
    scale = plain / torch.where(weighted > 0, weighted, 1)
    return torch.where(weighted > 0, coefficient * scale, 1)


def center_unit(name: str, gt_boxes: Tensor, strides: Tensor) -> Tensor | None:
    """Pixels [N] in which Eq. 2 counts the centre offset, by the name of the reading.

    gt_boxes [N, 4], strides [N] of the anchors' pyramid levels. A name that is not in CENTER_UNITS is a
    KeyError.
    """
    return CENTER_UNITS[name](gt_boxes, strides)


def _aspect(boxes: Tensor, eps: float) -> Tensor:
    """Width over height [N], the height at least eps."""
    width, height = (upcast(boxes)[:, 2:] - upcast(boxes)[:, :2]).unbind(-1)
    return width / height.clamp(min=eps)


CENTER_UNITS = {
    "pixel": lambda gt_boxes, strides: None,
    "stride": lambda gt_boxes, strides: upcast(strides),
    "size": lambda gt_boxes, strides: area(gt_boxes).sqrt(),
}
