"""Arithmetic of `xyxy` boxes in pixels; half and integer inputs are computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(values: Tensor) -> Tensor:
    """Cast the values to float32, unless they are float64."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def area(boxes: Tensor) -> Tensor:
    """Compute the area [...] of boxes [..., 4] in square pixels, 0 for a box with swapped corners."""
    x1, y1, x2, y2 = upcast(boxes).unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def centers(boxes: Tensor) -> Tensor:
    """Compute the centre points [..., 2] as (x, y) of boxes [..., 4]."""
    boxes = upcast(boxes)
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def contains(boxes: Tensor, points: Tensor) -> Tensor:
    """Test whether points [..., 2] as (x, y) lie in boxes [..., 4] or on their edge, row by row, with broadcasting."""
    boxes, points = upcast(boxes), upcast(points)
    return ((points >= boxes[..., :2]) & (points <= boxes[..., 2:])).all(-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes [..., 4] to an image of size (height, width); the dtype stays."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], -1)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Compute the intersection area [...] in square pixels of boxes [..., 4], row by row, with broadcasting."""
    ax1, ay1, ax2, ay2 = upcast(a).unbind(-1)
    bx1, by1, bx2, by2 = upcast(b).unbind(-1)
    width = torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)
    height = torch.minimum(ay2, by2) - torch.maximum(ay1, by1)
    return width.clamp(min=0) * height.clamp(min=0)


def elementwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the IoU [...] of boxes [..., 4], row by row, with broadcasting.

    A box without area has IoU 0 with every box, itself included. The order of the sums is that of torchvision's
    kernels, so the two agree to the last bit.
    """
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the IoU [..., N, M] of all pairs of boxes a [..., N, 4] and b [..., M, 4], with broadcasting."""
    return elementwise_iou(a[..., :, None, :], b[..., None, :, :])


def box_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Compute the intersection area [..., N, M] of all pairs of boxes a [..., N, 4] and b [..., M, 4]."""
    return intersection(a[..., :, None, :], b[..., None, :, :])
