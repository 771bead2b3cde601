"""Box deltas: what the regression branch predicts about each anchor (R-CNN coding, all weights 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cledet.ops.boxes import centers, upcast

MAX_LOG_SCALE = math.log(1000 / 16)
"""A decoded side is at most this many (in log) times its anchor's."""


def encode(gt_boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas (dx, dy, dw, dh) [..., 4] that turn anchors [..., 4] into gt_boxes [..., 4].

    dx, dy are centre shifts in units of the anchor's sides, dw, dh logarithms of the ratio of sides. Boxes or
    anchors without area give finite deltas. Source: Girshick et al., "Rich feature hierarchies" (arXiv
    1311.2524), appendix C.
    """
    gt_sides, anchor_sides = _sides(gt_boxes), _sides(anchors)
    shift = (centers(gt_boxes) - centers(anchors)) / anchor_sides
    return torch.cat([shift, torch.log(gt_sides / anchor_sides)], -1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [..., 4] that deltas [..., 4] make of anchors [..., 4], dw and dh cut at log(1000/16)."""
    deltas, anchors = upcast(deltas), upcast(anchors)
    sides = anchors[..., 2:] - anchors[..., :2]
    center = deltas[..., :2] * sides + centers(anchors)
    half = deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * sides / 2
    return torch.cat([center - half, center + half], -1)


def _sides(boxes: Tensor) -> Tensor:
    """Width and height [..., 2], at least a millionth of a pixel."""
    boxes = upcast(boxes)
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)
