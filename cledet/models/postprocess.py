"""Post-processing of raw outputs: decode the best candidates of each level, then apply NMS."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cledet.models.network import RawOutputs
from cledet.models.nms import NMSOptions, apply_nms
from cledet.ops.boxes import area, clip_boxes

CANDIDATES = 1000
"""Most candidates per pyramid level and image that reach NMS (Lin et al. 2017, section 4.1)."""


class Detected(NamedTuple):
    """Detections of one image, best first: boxes [K, 4] in pixels, scores [K], labels [K]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def detect(raw: RawOutputs, sizes: Tensor, options: NMSOptions) -> list[Detected]:
    """Return the detections of each image, given raw outputs and unpadded image sizes [N, 2] (height, width)."""
    return [suppress_candidates(one, options) for one in candidates(raw, sizes, options.conf)]


def suppress_candidates(candidates: Detected, options: NMSOptions, agnostic: bool = False) -> Detected:
    """Apply NMS to the candidates of one image and keep the best `max_det`.

    If `agnostic`, boxes of different classes suppress each other too.
    """
    boxes, scores, labels = candidates
    kept = apply_nms(boxes, scores, torch.zeros_like(labels) if agnostic else labels, options)
    return Detected(kept.boxes, kept.scores, candidates.labels[kept.keep])


@torch.no_grad()
def candidates(raw: RawOutputs, sizes: Tensor, conf: float) -> list[Detected]:
    """Decode and clip the best CANDIDATES pairs of anchor and class of each level that score over `conf`.

    Returns per image boxes [M, 4], scores [M] and labels [M], level by level and by score within a level. Boxes that
    lie in the padding are dropped.
    """
    result = []
    for boxes, scores, labels, (height, width) in zip(*best_of_levels(raw), sizes.tolist()):
        clipped = clip_boxes(boxes, (height, width))
        kept = (scores > conf) & (area(clipped) > 0)
        result.append(Detected(clipped[kept], scores[kept], labels[kept]))
    return result


def best_of_levels(raw: RawOutputs) -> Detected:
    """Decode the best CANDIDATES pairs of anchor and class of each level: boxes [N, M, 4], scores and labels [N, M]."""
    raw = raw.scored()
    classes = raw.logits.shape[2]
    scores, pairs = [], []
    first = 0
    for level in raw.levels:
        logits = raw.logits[:, first : first + level].flatten(1)
        best, index = logits.topk(min(CANDIDATES, logits.shape[1]), dim=1)
        scores.append(best.float().sigmoid())
        pairs.append(index + first * classes)
        first += level
    pair = torch.cat(pairs, 1)
    image = torch.arange(len(pair), device=pair.device)[:, None]
    return Detected(raw.boxes(image, pair // classes), torch.cat(scores, 1), pair % classes)
