"""RetinaNet's assignment of anchors by highest IoU, and its parts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cledet.ops.boxes import area, box_intersection, box_iou

BACKGROUND = -1
IGNORED = -2


class Matches(NamedTuple):
    """Highest IoU of each of A anchors with the ground truths of its image.

    iou [..., A]; gt [..., A] int64, the index of that ground truth (ties: the lowest; 0 without overlap); best [..., A]
    bool, true if the anchor has the highest IoU of all anchors with some ground truth (ties included); top [..., G],
    the highest IoU of each ground truth with any anchor.
    """

    iou: Tensor
    gt: Tensor
    best: Tensor
    top: Tensor


def match(anchors: Tensor, gt_boxes: Tensor, chunk: int = 16) -> Matches:
    """Match anchors [A, 4] with gt_boxes [..., G, 4] by IoU, `chunk` ground truths at a time.

    The ground truths of a batch [N, G, 4] are padded with zero boxes, which match no anchor. Memory is N * A * chunk
    floats for any number of ground truths.
    """
    shape = (*gt_boxes.shape[:-2], len(anchors))
    iou = torch.zeros(shape, device=anchors.device)
    gt = torch.zeros(shape, dtype=torch.int64, device=anchors.device)
    best = torch.zeros(shape, dtype=torch.bool, device=anchors.device)
    tops: list[Tensor] = [torch.zeros((*gt_boxes.shape[:-2], 0), device=anchors.device)]
    starts = range(0, gt_boxes.shape[-2], chunk) if len(anchors) else ()
    for start in starts:
        overlap = box_iou(gt_boxes[..., start : start + chunk, :], anchors).float()
        top = overlap.amax(-1, keepdim=True)
        tops.append(top.squeeze(-1))
        best |= (overlap >= torch.where(top > 0, top, torch.inf)).any(-2)
        highest, index = overlap.max(-2)
        gt = torch.where(highest > iou, index + start, gt)
        iou = torch.maximum(highest, iou)
    return Matches(iou, gt, best, torch.cat(tops, -1))


def assign_from(matches: Matches, *, fg_threshold: float = 0.5, bg_threshold: float = 0.4) -> Tensor:
    """Assign anchors by IoU: [..., A] int64, the ground truth's index, -1 background, -2 ignored.

    An anchor is positive if its IoU is at least fg_threshold, background if it is below bg_threshold, ignored between.
    The best anchors of every ground truth are positive at any IoU. A positive anchor is assigned to the ground truth
    that it overlaps most.
    """
    positive = (matches.iou >= fg_threshold) | matches.best
    otherwise = torch.where(matches.iou < bg_threshold, BACKGROUND, IGNORED)
    return torch.where(positive, matches.gt, otherwise)


def assign_max_iou(
    anchors: Tensor, gt_boxes: Tensor, *, fg_threshold: float = 0.5, bg_threshold: float = 0.4
) -> Tensor:
    """Assign anchors [A, 4] to gt_boxes [..., G, 4] by IoU: [..., A] int64, see `assign_from`.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (arXiv 1708.02002), section 4.
    """
    return assign_from(match(anchors, gt_boxes), fg_threshold=fg_threshold, bg_threshold=bg_threshold)


def ignore_regions(
    assignment: Tensor, anchors: Tensor, ignored_boxes: Tensor, threshold: float = 0.5, chunk: int = 16
) -> Tensor:
    """Ignore the background anchors that lie in an ignored region (crowds, difficult objects).

    assignment [..., A], anchors [A, 4], ignored_boxes [..., K, 4] padded with zero boxes. An anchor lies in a region
    that covers more than `threshold` of the anchor's area.
    """
    inside = torch.zeros_like(assignment, dtype=torch.bool)
    for start in range(0, ignored_boxes.shape[-2], chunk):
        shared = box_intersection(ignored_boxes[..., start : start + chunk, :], anchors)
        inside |= (shared > threshold * area(anchors)).any(-2)
    return assignment.masked_fill(inside & (assignment == BACKGROUND), IGNORED)
