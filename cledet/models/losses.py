"""The tables of classification losses, box losses and normalizers that `Criterion` chooses from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from cledet.models.assignment import Positives
from cledet.ops.box_coder import distributions, encode, encode_distances
from cledet.ops.losses import (
    ciou_loss,
    diou_loss,
    distribution_focal_loss,
    focal_loss,
    ghm_loss,
    giou_loss,
    matchability_loss,
    quality_focal_loss,
    smooth_l1,
    varifocal_loss,
)


class ClassLoss(NamedTuple):
    """A classification loss and its reduction."""

    loss: Callable[[Tensor, Tensor, Positives, Callable[[Tensor], Tensor]], Tensor]
    """Loss [M] of logits [M, C], labels [M], the positives, and a sum over processes."""
    box_weight: Callable[[Tensor, Tensor], Tensor] | None = None
    """Weights of the positives' box losses [P], from their logits [P, C] and quality [P]."""
    is_mean: bool = False
    """True if the sum of the loss is already a mean, which is not divided by Eq. 4's N."""


def _gfl_boxes(pos: Positives) -> Tensor:
    """Compute GFL's box loss [P]: 2 * GIoU + 0.25 * mean DFL of the four sides (Li et al. 2020, Eq. 8)."""
    logits = distributions(pos.code)
    most = logits.shape[-1] - 1.1  # as published: 0.1 below the last bin
    target = encode_distances(pos.gt_boxes, pos.anchors, pos.strides).clamp(0, most)
    return 2 * giou_loss(pos.boxes, pos.gt_boxes) + 0.25 * distribution_focal_loss(logits, target).mean(-1)


CLS_LOSSES = {
    "focal": ClassLoss(lambda logits, labels, pos, total: focal_loss(logits, labels, rows=pos.flat_index)),
    "qfl": ClassLoss(
        lambda logits, labels, pos, total: quality_focal_loss(logits, labels, pos.quality, rows=pos.flat_index),
        box_weight=lambda logits, quality: logits.float().sigmoid().amax(-1),
    ),
    "mal": ClassLoss(
        lambda logits, labels, pos, total: matchability_loss(logits, labels, pos.quality, rows=pos.flat_index),
        box_weight=lambda logits, quality: quality,
    ),
    "varifocal": ClassLoss(
        lambda logits, labels, pos, total: varifocal_loss(logits, labels, pos.quality, rows=pos.flat_index),
        box_weight=lambda logits, quality: quality,
    ),
    "ghm": ClassLoss(
        lambda logits, labels, pos, total: ghm_loss(logits, labels, total=total, rows=pos.flat_index), is_mean=True
    ),
}
REG_LOSSES: dict[str, Callable[[Positives], Tensor]] = {
    "smooth_l1": lambda pos: smooth_l1(pos.code, encode(pos.gt_boxes, pos.anchors), beta=1 / 9),
    "l1": lambda pos: smooth_l1(pos.code, encode(pos.gt_boxes, pos.anchors), beta=0),
    "giou": lambda pos: giou_loss(pos.boxes, pos.gt_boxes),
    "diou": lambda pos: diou_loss(pos.boxes, pos.gt_boxes),
    "ciou": lambda pos: ciou_loss(pos.boxes, pos.gt_boxes),
    "dfl": _gfl_boxes,
}
"""The box loss [P] of each positive anchor."""
NORMALIZERS: dict[str, Callable[[Tensor, Positives], Tensor]] = {
    "positives": lambda weights, pos: weights.sum(),
    "matched": lambda weights, pos: (weights * ~pos.recalled).sum(),
}
"""Eq. 4's N: the sum of the weights [P] of all positives, or of the positives by IoU only."""
