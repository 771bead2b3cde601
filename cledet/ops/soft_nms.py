"""Soft-NMS: boxes that overlap a better one lose score instead of going."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cledet.ops.boxes import upcast

PAIRS = {False: 1 << 18, True: 1 << 22}
"""Up to so many pairs of boxes, off or on CUDA, all are compared once; else the best are, again in each round."""
AHEAD = 32
"""Boxes of each larger class, the best left, that are looked at in a round."""


def soften(
    boxes: Tensor, scores: Tensor, labels: Tensor, factor: Callable[[Tensor, Tensor], Tensor], min_score: float
) -> Tensor:
    """Final scores [N] after Soft-NMS, -1 for a box whose score decays below min_score.

    boxes [N, 4], scores [N] and labels [N]; factor(a, b) [...] of boxes [..., 4], with broadcasting: what the
    score of b is multiplied by where a is better, at most 1. Within a class, one after the other, the best box
    left (ties: the lower index) gets its final score and decays those left.

    This is sequential at heart: what a box may decay depends on what has decayed it. But a box whose score none
    of the better ones left would change is final as well, so in each round all such boxes are, of all classes at
    once; in large classes those among the AHEAD best. The result is that of the loop; there are fewer rounds, not
    other ones. Source: Bodla et al., arXiv 1704.04503, figure 2.
    """
    exact, value = upcast(boxes), upcast(scores)
    final = torch.full_like(value, -1)
    for group in by_class(labels):
        real = group >= 0
        rounds = _rounds if group.numel() * group.shape[1] <= PAIRS[boxes.is_cuda] else _rounds_of_the_best
        final[group[real]] = rounds(exact[group], value[group].where(real, -1), factor, min_score)[real]
    return final.to(scores.dtype)


def _rounds(boxes: Tensor, scores: Tensor, factor: Callable[[Tensor, Tensor], Tensor], min_score: float) -> Tensor:
    """Final scores [C, L] of boxes [C, L, 4] and scores [C, L], each row a class."""
    decay = factor(boxes[:, :, None], boxes[:, None])  # [C, L, L]: of each box (last) by each
    touches = (decay < 1).to(scores.dtype)
    place = torch.arange(scores.shape[1], dtype=scores.dtype, device=scores.device).expand_as(scores)
    final = torch.full_like(scores, -1)
    gone, better = scores < 0, torch.empty_like(touches)
    while bool((left := scores >= min_score).any()):
        order = scores.argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(scores).scatter_(1, order, place)
        waits = torch.lt(rank[:, :, None], rank[:, None], out=better).mul_(touches).amax(1)
        done = left & (waits == 0)
        final = torch.where(done, scores, final)
        gone = gone | done
        scores = (scores * decay.where(done[:, :, None], 1).prod(1)).masked_fill(gone, -1)
    return final


def _rounds_of_the_best(
    boxes: Tensor, scores: Tensor, factor: Callable[[Tensor, Tensor], Tensor], min_score: float
) -> Tensor:
    """The same, in less memory: each round compares the best left with each other, and those final with all."""
    final = torch.full_like(scores, -1)
    gone = scores < 0
    while bool((scores >= min_score).any()):
        top, place = (part[:, :AHEAD] for part in scores.sort(dim=1, descending=True, stable=True))
        ahead = boxes.gather(1, place[..., None].expand(-1, -1, 4))
        touched = factor(ahead[:, :, None], ahead[:, None]) < 1
        waits = touched.triu(1).any(1)
        row, rank = (~waits & (top >= min_score)).nonzero(as_tuple=True)
        column = place[row, rank]
        final[row, column] = scores[row, column]
        decay = factor(boxes[row, column][:, None], boxes[row])
        gone[row, column] = True
        scores = scores.scatter_reduce(0, row[:, None].expand_as(decay), decay, "prod").masked_fill(gone, -1)
    return final


def by_class(labels: Tensor) -> list[Tensor]:
    """The boxes of each class as rows of index matrices [C, L], -1 where a class has fewer.

    Classes of about the same size, within a factor of two, share a matrix, so that the matrices hold at most
    about twice the boxes. A row is in the order of the indices.
    """
    order = labels.argsort(stable=True)
    sizes = labels[order].unique_consecutive(return_counts=True)[1]
    start = sizes.cumsum(0) - sizes
    level = sizes.clamp(min=32).sub(1).log2().floor()
    groups = []
    for wanted in level.unique():
        size, first = sizes[level == wanted, None], start[level == wanted, None]
        column = torch.arange(int(size.max()), device=order.device)
        index = order[(first + column).clamp(max=len(order) - 1)]
        groups.append(torch.where(column < size, index, -1))
    return groups
