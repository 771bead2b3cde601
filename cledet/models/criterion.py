"""The training criterion: assignment and losses of a batch, with the paper's DC and IAC.

The network and the criterion are separate, as in DETR. The table of assignments is at the end, those of losses are in
losses.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cledet.components.dc import COEFFICIENTS, center_unit, normalize_coefficient
from cledet.components.iac import IACOptions, at_matched_class, recalled
from cledet.models.assignment import Assignment, Positives, Targets, positives, rows_of
from cledet.models.losses import CLS_LOSSES, NORMALIZERS, REG_LOSSES
from cledet.models.network import RawOutputs
from cledet.models.signatures import signatures
from cledet.ops.assigners.atss import assign_atss
from cledet.ops.assigners.fcos import assign_fcos, centerness
from cledet.ops.assigners.max_iou import BACKGROUND, assign_from, ignore_regions, match
from cledet.ops.assigners.paa import choose_paa
from cledet.ops.assigners.tal import assign_tal
from cledet.ops.box_coder import encode_distances
from cledet.ops.losses import correlation_loss, focal_loss, giou_loss


class Losses(NamedTuple):
    """Losses of a training step, and statistics for the log."""

    classification: Tensor  # scalar
    regression: Tensor  # scalar; includes the centerness loss
    positives: Tensor  # number of positive anchors
    recalled: Tensor  # number of positives by IAC only
    coefficient: Tensor  # mean over the positives of DC's lambda', 1 without DC; nan without positives
    spread: Tensor  # standard deviation of the coefficient
    coefficient_iou: Tensor  # this and the following are explained in `signatures.SIGNATURES`
    matched_iou: Tensor
    recalled_iou: Tensor
    recalled_box: Tensor
    compact_positives: Tensor
    elongated_positives: Tensor
    compact: Tensor  # number of compact objects
    elongated: Tensor  # number of elongated objects
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
    dc_form: str = "as-printed"
    """A key of COEFFICIENTS."""
    dc_scope: str = "row"
    """DC weights the loss of all classes of an anchor (row), or of its ground truth's class only (class)."""
    dc_balance: str = "batch"
    """Eq. 3 keeps the sum of the losses of the whole batch, or of each class (class)."""
    correlation: float = 0.0
    """Weight of the correlation loss."""
    center_sampling: float = 1.5
    class_weights: Tensor | None = None
    """[C] factors of the positives' classification loss, by the class of their ground truth; None for 1."""
    total: Callable[[Tensor], Tensor] = Tensor.detach
    """Sums a tensor over `processes` processes; the mean of their losses is then the loss of the whole batch."""
    processes: int = 1

    def __call__(self, raw: RawOutputs, targets: Targets) -> Losses:
        """Compute the losses, divided by the number of positives (Eq. 4), in float32 under autocast too.

        A weighted box loss is divided by the sum of its weights instead. A classification loss that is already a mean
        is not divided. A class weight multiplies the classification loss of a positive anchor over all its classes, as
        in the class-balanced loss (Cui et al., arXiv 1901.05555). Background has no class, so no weight. DC's
        coefficient is normalized on the weighted losses, so it keeps their sum.
        """
        with torch.autocast(raw.logits.device.type, enabled=False):
            assignment = self.assign(raw, targets)
            pos = positives(raw, targets, assignment)
            classification = self.classification(raw, assignment, pos)
            own = classification.flatten()[pos.flat_index]
            background = classification.sum() - own.sum()
            logits = raw.logits.flatten(0, 1)[pos.flat_index]
            pos_loss, weight = self.weigh(self.of_recalled(own, logits, pos), logits, pos)

            counted = torch.ones_like(pos.gt) if pos.weight is None else pos.weight
            counted = counted if assignment.quality is None else pos.quality
            n = self.total(NORMALIZERS[self.normalizer](counted, pos))
            share = torch.ones_like(n) if CLS_LOSSES[self.cls_loss].is_mean else n
            classification = (pos_loss.sum() + background) / self.divisor(share)
            if self.correlation:
                score = logits.gather(1, pos.labels[:, None]).squeeze(1).float().sigmoid()
                classification = classification + self.correlation * correlation_loss(score, pos.iou)
            regression, box_loss = self.regression(raw, assignment, pos, n)
            return Losses(
                classification=classification,
                regression=regression,
                positives=pos.flat_index.new_full((), len(pos.flat_index)),
                recalled=pos.recalled.sum(),
                coefficient=weight.mean(),
                spread=(weight - weight.mean()).square().mean().sqrt(),
                n=n,
                **signatures(pos, targets, weight if self.dc else None, box_loss),
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

    def of_recalled(self, loss: Tensor, logits: Tensor, pos: Positives) -> Tensor:
        """Apply IAC's soft target and fading, and class weights, to the losses [P] of the positives' logits [P, C]."""
        if self.iac is not None and self.iac.soft_target:
            negative = focal_loss(logits, torch.full_like(pos.labels, BACKGROUND), rows=pos.flat_index[:0])
            loss = torch.where(pos.recalled, pos.iou * loss + (1 - pos.iou) * negative, loss)
        if pos.weight is not None:
            loss = loss * pos.weight
        return loss if self.class_weights is None else loss * self.class_weights[pos.labels]

    def weigh(self, loss: Tensor, logits: Tensor, pos: Positives) -> tuple[Tensor, Tensor]:
        """Weight the losses [P] of the positives' logits [P, C] by DC; returns them and the coefficient [P]."""
        if not self.dc:
            return loss, torch.ones_like(loss)
        if self.dc_scope == "row":
            weight = self.coefficient(pos, loss, logits.shape[1])
            return weight * loss, weight
        hot, rows = logits.gather(1, pos.labels[:, None]), rows_of(pos)
        own = CLS_LOSSES[self.cls_loss].loss(hot, torch.zeros_like(pos.labels), rows, self.total)
        own = self.of_recalled(own, hot, pos)
        weight = self.coefficient(pos, own, logits.shape[1])
        return loss + (weight - 1) * own, weight

    def regression(self, raw: RawOutputs, assignment: Assignment, pos: Positives, n: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of the box branch, with centerness if it is predicted, and the positives' box losses [P]."""
        loss, share = REG_LOSSES[self.reg_loss](pos), n
        if (weight := self.box_weight(raw, assignment, pos)) is not None:
            loss, share = loss * weight, self.total(weight.sum())
        boxes = loss.sum() / self.divisor(share)
        if raw.centerness is None:
            return boxes, loss
        logits = raw.centerness.flatten()[pos.flat_index].float()
        target = centerness(encode_distances(pos.gt_boxes, pos.anchors, pos.strides))
        entropy = binary_cross_entropy_with_logits(logits, target, reduction="sum")
        return boxes + entropy / self.divisor(n), loss

    def box_weight(self, raw: RawOutputs, assignment: Assignment, pos: Positives) -> Tensor | None:
        """Return the weights [P] of the box losses, from the assignment or the classification loss; None for none."""
        weight, box_weight = pos.weight, CLS_LOSSES[self.cls_loss].box_weight
        if self.iac is not None and not self.iac.box_loss:
            weight = (~pos.recalled).float()
        if assignment.quality is None and box_weight is None:
            return weight
        own = pos.quality
        if assignment.quality is None and box_weight is not None:
            own = box_weight(raw.logits.detach().flatten(0, 1)[pos.flat_index], pos.quality)
        return own if weight is None else own * weight

    def divisor(self, total: Tensor) -> Tensor:
        """Return this process's divisor of a sum: the total over all processes, at least 1, shared among them."""
        return total.clamp(min=1) / self.processes

    @torch.no_grad()
    def coefficient(self, pos: Positives, loss: Tensor, classes: int) -> Tensor:
        """Compute DC's coefficient lambda' [P] of each positive anchor (Eq. 2 and 3).

        pos has P anchors with labels below `classes`, and loss [P] their classification losses.
        """
        unit = center_unit(self.center_unit, pos.gt_boxes, pos.strides)
        coefficient = COEFFICIENTS[self.dc_form](pos.boxes, pos.gt_boxes, unit=unit)
        groups = None
        if self.dc_balance == "class":
            groups = pos.labels[:, None] == torch.arange(classes, device=pos.labels.device)
        return normalize_coefficient(coefficient, loss, groups=groups, total=self.total)


def _by_iou(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """Assign by IoU as RetinaNet does, plus the anchors that IAC recalls by score (Eq. 5-7)."""
    matches = match(raw.anchors, targets.boxes)
    gt = assign_from(matches)
    if criterion.iac is None:
        return _without_iac(gt)
    iac, prob = criterion.iac, at_matched_class(raw.logits, targets.labels, matches).float().sigmoid()
    boxes = raw.boxes() if iac.decoded else None
    by_score, score = recalled(gt, matches, raw.anchors, targets.boxes, prob, iac, boxes)
    excess = (score - iac.score_threshold) / max(1 - iac.score_threshold, 1e-6)
    weight = torch.where(by_score, excess, 1.0) if iac.fade else None
    return Assignment(torch.where(by_score, matches.gt, gt), by_score, weight=weight)


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


ASSIGNMENTS = {"iou": _by_iou, "atss": _by_atss, "fcos": _by_fcos, "paa": _by_paa, "tal": _by_tal}
"""Assignments of the anchors, before regions are ignored."""
