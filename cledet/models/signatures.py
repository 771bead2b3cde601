"""Statistics of a training step that tell what DC and IAC do before AP does."""

from __future__ import annotations

import torch
from torch import Tensor

from cledet.models.assignment import Positives, Targets
from cledet.ops.boxes import area, widest_float

ELONGATED = 2.5
"""Ratio of the longer to the shorter side over which an object is elongated."""
SIGNATURES = {
    "coefficient_iou": "rank correlation of DC's coefficient with the IoU of the predicted boxes",
    "matched_iou": "mean IoU of the boxes that anchors matched by IoU predict",
    "recalled_iou": "mean IoU of the boxes that recalled anchors predict",
    "recalled_box": "share of the box loss that recalled anchors carry",
    "compact_positives": "positive anchors per compact object",
    "elongated_positives": "positive anchors per elongated object",
}
"""Names of the statistics; each is nan where there is nothing to measure."""


@torch.no_grad()
def signatures(pos: Positives, targets: Targets, coefficient: Tensor | None, box_loss: Tensor) -> dict[str, Tensor]:
    """Compute the statistics of SIGNATURES from the positives of a batch, without waiting for the device.

    The numbers of compact and of elongated objects are returned too, to combine the statistics of several batches.
    coefficient [P] is DC's, None without DC; box_loss [P] as it enters the sum.
    """
    sides = targets.boxes[..., 2:] - targets.boxes[..., :2]
    elongated = sides.amax(-1) > ELONGATED * sides.amin(-1)
    real = area(targets.boxes) > 0
    counts = torch.zeros_like(targets.labels).view(-1)
    counts = counts.index_add(0, pos.image * targets.boxes.shape[1] + pos.gt, torch.ones_like(pos.gt))
    nan = torch.full((), torch.nan, device=pos.iou.device)
    compact, elongated = real & ~elongated, real & elongated
    return {
        "coefficient_iou": nan if coefficient is None else rank_correlation(coefficient, pos.iou),
        "matched_iou": _mean(pos.iou, ~pos.recalled),
        "recalled_iou": _mean(pos.iou, pos.recalled),
        "recalled_box": (box_loss * pos.recalled).sum() / box_loss.sum(),
        "compact_positives": _mean(counts.view_as(real), compact),
        "elongated_positives": _mean(counts.view_as(real), elongated),
        "compact": compact.sum(),
        "elongated": elongated.sum(),
    }


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Compute Spearman's rank correlation of a [P] and b [P], with mean ranks for ties; nan if one is constant."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    return (ranks[0] * ranks[1]).sum() / ranks.square().sum(1).prod().sqrt()


def _ranks(values: Tensor) -> Tensor:
    """Return twice the mean rank [P] of each value, as float64 (float32 on MPS)."""
    ordered = values.contiguous().sort().values
    places = [torch.searchsorted(ordered, values.contiguous(), right=right) for right in (False, True)]
    return (places[0] + places[1]).to(widest_float(values.device))


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Compute the mean of the chosen values; nan if there are none."""
    return (values * chosen).sum() / chosen.sum()
