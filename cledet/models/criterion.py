"""The training objective: assignment and losses of a whole batch, with the paper's DC and IAC where they enter.

Apart from the network, as in DETR: the network says what it sees, the criterion says how wrong that is. The choices of
assignment and losses are tables at the end: a row of each makes RetinaNet, another row of each makes GFL.
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
    """What each of A anchors of N images answers for."""

    gt: Tensor  # [N, A] int64 index of its ground truth, -1 background, -2 ignored
    recalled: Tensor  # [N, A] bool whether it is positive by IAC only
    quality: Tensor | None = None  # [N, A] what the positives' scores should be, where the assignment says so

    def weights(self) -> Tensor:
        """What each anchor [N, A] counts for: a positive its quality, 1 if there is none said; another 0."""
        positive = self.gt >= 0
        return positive.long() if self.quality is None else self.quality * positive


class Positives(NamedTuple):
    """The P anchors of a batch that answer for an object, what the network says there, and what is true."""

    image: Tensor  # [P] int64
    anchor: Tensor  # [P] int64
    gt: Tensor  # [P] int64
    gt_boxes: Tensor  # [P, 4]
    anchors: Tensor  # [P, 4]
    strides: Tensor  # [P]
    code: Tensor  # [P, K] float32
    boxes: Tensor  # [P, 4] what the code means
    quality: Tensor  # [P] what the scores should be: IoU of these with the ground truths, or what the assignment says


class Losses(NamedTuple):
    """What a step is trained on, and what is worth logging about it."""

    classification: Tensor  # scalar
    regression: Tensor  # scalar; centerness's loss is part of it
    positives: Tensor  # positive anchors of the batch
    recalled: Tensor  # those of them that IAC recalled
    coefficient: Tensor  # mean over the positives of what multiplied their loss: DC's lambda', else 1; nan: none
    spread: Tensor  # its standard deviation
    n: Tensor  # Eq. 4's N, over all processes; what the losses are divided by, or by 1 if it is less


AS_PRINTED = IACOptions()
"""IAC as the paper writes it."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Classification and box regression of the anchors, with or without DC (Eq. 2-4) and IAC (Eq. 5-7).

    As it stands, RetinaNet with both; `assignment="atss", cls_loss="qfl", reg_loss="dfl", iac=None` is GFL with DC, and
    `assignment="fcos", reg_loss="giou", iac=None` of a network that says centerness is FCOS with DC.
    """

    iac: IACOptions | None = AS_PRINTED
    dc: bool = True
    assignment: str = "iou"
    cls_loss: str = "focal"
    reg_loss: str = "smooth_l1"
    normalizer: str = "positives"
    center_unit: str = "size"
    center_sampling: float = 1.5
    total: Callable[[Tensor], Tensor] = Tensor.detach
    """Adds up what `processes` processes hold of a batch, the mean of whose losses is then that of the batch."""
    processes: int = 1

    def __call__(self, raw: RawOutputs, targets: Targets) -> Losses:
        """Raw outputs and ground truths -> losses, over the number of positives (Eq. 4).

        The boxes' is over the sum of their weights, where they have any; a classification loss that is a mean already
        is left as it is. Computed in float32, whatever precision the network ran in.
        """
        with torch.autocast(raw.logits.device.type, enabled=False):
            assigned = self.assign(raw, targets)
            found = positives(raw, targets, assigned)
            classification = self.classification(raw, targets, assigned, found)
            positive = classification[found.image, found.anchor]
            weight = self.weight(found, positive)
            background = classification.sum() - positive.sum()

            n = self.total(NORMALIZERS[self.normalizer](assigned))
            share = torch.ones_like(n) if CLS_LOSSES[self.cls_loss].is_mean else n
            return Losses(
                classification=((weight * positive).sum() + background) / self.divisor(share),
                regression=self.regression(raw, assigned, found, n),
                positives=(assigned.gt >= 0).sum(),
                recalled=assigned.recalled.sum(),
                coefficient=weight.mean(),
                spread=(weight - weight.mean()).square().mean().sqrt(),
                n=n,
            )

    @torch.no_grad()
    def assign(self, raw: RawOutputs, targets: Targets) -> Assignment:
        """What each anchor answers for, and which of them are ignored."""
        found = ASSIGNMENTS[self.assignment](self, raw, targets)
        return found._replace(gt=ignore_regions(found.gt, raw.anchors, targets.ignored))

    def classification(self, raw: RawOutputs, targets: Targets, assigned: Assignment, found: Positives) -> Tensor:
        """The classification loss [N, A] of every anchor, without DC and not yet divided."""
        labels = assigned.gt.clamp(max=-1)
        labels[found.image, found.anchor] = targets.labels[found.image, found.gt]
        loss = CLS_LOSSES[self.cls_loss].loss
        return loss(raw.logits.flatten(0, 1), labels.flatten(), found.quality, self.total).view_as(labels)

    def regression(self, raw: RawOutputs, assigned: Assignment, found: Positives, n: Tensor) -> Tensor:
        """The boxes' loss of the batch, and where the network says centerness that of it, which is over N."""
        loss, share = REG_LOSSES[self.reg_loss](found), n
        if (weight := self.box_weight(raw, assigned, found)) is not None:
            loss, share = loss * weight, self.total(weight.sum())
        boxes = loss.sum() / self.divisor(share)
        if raw.centerness is None:
            return boxes
        said = raw.centerness[found.image, found.anchor].float()
        true = centerness(encode_distances(found.gt_boxes, found.anchors, found.strides))
        return boxes + binary_cross_entropy_with_logits(said, true, reduction="sum") / self.divisor(n)

    def box_weight(self, raw: RawOutputs, assigned: Assignment, found: Positives) -> Tensor | None:
        """What weighs the positives' box losses [P]: the quality if the assignment says it, else as the loss does."""
        if assigned.quality is not None:
            return found.quality
        weigh = CLS_LOSSES[self.cls_loss].box_weight
        return weigh and weigh(raw.logits[found.image, found.anchor].detach(), found.quality)

    def divisor(self, total: Tensor) -> Tensor:
        """What this process divides a sum by, of which there is so much over all processes; at least 1 over all."""
        return total.clamp(min=1) / self.processes

    def weight(self, found: Positives, loss: Tensor) -> Tensor:
        """What multiplies each positive anchor's classification loss [P]: DC's coefficient, or 1."""
        return self.coefficient(found, loss) if self.dc else torch.ones_like(loss)

    @torch.no_grad()
    def coefficient(self, found: Positives, loss: Tensor) -> Tensor:
        """DC's weight lambda' of each positive anchor's classification loss (Eq. 2 and 3)."""
        unit = center_unit(self.center_unit, found.gt_boxes, found.strides)
        coefficient = dynamic_coefficient(found.boxes, found.gt_boxes, unit=unit)
        return normalize_coefficient(coefficient, loss, total=self.total)


