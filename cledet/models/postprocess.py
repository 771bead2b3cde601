"""From raw outputs to detections: the best candidates of each level, decoded, then NMS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cledet.models.network import RawOutputs
from cledet.models.nms import Kept, suppress
from cledet.ops.boxes import area, clip_boxes

CANDIDATES = 1000
"""Candidates of a pyramid level and image that reach NMS (Lin et al. 2017, section 4.1)."""


class Detected(NamedTuple):
    """Detections of one image, best first: boxes [K, 4] in pixels, scores [K], labels [K]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class PostProcess:
    """Thresholds and NMS, as `cledet.config.base.SuppressionSettings` describes them."""

    nms: str = "standard"
    conf: float = 0.05
    iou: float = 0.5
    max_det: int = 100
    localization: str = "proximity"
    cl_norm: str = "max"
    cl_score: str = "own"

    def __call__(self, raw: RawOutputs, sizes: Tensor) -> list[Detected]:
        """Raw outputs and the images' sizes [N, 2] (height, width) without padding -> detections an image."""
        found = candidates(raw, sizes, self.conf)
        return [self.suppress(*one) for one in found]

    def suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detected:
        """Apply NMS to one image's candidates and keep the best `max_det`."""
        kept = self.keep(boxes, scores, labels)
        return Detected(kept.boxes, kept.scores, labels[kept.keep])

    def keep(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Kept:
        """Which of one image's candidates are left, at most `max_det`, and where the method has put them."""
        keep, scores, boxes = suppress(
            boxes,
            scores,
            labels,
            self.iou,
            method=self.nms,
            localization=self.localization,
            cl_norm=self.cl_norm,
            cl_score=self.cl_score,
        )
        return Kept(keep[: self.max_det], scores[: self.max_det], boxes[: self.max_det])


@torch.no_grad()
def candidates(raw: RawOutputs, sizes: Tensor, conf: float) -> list[Detected]:
    """Each level's best CANDIDATES pairs of anchor and class that score over `conf`, decoded and clipped.

    Returns for each image boxes [M, 4], scores [M] and labels [M], level by level and by score within a level.
    """
    found = []
    for boxes, scores, labels, (height, width) in zip(*best_of_levels(raw), sizes.tolist()):
        inside = clip_boxes(boxes, (height, width))
        kept = (scores > conf) & (area(inside) > 0)  # of a box in the padding nothing is left
        found.append(Detected(inside[kept], scores[kept], labels[kept]))
    return found


def best_of_levels(raw: RawOutputs) -> Detected:
    """Each level's best CANDIDATES pairs of anchor and class: boxes [N, M, 4], scores [N, M], labels [N, M]."""
    raw = raw.scored()
    count = raw.logits.shape[2]
    rows, pairs = [], []
    first = 0
    for level in raw.levels:
        logits = raw.logits[:, first : first + level].flatten(1)
        best, index = logits.topk(min(CANDIDATES, logits.shape[1]), dim=1)
        rows.append(best.float().sigmoid())
        pairs.append(index + first * count)
        first += level
    index = torch.cat(pairs, 1)
    image = torch.arange(len(index), device=index.device)[:, None]
    return Detected(raw.boxes(image, index // count), torch.cat(rows, 1), index % count)
