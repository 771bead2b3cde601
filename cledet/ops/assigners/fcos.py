"""FCOS: a point answers for the smallest ground truth that it lies in and whose size its level is for.

And centerness, which says how near to the middle of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cledet.ops.assigners.max_iou import BACKGROUND
from cledet.ops.box_coder import encode_distances
from cledet.ops.boxes import area, centers

SHORTEST, LONGEST = 4.0, 8.0
"""A level's objects: the longest distance from point to side lies between so many of its strides."""


def assign_fcos(anchors: Tensor, gt_boxes: Tensor, strides: Tensor, *, radius: float = 1.5, chunk: int = 16) -> Tensor:
    """Assignment [N, A] int64: the ground truth's index, or -1 background; nothing is ignored.

    anchors [A, 4], of which only the centres count; gt_boxes [N, G, 4] padded with zero boxes; strides [A] of the
    anchors' levels. A point lies inside its ground truth, and nearer than `radius` strides to its centre, across and
    down (0: anywhere in it). The longest of its four distances to the sides is 4 to 8 strides, on the lowest level 0 to
    8, on the highest 4 or more. Of several the ground truth of smallest area, the first of equals. Memory is
    N * A * chunk floats. Source: Tian et al., "FCOS" (arXiv 1904.01355), sections 3.1 and 3.2; the radius came later.
    """
    smallest = torch.full((len(gt_boxes), len(anchors)), torch.inf, device=anchors.device)
    assigned = torch.full_like(smallest, BACKGROUND, dtype=torch.int64)
    for start in range(0, gt_boxes.shape[1], chunk):
        boxes = gt_boxes[:, start : start + chunk, None]
        fits = _fits(anchors, boxes, strides, radius)
        least, gt = torch.where(fits, area(boxes), torch.inf).min(1)
        assigned = torch.where(least < smallest, gt + start, assigned)
        smallest = torch.minimum(least, smallest)
    return assigned


def centerness(distances: Tensor) -> Tensor:
    """How central [...] a point lies, 1 in the middle, 0 on a side or outside; distances (l, t, r, b) [..., 4].

        sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))

    Source: Tian et al., "FCOS" (arXiv 1904.01355), Eq. 3.
    """
    near, far = distances.clamp(min=0).unflatten(-1, (2, 2)).aminmax(dim=-2)
    return (near / far.clamp(min=torch.finfo(far.dtype).tiny)).prod(-1).sqrt()


def _fits(anchors: Tensor, boxes: Tensor, strides: Tensor, radius: float) -> Tensor:
    """Which anchors [A, 4] may answer for boxes [N, G, 1, 4]: bool [N, G, A]."""
    distances = encode_distances(boxes, anchors, strides)
    longest = distances.amax(-1)
    low = torch.where(strides == strides.min(), 0, SHORTEST)
    high = torch.where(strides == strides.max(), torch.inf, LONGEST)
    off = (centers(anchors) - centers(boxes)).abs().amax(-1) / strides
    near = off < (radius or math.inf)
    return (distances.amin(-1) > 0) & near & (longest >= low) & (longest <= high)