def positives(raw: RawOutputs, targets: Targets, assigned: Assignment) -> Positives:
    """The positive anchors of all images, image by image, in the anchors' order."""
    image, anchor = (assigned.gt >= 0).nonzero(as_tuple=True)
    gt = assigned.gt[image, anchor]
    gt_boxes, code = targets.boxes[image, gt], raw.deltas[image, anchor].float()
    anchors, strides = raw.anchors[anchor], raw.strides[anchor]
    boxes = CODERS[raw.coder](code, anchors, strides)
    iou = elementwise_iou(boxes.detach(), gt_boxes)
    quality = iou if assigned.quality is None else assigned.quality[image, anchor]
    return Positives(image, anchor, gt, gt_boxes, anchors, strides, code, boxes, quality)


def _by_iou(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """RetinaNet's assignment, and where IAC is on what it recalls by its score (Eq. 5-7)."""
    matches = match(raw.anchors, targets.boxes)
    gt = assign_from(matches)
    if criterion.iac is None:
        return _without_iac(gt)
    prob = at_matched_class(raw.logits, targets.labels, matches).float().sigmoid()
    extra = recalled(gt, matches, raw.anchors, targets.boxes, prob, criterion.iac)
    return Assignment(torch.where(extra, matches.gt, gt), extra)


def _by_atss(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """ATSS with 9 candidates on a level, of each of a place's anchors."""
    return _without_iac(assign_atss(raw.anchors, targets.boxes, raw.levels, count=9 * raw.per_position))


def _by_fcos(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """FCOS's own assignment of points."""
    return _without_iac(assign_fcos(raw.anchors, targets.boxes, raw.strides, radius=criterion.center_sampling))


def _by_tal(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """TOOD's assignment by what the network says, and what its scores should be."""
    gt, quality = assign_tal(raw.anchors, raw.boxes(), raw.logits, targets.boxes, targets.labels)
    return _without_iac(gt)._replace(quality=quality)


def _by_paa(criterion: Criterion, raw: RawOutputs, targets: Targets) -> Assignment:
    """PAA: of the anchors that overlap an object by a tenth those of low focal loss + 1.3 GIoU loss."""
    gt = assign_from(match(raw.anchors, targets.boxes), fg_threshold=0.1, bg_threshold=0.1)
    found = positives(raw, targets, _without_iac(gt))
    label = targets.labels[found.image, found.gt]
    loss = focal_loss(raw.logits[found.image, found.anchor], label) + 1.3 * giou_loss(found.boxes, found.gt_boxes)
    owner = found.image * targets.boxes.shape[1] + found.gt
    keep = choose_paa(loss, owner, found.strides.long(), count=9)
    gt[found.image[~keep], found.anchor[~keep]] = BACKGROUND
    return _without_iac(gt)


def _without_iac(gt: Tensor) -> Assignment:
    return Assignment(gt, torch.zeros_like(gt, dtype=torch.bool))


def _gfl_boxes(found: Positives) -> Tensor:
    """GFL's box loss [P]: 2 GIoU and 0.25 of the four sides' mean distribution focal loss (Li et al. 2020, Eq. 8)."""
    logits = distributions(found.code)
    most = logits.shape[-1] - 1.1  # as published: a tenth under the last bin
    target = encode_distances(found.gt_boxes, found.anchors, found.strides).clamp(0, most)
    return 2 * giou_loss(found.boxes, found.gt_boxes) + 0.25 * distribution_focal_loss(logits, target).mean(-1)


class ClassLoss(NamedTuple):
    """A classification loss and what goes with it."""

    loss: Callable[[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]
    """[M] of logits [M, C], labels [M], the positives' quality [P], and what adds up over processes."""
    box_weight: Callable[[Tensor, Tensor], Tensor] | None = None
    """What weighs the positives' box losses [P], from their logits [P, C] and quality [P]."""
    is_mean: bool = False
    """Whether its sum is a mean already, which Eq. 4's N does not divide."""


ASSIGNMENTS = {"iou": _by_iou, "atss": _by_atss, "fcos": _by_fcos, "paa": _by_paa, "tal": _by_tal}
"""What each anchor answers for, crowds not yet ignored."""
CLS_LOSSES = {
    "focal": ClassLoss(lambda logits, labels, quality, total: focal_loss(logits, labels)),
    "qfl": ClassLoss(
        lambda logits, labels, quality, total: quality_focal_loss(logits, labels, quality),
        box_weight=lambda logits, quality: logits.float().sigmoid().amax(-1),
    ),
    "varifocal": ClassLoss(
        lambda logits, labels, quality, total: varifocal_loss(logits, labels, quality),
        box_weight=lambda logits, quality: quality,
    ),
    "ghm": ClassLoss(lambda logits, labels, quality, total: ghm_loss(logits, labels, total=total), is_mean=True),
}
REG_LOSSES: dict[str, Callable[[Positives], Tensor]] = {
    "smooth_l1": lambda found: smooth_l1(found.code, encode(found.gt_boxes, found.anchors), beta=1 / 9),
    "giou": lambda found: giou_loss(found.boxes, found.gt_boxes),
    "diou": lambda found: diou_loss(found.boxes, found.gt_boxes),
    "ciou": lambda found: ciou_loss(found.boxes, found.gt_boxes),
    "dfl": _gfl_boxes,
}
"""The box loss [P] of each positive anchor."""
NORMALIZERS = {
    "positives": lambda assigned: assigned.weights().sum(),
    "matched": lambda assigned: (assigned.weights() * ~assigned.recalled).sum(),
}
"""What N, by which Eq. 4 divides, counts: all positives, or those by IoU only; each as its quality, if said."""
