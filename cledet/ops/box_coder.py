"""Codes of boxes: what the regression branch predicts about each anchor, and the boxes that it means.

Deltas (R-CNN coding, all weights 1) move and stretch an anchor; distances go from its centre to the four sides, as
numbers (sides) or each as a distribution.
"""

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


def encode_distances(gt_boxes: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Distances (left, top, right, bottom) [..., 4] in strides [...] from the anchors' centres to the boxes' sides.

    Negative where the centre lies outside. Source: Tian et al., "FCOS" (arXiv 1904.01355), Eq. 1.
    """
    points, boxes = centers(anchors), upcast(gt_boxes)
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1) / strides[..., None]


def decode_sides(code: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Boxes [..., 4] at distances (left, top, right, bottom) [..., 4], in strides [...], from centres of anchors."""
    points, distances = centers(anchors), upcast(code) * strides[..., None]
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def decode_distances(code: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Boxes [..., 4] at the expected distances from the centres of anchors [..., 4], in strides [...].

    code [..., 4 * (n + 1)]: side by side the logits of a distance's distribution over 0, 1, ... n. Source: Li et al.,
    "Generalized Focal Loss" (arXiv 2006.04388), Eq. 5.
    """
    return decode_sides(expectation(distributions(code)), anchors, strides)


def distributions(code: Tensor) -> Tensor:
    """The logits [..., 4, n + 1] of the four distances' distributions in code [..., 4 * (n + 1)]."""
    return upcast(code).unflatten(-1, (4, -1))


def expectation(logits: Tensor) -> Tensor:
    """The expected value [...] of distributions over 0, 1, ... n, given by their logits [..., n + 1]."""
    values = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(-1) * values).sum(-1)


def _sides(boxes: Tensor) -> Tensor:
    """Width and height [..., 2], at least a millionth of a pixel."""
    boxes = upcast(boxes)
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)


CODERS = {
    "deltas": lambda code, anchors, strides: decode(code, anchors),
    "distances": decode_distances,
    "sides": decode_sides,
}
"""Boxes [..., 4] from a code [..., K], anchors [..., 4] and the strides [...] of their levels."""
