"""The training objective: assignment and losses of a whole batch, with the paper's DC and IAC where they enter.

Apart from the network, as in DETR: the network says what it sees, the criterion says how wrong that is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cledet.components.dc import center_unit, dynamic_coefficient, normalize_coefficient
from cledet.components.iac import Recall, at_matched_class, recalled
from cledet.models.network import RawOutputs
from cledet.ops.assign import assign_from, ignore_regions, match
from cledet.ops.coder import decode, encode
from cledet.ops.losses import focal_loss, giou_loss, smooth_l1


class Targets(NamedTuple):
    """Ground truths of N images, padded with zero boxes, which match no anchor."""

    boxes: Tensor  # [N, G, 4] pixels of the network's input
    labels: Tensor  # [N, G] int64
    ignored: Tensor  # [N, K, 4] crowds and difficult objects: neither objects nor background


class Assigned(NamedTuple):
    """What each of A anchors of N images answers for."""

    gt: Tensor  # [N, A] int64 index of its ground truth, -1 background, -2 ignored
    recalled: Tensor  # [N, A] bool whether it is positive by IAC only


class Losses(NamedTuple):
    """What a step is trained on, and what is worth logging about it."""

    classification: Tensor  # scalar
    regression: Tensor  # scalar
    positives: Tensor  # positive anchors of the batch
    recalled: Tensor  # those of them that IAC recalled
    coefficient: Tensor  # mean over the positives of what multiplied their loss: DC's lambda', else 1; nan: none
    spread: Tensor  # its standard deviation
    n: Tensor  # Eq. 4's N, over all processes; the two losses are divided by it, or by 1 if it is 0


LETTER = Recall()
"""IAC as the paper writes it."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Focal loss and box regression of the anchors, with or without DC (Eq. 2-4) and IAC (Eq. 5-7)."""

    iac: Recall | None = LETTER
    dc: bool = True
    normalizer: str = "positives"
    center_unit: str = "size"
    reg_loss: str = "smooth_l1"
    total: Callable[[Tensor], Tensor] = Tensor.detach
    """Adds up what `processes` processes hold of a batch, the mean of whose losses is then that of the batch."""
    processes: int = 1

    def __call__(self, raw: RawOutputs, targets: Targets) -> Losses:
        """Raw outputs and ground truths -> losses, all over the number of positives (Eq. 4).

        Computed in float32, whatever precision the network ran in.
        """
        with torch.autocast(raw.logits.device.type, enabled=False):
            assigned = self.assign(raw, targets)
            image, anchor = (assigned.gt >= 0).nonzero(as_tuple=True)
            gt = assigned.gt[image, anchor]
            gt_boxes = targets.boxes[image, gt]
            anchors, deltas = raw.anchors[anchor], raw.deltas[image, anchor].float()

            labels = assigned.gt.clamp(max=-1)
            labels[image, anchor] = targets.labels[image, gt]
            classification = focal_loss(raw.logits.flatten(0, 1), labels.flatten()).view_as(labels)
            positive = classification[image, anchor]
            weight = self.weight(deltas, anchors, gt_boxes, raw.strides[anchor], positive)
            background = classification.sum() - positive.sum()
            regression = self.regression(deltas, anchors, gt_boxes)

            n = self.total(NORMALIZERS[self.normalizer](assigned))
            divisor = n.clamp(min=1) / self.processes
            return Losses(
                classification=((weight * positive).sum() + background) / divisor,
                regression=regression.sum() / divisor,
                positives=torch.tensor(len(gt)),
                recalled=assigned.recalled.sum(),
                coefficient=weight.mean(),
                spread=(weight - weight.mean()).square().mean().sqrt(),
                n=n,
            )

    @torch.no_grad()
    def assign(self, raw: RawOutputs, targets: Targets) -> Assigned:
        """What each anchor answers for: by IoU, and where IAC is on also by its score (Eq. 5-7)."""
        matches = match(raw.anchors, targets.boxes)
        gt = assign_from(matches)
        extra = torch.zeros_like(gt, dtype=torch.bool)
        if self.iac is not None:
            prob = at_matched_class(raw.logits, targets.labels, matches).float().sigmoid()
            extra = recalled(gt, matches, raw.anchors, targets.boxes, prob, self.iac)
        gt = torch.where(extra, matches.gt, gt)
        return Assigned(ignore_regions(gt, raw.anchors, targets.ignored), extra)

    def weight(self, deltas: Tensor, anchors: Tensor, gt_boxes: Tensor, strides: Tensor, loss: Tensor) -> Tensor:
        """What multiplies each positive anchor's classification loss [P]: DC's coefficient, or 1."""
        return self.coefficient(deltas, anchors, gt_boxes, strides, loss) if self.dc else torch.ones_like(loss)

    @torch.no_grad()
    def coefficient(self, deltas: Tensor, anchors: Tensor, gt_boxes: Tensor, strides: Tensor, loss: Tensor) -> Tensor:
        """DC's weight lambda' of each positive anchor's classification loss (Eq. 2 and 3)."""
        unit = center_unit(self.center_unit, gt_boxes, strides)
        coefficient = dynamic_coefficient(decode(deltas, anchors), gt_boxes, unit=unit)
        return normalize_coefficient(coefficient, loss, total=self.total)

    def regression(self, deltas: Tensor, anchors: Tensor, gt_boxes: Tensor) -> Tensor:
        """The box loss [P] of each positive anchor."""
        if self.reg_loss == "giou":
            return giou_loss(decode(deltas, anchors), gt_boxes)
        return smooth_l1(deltas, encode(gt_boxes, anchors), beta=1 / 9)


NORMALIZERS = {
    "positives": lambda assigned: (assigned.gt >= 0).sum(),
    "matched": lambda assigned: ((assigned.gt >= 0) & ~assigned.recalled).sum(),
}
"""What N, by which Eq. 4 divides, counts: all positives, or those by IoU only."""
