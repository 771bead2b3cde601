"""FCOS: points are assigned to the smallest ground truth that contains them and fits their level; and centerness."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cledet.ops.assigners.max_iou import BACKGROUND
from cledet.ops.box_coder import encode_distances
from cledet.ops.boxes import area, centers

SHORTEST, LONGEST = 4.0, 8.0
"""Range of a level's longest distance from point to side, in its strides."""


def assign_fcos(anchors: Tensor, gt_boxes: Tensor, strides: Tensor, *, radius: float = 1.5, chunk: int = 16) -> Tensor:
    """Assign the centres of anchors by FCOS: [N, A] int64, the ground truth's index or -1 background; none is ignored.

    anchors [A, 4]; gt_boxes [N, G, 4] padded with zero boxes; strides [A] of the anchors' levels. A point must lie in
    the ground truth, and within `radius` strides of its centre in x and in y (0 for no limit). Its longest distance to
    the four sides must be 4 to 8 strides; the lowest level has no lower limit, the highest no upper limit. Of several
    ground truths the one of smallest area is taken, ties by the lowest index. Memory is N * A * chunk floats.
    Source: Tian et al., "FCOS" (arXiv 1904.01355), sections 3.1 and 3.2; the radius came later.
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
    """Compute the centerness [...] of distances (l, t, r, b) [..., 4]: 1 in the middle, 0 on a side or outside.

        sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))

    Source: Tian et al., "FCOS" (arXiv 1904.01355), Eq. 3.
    """
    near, far = distances.clamp(min=0).unflatten(-1, (2, 2)).aminmax(dim=-2)
    return (near / far.clamp(min=torch.finfo(far.dtype).tiny)).prod(-1).sqrt()


def _fits(anchors: Tensor, boxes: Tensor, strides: Tensor, radius: float) -> Tensor:
    """Select the anchors [A, 4] that may be assigned to boxes [N, G, 1, 4]: bool [N, G, A]."""
    distances = encode_distances(boxes, anchors, strides)
    longest = distances.amax(-1)
    low = torch.where(strides == strides.min(), 0, SHORTEST)
    high = torch.where(strides == strides.max(), torch.inf, LONGEST)
    offset = (centers(anchors) - centers(boxes)).abs().amax(-1) / strides
    near = offset < (radius or math.inf)
    return (distances.amin(-1) > 0) & near & (longest >= low) & (longest <= high)
