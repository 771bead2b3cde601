"""Post-processing of raw outputs: decode the best candidates of each level, then apply NMS."""

from __future__ import annotations

from dataclasses import replace
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
    conf = torch.tensor(options.class_confs, device="cpu") if options.class_confs else options.conf
    return [suppress_candidates(one, options) for one in candidates(raw, sizes, conf)]


def suppress_candidates(candidates: Detected, options: NMSOptions, agnostic: bool = False) -> Detected:
    """Apply NMS to the candidates of one image and keep the best `max_det`.

    If `agnostic`, boxes of different classes suppress each other too. A box with the score of its cluster's best box
    then has the class of that box.
    """
    boxes, scores, labels = candidates
    grouped = torch.zeros_like(labels) if agnostic else labels
    kept = apply_nms(boxes, scores, grouped, options)
    scored = kept.keep
    if agnostic and options.method == "cl-balanced" and options.cl_score == "max":
        best = replace(options, method="standard")  # keeps the best box of each cluster, in the same order
        scored = apply_nms(boxes, scores, grouped, best).keep
    return Detected(kept.boxes, kept.scores, labels[scored])


@torch.no_grad()
def candidates(raw: RawOutputs, sizes: Tensor, conf: float | Tensor) -> list[Detected]:
    """Decode and clip the best CANDIDATES pairs of anchor and class of each level that score over `conf`.

    A tensor [C] holds the threshold of each class; infinity leaves a class out.
    Returns per image boxes [M, 4], scores [M] and labels [M], level by level and by score within a level, ties by the
    lower index. Boxes that lie in the padding are dropped. The threshold comes first, because few pairs pass it.
    """
    raw = raw.scored()
    thresholds = torch.as_tensor(conf, dtype=torch.float32, device="cpu")
    image, anchor, label, logits = _pairs_above(raw.logits, _logits_below(thresholds))
    ends = torch.tensor(raw.levels, device=anchor.device).cumsum(0)
    groups = image * len(raw.levels) + torch.bucketize(anchor, ends, right=True)  # ascending
    counts = groups.bincount(minlength=len(raw.logits) * len(raw.levels)).tolist()
    first, best = 0, []
    for count in counts:
        best.append(first + _best(logits[first : first + count]))
        first += count
    chosen = torch.cat(best)
    image, anchor, label = image[chosen], anchor[chosen], label[chosen]
    boxes, scores = raw.boxes(image, anchor), logits[chosen].float().sigmoid()
    least = thresholds.to(label.device)
    least = least[label] if least.ndim else least
    result = []
    for number, size in enumerate(sizes.tolist()):
        clipped = clip_boxes(boxes, size)
        kept = ((image == number) & (scores > least) & (area(clipped) > 0)).nonzero()[:, 0]  # a GPU waits once
        result.append(Detected(*(values.index_select(0, kept) for values in (clipped, scores, label))))
    return result


def _logits_below(conf: Tensor) -> Tensor:
    """Return logits slightly below those of scores, by more than bfloat16 rounds."""
    exact = conf.clamp(0, 1).logit()
    return exact - 0.01 * exact.abs().clamp(max=100) - 0.01


def _pairs_above(logits: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return image, anchor, class and logit [P] of the logits [N, A, C] above the thresholds, in this order.

    The thresholds are one number or one per class [C].
    """
    image, anchor = (logits.amax(2) > float(thresholds.min())).nonzero(as_tuple=True)  # few anchors have any class
    rows = logits[image, anchor]
    row, label = (rows.float() > thresholds.to(rows.device)).nonzero(as_tuple=True)
    return image[row], anchor[row], label, rows[row, label]


def _best(logits: Tensor) -> Tensor:
    """Return the indices of the highest CANDIDATES of the logits [P], best first, ties by the lower index."""
    index = torch.arange(len(logits), device=logits.device)
    if len(logits) > CANDIDATES:
        index = (logits >= logits.topk(CANDIDATES, sorted=False).values.min()).nonzero()[:, 0]
    return index[logits[index].argsort(descending=True, stable=True)[:CANDIDATES]]


def best_of_levels(raw: RawOutputs) -> Detected:
    """Decode the best CANDIDATES pairs of anchor and class of each level: boxes [N, M, 4], scores and labels [N, M]."""
    raw = raw.scored()
    classes = raw.logits.shape[2]
    scores, pairs = [], []
    first = 0
    for level in raw.levels:
        logits = raw.logits[:, first : first + level].flatten(1)
        best, index = logits.topk(torch.sym_min(CANDIDATES, logits.shape[1]), dim=1)
        scores.append(best.float().sigmoid())
        pairs.append(index + first * classes)
        first += level
    pair = torch.cat(pairs, 1)
    image = torch.arange(len(pair), device=pair.device)[:, None]
    return Detected(raw.boxes(image, pair // classes), torch.cat(scores, 1), pair % classes)
