"""Input of the losses: ground truths, the assignment of anchors to them, and the positive anchors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cledet.models.network import RawOutputs
from cledet.ops.box_coder import CODERS
from cledet.ops.boxes import elementwise_iou


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
    weight: Tensor | None = None  # [N, A] weights of the positives' losses, if recalled anchors fade in


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
    iou: Tensor  # [P] of boxes and gt_boxes, without gradient
    quality: Tensor  # [P] target scores: those of the assignment, else the IoU
    labels: Tensor  # [P] int64 class of the ground truth
    recalled: Tensor  # [P] bool, positive by IAC only
    weight: Tensor | None  # [P] of the losses; None for 1
    flat_index: Tensor  # [P] int64 in the N * A anchors of the batch, ascending


def positives(raw: RawOutputs, targets: Targets, assignment: Assignment) -> Positives:
    """Gather the positive anchors of all images, image by image, in the order of the anchors."""
    index = (assignment.gt.flatten() >= 0).nonzero().squeeze(1)
    image = index.div(len(raw.anchors), rounding_mode="floor")
    anchor, gt = index - image * len(raw.anchors), assignment.gt.flatten()[index]
    gt_boxes, code = targets.boxes[image, gt], raw.deltas.flatten(0, 1)[index].float()
    anchors, strides = raw.anchors[anchor], raw.strides[anchor]
    boxes = CODERS[raw.coder](code, anchors, strides)
    iou = elementwise_iou(boxes.detach(), gt_boxes)
    return Positives(
        image=image,
        anchor=anchor,
        gt=gt,
        gt_boxes=gt_boxes,
        anchors=anchors,
        strides=strides,
        code=code,
        boxes=boxes,
        iou=iou,
        quality=iou if assignment.quality is None else assignment.quality.flatten()[index],
        labels=targets.labels[image, gt],
        recalled=assignment.recalled.flatten()[index],
        weight=None if assignment.weight is None else assignment.weight.flatten()[index],
        flat_index=index,
    )


def rows_of(pos: Positives) -> Positives:
    """Return the positives as the only rows of a loss of their own."""
    return pos._replace(flat_index=torch.arange(len(pos.flat_index), device=pos.flat_index.device))
