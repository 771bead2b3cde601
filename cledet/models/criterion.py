"""The training criterion: assignment and losses of a batch, with the paper's DC and IAC.

The network and the criterion are separate, as in DETR. The assignments and losses to choose from are the tables at the
end: one row of each makes RetinaNet, another row of each makes GFL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cledet.components.dc import center_unit, dynamic_coefficient, normalize_coefficient
from cledet.components.iac import IACOptions, at_matched_class, recalled
from cledet.models.network import RawOutputs
from cledet.ops.assigners.atss import assign_atss
from cledet.ops.assigners.fcos import assign_fcos, centerness
from cledet.ops.assigners.max_iou import BACKGROUND, assign_from, ignore_regions, match
from cledet.ops.assigners.paa import choose_paa
from cledet.ops.assigners.tal import assign_tal
from cledet.ops.box_coder import CODERS, distributions, encode, encode_distances
from cledet.ops.boxes import elementwise_iou
from cledet.ops.losses import (
    ciou_loss,
    diou_loss,
    distribution_focal_loss,
    focal_loss,
    ghm_loss,
    giou_loss,
    quality_focal_loss,
    smooth_l1,
    varifocal_loss,
)


class Targets(NamedTuple):
    """Ground truths of N images, padded with zero boxes, which match no anchor."""

    boxes: Tensor  # [N, G, 4] pixels of the network's input
    labels: Tensor  # [N, G] int64
    ignored: Tensor  # [N, K, 4] crowds and difficult objects: neither objects nor background


class Assignment(NamedTuple):
    """Anchor-to-ground-truth assignment for N images."""

    gt: Tensor  # [N, A] int64 index of the ground truth, -1 background, -2 ignored
    recalled: Tensor  # [N, A] bool, positive by IAC only
    quality: Tensor | None = None  # [N, A] target scores of the positives, if the assignment sets them


class Positives(NamedTuple):
    """Positive anchors of a batch with their predictions and ground truths."""

    image: Tensor  # [P] int64
    anchor: Tensor  # [P] int64
    gt: Tensor  # [P] int64
    gt_boxes: Tensor  # [P, 4]
    anchors: Tensor  # [P, 4]
    strides: Tensor  # [P]
    code: Tensor  # [P, K] float32
    boxes: Tensor  # [P, 4] decoded from the code
    quality: Tensor  # [P] target scores: those of the assignment, else the IoU of boxes and gt_boxes
    labels: Tensor  # [P] int64 class of the ground truth
    recalled: Tensor  # [P] bool, positive by IAC only
    flat_index: Tensor  # [P] int64 in the N * A anchors of the batch, ascending


class Losses(NamedTuple):
    """Losses of a training step, and statistics for the log."""

    classification: Tensor  # scalar
    regression: Tensor  # scalar; includes the centerness loss
    positives: Tensor  # number of positive anchors
    recalled: Tensor  # number of positives by IAC only
    coefficient: Tensor  # mean over the positives of DC's lambda', 1 without DC; nan without positives
    spread: Tensor  # standard deviation of the coefficient
    n: Tensor  # Eq. 4's N over all processes; the losses are divided by max(n, 1)


AS_PRINTED = IACOptions()
"""IAC as printed in the paper."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Classification and box regression losses, with or without DC (Eq. 2-4) and IAC (Eq. 5-7).

    The defaults are RetinaNet with both. `assignment="atss", cls_loss="qfl", reg_loss="dfl", iac=None` is GFL with DC;
    `assignment="fcos", reg_loss="giou", iac=None` with a network that predicts centerness is FCOS with DC.
    """

    iac: IACOptions | None = AS_PRINTED
    dc: bool = True
    assignment: str = "iou"
    cls_loss: str = "focal"
    reg_loss: str = "smooth_l1"
    normalizer: str = "positives"
    center_unit: str = "size"
    center_sampling: float = 1.5
    class_weights: Tensor | None = None
    """[C] factors of the positives' classification loss, by the class of their ground truth; None for 1."""
    total: Callable[[Tensor], Tensor] = Tensor.detach
    """Sums a tensor over `processes` processes; the mean of their losses is then the loss of the whole batch."""
    processes: int = 1

    def __call__(self, raw: RawOutputs, targets: Targets) -> Losses:
        """Compute the losses, divided by the number of positives (Eq. 4), in float32 under autocast too.

        A weighted box loss is divided by the sum of its weights instead. A classification loss that is already a mean
        is not divided.

        A class weight multiplies the classification loss of a positive anchor over all its classes, as in the
        class-balanced loss (Cui et al., arXiv 1901.05555). Background has no class, so no weight. DC's coefficient is
        normalized on the weighted losses, so it keeps their sum.
        """
        with torch.autocast(raw.logits.device.type, enabled=False):
            assignment = self.assign(raw, targets)
            pos = positives(raw, targets, assignment)
            classification = self.classification(raw, assignment, pos)
            pos_loss = classification.flatten()[pos.flat_index]
            background = classification.sum() - pos_loss.sum()
            if self.class_weights is not None:
                pos_loss = pos_loss * self.class_weights[pos.labels]
            weight = self.coefficient(pos, pos_loss) if self.dc else torch.ones_like(pos_loss)

            n_weights = torch.ones_like(pos.gt) if assignment.quality is None else pos.quality
            n = self.total(NORMALIZERS[self.normalizer](n_weights, pos))
            share = torch.ones_like(n) if CLS_LOSSES[self.cls_loss].is_mean else n
            return Losses(
                classification=((weight * pos_loss).sum() + background) / self.divisor(share),
                regression=self.regression(raw, assignment, pos, n),
                positives=pos.flat_index.new_full((), len(pos.flat_index)),
                recalled=pos.recalled.sum(),
                coefficient=weight.mean(),
                spread=(weight - weight.mean()).square().mean().sqrt(),
                n=n,
            )

    @torch.no_grad()
    def assign(self, raw: RawOutputs, targets: Targets) -> Assignment:
        """Assign the anchors to the ground truths, and ignore those in ignored regions."""
        assignment = ASSIGNMENTS[self.assignment](self, raw, targets)
        return assignment._replace(gt=ignore_regions(assignment.gt, raw.anchors, targets.ignored))

    def classification(self, raw: RawOutputs, assignment: Assignment, pos: Positives) -> Tensor:
        """Compute the classification loss [N, A] of every anchor, without DC and before the division by N."""
        labels = assignment.gt.clamp(max=-1).flatten()
        labels[pos.flat_index] = pos.labels
        loss = CLS_LOSSES[self.cls_loss].loss(raw.logits.flatten(0, 1), labels, pos, self.total)
        return loss.view_as(assignment.gt)

    def regression(self, raw: RawOutputs, assignment: Assignment, pos: Positives, n: Tensor) -> Tensor:
        """Compute the box loss of the batch, plus the centerness loss if the network predicts centerness."""
        loss, share = REG_LOSSES[self.reg_loss](pos), n
        if (weight := self.box_weight(raw, assignment, pos)) is not None:
            loss, share = loss * weight, self.total(weight.sum())
        boxes = loss.sum() / self.divisor(share)
        if raw.centerness is None:
            return boxes
        logits = raw.centerness.flatten()[pos.flat_index].float()
        target = centerness(encode_distances(pos.gt_boxes, pos.anchors, pos.strides))
        return boxes + binary_cross_entropy_with_logits(logits, target, reduction="sum") / self.divisor(n)

    def box_weight(self, raw: RawOutputs, assignment: Assignment, pos: Positives) -> Tensor | None:
        """Return the weights [P] of the box losses, from the assignment or the classification loss; None for none."""
        if assignment.quality is not None:
            return pos.quality
        box_weight = CLS_LOSSES[self.cls_loss].box_weight
        return box_weight and box_weight(raw.logits.detach().flatten(0, 1)[pos.flat_index], pos.quality)

    def divisor(self, total: Tensor) -> Tensor:
        """Return this process's divisor of a sum: the total over all processes, at least 1, shared among them."""
        return total.clamp(min=1) / self.processes

    @torch.no_grad()
    def coefficient(self, pos: Positives, loss: Tensor) -> Tensor:
        """Compute DC's coefficient lambda' [P] of each positive anchor (Eq. 2 and 3)."""
        unit = center_unit(self.center_unit, pos.gt_boxes, pos.strides)
        coefficient = dynamic_coefficient(pos.boxes, pos.gt_boxes, unit=unit)
        return normalize_coefficient(coefficient, loss, total=self.total)


