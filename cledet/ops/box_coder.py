"""Box coders: the regression branch's outputs relative to an anchor, and the boxes that they encode.

Deltas (R-CNN coding, all weights 1) shift and scale an anchor. Distances run from its centre to the four sides of the
box, each as a number ("sides") or as a distribution ("distances").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cledet.ops.boxes import centers, upcast

MAX_LOG_SCALE = math.log(1000 / 16)
"""Largest logarithm of a decoded side over its anchor's side."""


def encode(gt_boxes: Tensor, anchors: Tensor) -> Tensor:
    """Encode gt_boxes [..., 4] as deltas (dx, dy, dw, dh) [..., 4] relative to anchors [..., 4].

    dx, dy are centre shifts in units of the anchor's sides, dw, dh logarithms of the ratio of sides. Boxes or
    anchors without area give finite deltas. Source: Girshick et al., "Rich feature hierarchies" (arXiv
    1311.2524), appendix C.
    """
    gt_sides, anchor_sides = _sides(gt_boxes), _sides(anchors)
    shift = (centers(gt_boxes) - centers(anchors)) / anchor_sides
    return torch.cat([shift, torch.log(gt_sides / anchor_sides)], -1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Decode deltas [..., 4] of anchors [..., 4] into boxes [..., 4], with dw and dh clamped to log(1000/16)."""
    deltas, anchors = upcast(deltas), upcast(anchors)
    sides = anchors[..., 2:] - anchors[..., :2]
    center = deltas[..., :2] * sides + centers(anchors)
    half = deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * sides / 2
    return torch.cat([center - half, center + half], -1)


def encode_distances(gt_boxes: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Encode boxes [..., 4] as distances (left, top, right, bottom) [..., 4] from the anchors' centres to the sides.

    The distances are in strides [...], and negative where the centre lies outside.
    Source: Tian et al., "FCOS" (arXiv 1904.01355), Eq. 1.
    """
    points, boxes = centers(anchors), upcast(gt_boxes)
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1) / strides[..., None]


def decode_sides(code: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Decode distances (left, top, right, bottom) [..., 4] from the anchors' centres, in strides [...], into boxes."""
    points, distances = centers(anchors), upcast(code) * strides[..., None]
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def decode_distances(code: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Decode distributions of the distances from the anchors' centres, in strides [...], into boxes [..., 4].

    code [..., 4 * (n + 1)] holds for each of the four sides the logits of a distribution over 0, 1, ... n, of which the
    expectation is the distance. Source: Li et al.,
    "Generalized Focal Loss" (arXiv 2006.04388), Eq. 5.
    """
    return decode_sides(expectation(distributions(code)), anchors, strides)


def distributions(code: Tensor) -> Tensor:
    """Split code [..., 4 * (n + 1)] into the logits [..., 4, n + 1] of the four distances' distributions."""
    return upcast(code).unflatten(-1, (4, -1))


def expectation(logits: Tensor) -> Tensor:
    """Compute the expectation [...] of distributions over 0, 1, ... n from their logits [..., n + 1]."""
    values = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(-1) * values).sum(-1)


def _sides(boxes: Tensor) -> Tensor:
    """Compute width and height [..., 2], clamped to at least 1e-6 pixels."""
    boxes = upcast(boxes)
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)


CODERS = {
    "deltas": lambda code, anchors, strides: decode(code, anchors),
    "distances": decode_distances,
    "sides": decode_sides,
}
"""Decoders: code [..., K], anchors [..., 4] and strides [...] of their levels -> boxes [..., 4]."""
