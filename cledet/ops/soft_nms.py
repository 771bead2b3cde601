"""Soft-NMS: boxes that overlap a better box lose score instead of being dropped (Bodla et al., arXiv 1704.04503)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cledet.ops.boxes import upcast

PAIRS = {False: 1 << 18, True: 1 << 22}
"""Most pairs of boxes, off or on CUDA, that are compared once; with more, each round compares the best boxes."""
AHEAD = 32
"""Remaining boxes of each larger class, highest scores first, that a round compares."""


def soften(
    boxes: Tensor, scores: Tensor, labels: Tensor, factor: Callable[[Tensor, Tensor], Tensor], min_score: float
) -> Tensor:
    """Compute final scores [N] by Soft-NMS, -1 for a box whose score decays below min_score.

    boxes [N, 4], scores [N], labels [N]. factor(a, b) [...] of boxes [..., 4], with broadcasting, is at most 1 and
    multiplies the score of b where a is better. In each class the best remaining box (ties: the lower index) gets its
    final score and decays the remaining boxes, until none is left.

    Instead of one box, each round finalizes every box whose score no better remaining box would change, in all classes
    at once (in large classes among the AHEAD best). The result equals that of the loop. Source: Bodla et al., arXiv
    1704.04503, figure 2.
    """
    exact, value = upcast(boxes), upcast(scores)
    final = torch.full_like(value, -1)
    for index in group_by_class(labels):
        real = index >= 0
        rounds = _rounds if index.numel() * index.shape[1] <= PAIRS[boxes.is_cuda] else _rounds_of_the_best
        final[index[real]] = rounds(exact[index], value[index].where(real, -1), factor, min_score)[real]
    return final.to(scores.dtype)


def _rounds(boxes: Tensor, scores: Tensor, factor: Callable[[Tensor, Tensor], Tensor], min_score: float) -> Tensor:
    """Compute final scores [C, L] of boxes [C, L, 4] and scores [C, L], one class per row."""
    decay = factor(boxes[:, :, None], boxes[:, None])  # [C, L, L]: the last dimension is the decayed box
    touches = (decay < 1).to(scores.dtype)
    ranks = torch.arange(scores.shape[1], dtype=scores.dtype, device=scores.device).expand_as(scores)
    final = torch.full_like(scores, -1)
    gone, better = scores < 0, torch.empty_like(touches)
    while bool((left := scores >= min_score).any()):
        order = scores.argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(scores).scatter_(1, order, ranks)
        waits = torch.lt(rank[:, :, None], rank[:, None], out=better).mul_(touches).amax(1)
        done = left & (waits == 0)
        final = torch.where(done, scores, final)
        gone = gone | done
        scores = (scores * decay.where(done[:, :, None], 1).prod(1)).masked_fill(gone, -1)
    return final


def _rounds_of_the_best(
    boxes: Tensor, scores: Tensor, factor: Callable[[Tensor, Tensor], Tensor], min_score: float
) -> Tensor:
    """Compute `_rounds` in less memory: compare the best remaining boxes per round, and decay all by the final ones."""
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


def group_by_class(labels: Tensor) -> list[Tensor]:
    """Return the box indices of each class as rows of matrices [C, L], padded with -1.

    Classes of similar size, within a factor of two, share a matrix, so padding at most doubles the memory. The indices
    of a row ascend.
    """
    order = labels.argsort(stable=True)
    sizes = labels[order].unique_consecutive(return_counts=True)[1]
    start = sizes.cumsum(0) - sizes
    level = sizes.clamp(min=32).sub(1).log2().floor()
    matrices = []
    for value in level.unique():
        size, first = sizes[level == value, None], start[level == value, None]
        column = torch.arange(int(size.max()), device=order.device)
        index = order[(first + column).clamp(max=len(order) - 1)]
        matrices.append(torch.where(column < size, index, -1))
    return matrices