def positives(raw: RawOutputs, targets: Targets, assignment: Assignment) -> Positives:
    """Gather the positive anchors of all images, image by image, in the order of the anchors."""
    index = (assignment.gt.flatten() >= 0).nonzero().squeeze(1)
    image = index.div(len(raw.anchors), rounding_mode="floor")
    anchor, gt = index - image * len(raw.anchors), assignment.gt.flatten()[index]
    gt_boxes, code = targets.boxes[image, gt], raw.deltas.flatten(0, 1)[index].float()
    anchors, strides = raw.anchors[anchor], raw.strides[anchor]
    boxes = CODERS[raw.coder](code, anchors, strides)
    if assignment.quality is None:
        quality = elementwise_iou(boxes.detach(), gt_boxes)
    else:
        quality = assignment.quality.flatten()[index]
    labels, by_score = targets.labels[image, gt], assignment.recalled.flatten()[index]
    return Positives(image, anchor, gt, gt_boxes, anchors, strides, code, boxes, quality, labels, by_score, index)


def _by_iou(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """Assign by IoU as RetinaNet does, plus the anchors that IAC recalls by score (Eq. 5-7)."""
    matches = match(raw.anchors, targets.boxes)
    gt = assign_from(matches)
    if criterion.iac is None:
        return _without_iac(gt)
    prob = at_matched_class(raw.logits, targets.labels, matches).float().sigmoid()
    by_score = recalled(gt, matches, raw.anchors, targets.boxes, prob, criterion.iac)
    return Assignment(torch.where(by_score, matches.gt, gt), by_score)


def _by_atss(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """Assign by ATSS with 9 candidates per level and anchor of a position."""
    return _without_iac(assign_atss(raw.anchors, targets.boxes, raw.levels, count=9 * raw.per_position))


def _by_fcos(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """Assign the anchors' centres by FCOS."""
    return _without_iac(assign_fcos(raw.anchors, targets.boxes, raw.strides, radius=criterion.center_sampling))


def _by_tal(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """Assign by TOOD's task alignment, which also sets the target scores."""
    gt, quality = assign_tal(raw.anchors, raw.boxes(), raw.logits, targets.boxes, targets.labels)
    return _without_iac(gt)._replace(quality=quality)


def _by_paa(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """Assign by PAA among the anchors of IoU at least 0.1, on focal loss + 1.3 * GIoU loss."""
    gt = assign_from(match(raw.anchors, targets.boxes), fg_threshold=0.1, bg_threshold=0.1)
    pos = positives(raw, targets, _without_iac(gt))
    logits, every = raw.logits.flatten(0, 1)[pos.flat_index], torch.arange(len(pos.flat_index), device=gt.device)
    loss = focal_loss(logits, pos.labels, rows=every) + 1.3 * giou_loss(pos.boxes, pos.gt_boxes)
    gt_index = pos.image * targets.boxes.shape[1] + pos.gt
    keep = choose_paa(loss, gt_index, pos.strides.long(), count=9)
    gt.view(-1)[pos.flat_index] = torch.where(keep, pos.gt, BACKGROUND)
    return _without_iac(gt)


def _without_iac(gt: Tensor) -> Assignment:
    return Assignment(gt, torch.zeros_like(gt, dtype=torch.bool))


def _gfl_boxes(pos: Positives) -> Tensor:
    """Compute GFL's box loss [P]: 2 * GIoU + 0.25 * mean DFL of the four sides (Li et al. 2020, Eq. 8)."""
    logits = distributions(pos.code)
    most = logits.shape[-1] - 1.1  # as published: 0.1 below the last bin
    target = encode_distances(pos.gt_boxes, pos.anchors, pos.strides).clamp(0, most)
    return 2 * giou_loss(pos.boxes, pos.gt_boxes) + 0.25 * distribution_focal_loss(logits, target).mean(-1)


class ClassLoss(NamedTuple):
    """A classification loss and its reduction."""

    loss: Callable[[Tensor, Tensor, Positives, Callable[[Tensor], Tensor]], Tensor]
    """Loss [M] of logits [M, C], labels [M], the positives, and a sum over processes."""
    box_weight: Callable[[Tensor, Tensor], Tensor] | None = None
    """Weights of the positives' box losses [P], from their logits [P, C] and quality [P]."""
    is_mean: bool = False
    """True if the sum of the loss is already a mean, which is not divided by Eq. 4's N."""


ASSIGNMENTS = {"iou": _by_iou, "atss": _by_atss, "fcos": _by_fcos, "paa": _by_paa, "tal": _by_tal}
"""Assignments of the anchors, before regions are ignored."""
CLS_LOSSES = {
    "focal": ClassLoss(lambda logits, labels, pos, total: focal_loss(logits, labels, rows=pos.flat_index)),
    "qfl": ClassLoss(
        lambda logits, labels, pos, total: quality_focal_loss(logits, labels, pos.quality, rows=pos.flat_index),
        box_weight=lambda logits, quality: logits.float().sigmoid().amax(-1),
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
