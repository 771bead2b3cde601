"""The training objective: assignment and losses of a whole batch, with the paper's DC and IAC where they enter.

Apart from the network, as in DETR: the network says what it sees, the criterion says how wrong that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cledet.components.dc import center_unit, dynamic_coefficient, normalize_coefficient
from cledet.components.iac import at_matched_class, match_score, recall
from cledet.models.network import RawOutputs
from cledet.ops.assign import assign_from, ignore_regions, match
from cledet.ops.coder import decode, encode
from cledet.ops.losses import focal_loss, giou_loss, smooth_l1


class Targets(NamedTuple):
    """Ground truths of N images, padded with zero boxes, which match no anchor."""

    boxes: Tensor  # [N, G, 4] pixels of the network's input
    labels: Tensor  # [N, G] int64
    ignored: Tensor  # [N, K, 4] crowds and difficult objects: neither objects nor background


class Losses(NamedTuple):
    """What a step is trained on, and what is worth logging about it."""

    classification: Tensor  # scalar
    regression: Tensor  # scalar
    positives: Tensor  # positive anchors of the batch
    recalled: Tensor  # those of them that IAC recalled


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Focal loss and box regression of the anchors, with or without DC (Eq. 2-4) and IAC (Eq. 5-7)."""

    iac: bool = True
    dc: bool = True
    alpha: float = 0.75
    score_threshold: float = 0.5
    recall_min_iou: float = 0.0
    center_unit: str = "size"
    reg_loss: str = "smooth_l1"

    def __call__(self, raw: RawOutputs, targets: Targets) -> Losses:
        """Raw outputs and ground truths -> losses, all over the number of positives (Eq. 4).

        Computed in float32, whatever precision the network ran in.
        """
        with torch.autocast(raw.logits.device.type, enabled=False):
            assigned, recalled = self.assign(raw, targets)
            image, anchor = (assigned >= 0).nonzero(as_tuple=True)
            gt = assigned[image, anchor]
            gt_boxes = targets.boxes[image, gt]
            anchors, deltas = raw.anchors[anchor], raw.deltas[image, anchor].float()

            labels = assigned.clamp(max=-1)
            labels[image, anchor] = targets.labels[image, gt]
            classification = focal_loss(raw.logits.flatten(0, 1), labels.flatten()).view_as(labels)
            weighted = classification[image, anchor]
            if self.dc:
                weighted = weighted * self.coefficient(deltas, anchors, gt_boxes, raw.strides[anchor], weighted)
            regression = self.regression(deltas, anchors, gt_boxes)

            count = max(len(gt), 1)
            background = classification.sum() - classification[image, anchor].sum()
            return Losses(
                (weighted.sum() + background) / count, regression.sum() / count, torch.tensor(len(gt)), recalled
            )

    @torch.no_grad()
    def assign(self, raw: RawOutputs, targets: Targets) -> tuple[Tensor, Tensor]:
        """Each anchor's ground truth [N, A] (-1 background, -2 ignored), and how many anchors IAC recalled."""
        matches = match(raw.anchors, targets.boxes)
        plain = assigned = assign_from(matches)
        if self.iac:
            prob = at_matched_class(raw.logits, targets.labels, matches).float().sigmoid()
            score = match_score(matches, raw.anchors, targets.boxes, prob, alpha=self.alpha)
            assigned = recall(
                plain,
                matches,
                score,
                score_threshold=self.score_threshold,
                recall_min_iou=self.recall_min_iou,
            )
        recalled = ((assigned >= 0) & (plain < 0)).sum()
        return ignore_regions(assigned, raw.anchors, targets.ignored), recalled

    @torch.no_grad()
    def coefficient(self, deltas: Tensor, anchors: Tensor, gt_boxes: Tensor, strides: Tensor, loss: Tensor) -> Tensor:
        """DC's weight lambda' of each positive anchor's classification loss (Eq. 2 and 3)."""
        unit = center_unit(self.center_unit, gt_boxes, strides)
        return normalize_coefficient(dynamic_coefficient(decode(deltas, anchors), gt_boxes, unit=unit), loss)

    def regression(self, deltas: Tensor, anchors: Tensor, gt_boxes: Tensor) -> Tensor:
        """The box loss [P] of each positive anchor."""
        if self.reg_loss == "giou":
            return giou_loss(decode(deltas, anchors), gt_boxes)
        return smooth_l1(deltas, encode(gt_boxes, anchors), beta=1 / 9)
