"""Soft-NMS: boxes that overlap a better box lose score instead of being dropped (Bodla et al., arXiv 1704.04503)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cledet.ops.box_pairs import Pairs, overlapping_pairs, side_by_side
from cledet.ops.boxes import upcast

Factor = Callable[[Tensor, Tensor], Tensor]
Floats = NDArray[np.floating]
Indices = NDArray[np.int64]

LISTED = 1 << 24
"""Most pairs that a CPU lists; with more, each round compares the best boxes, in less memory."""
PAIRS = 1 << 22
"""Most pairs of boxes that a GPU compares once; with more, each round compares the best boxes."""
AHEAD = 32
"""Remaining boxes of each larger class, highest scores first, that a round compares."""
WORTH = 1024
"""A round over all pairs costs as much time as a loop needs for one box per WORTH pairs."""


def soften(
    boxes: Tensor, scores: Tensor, labels: Tensor, factor: Factor, min_score: float, pairs: Pairs | None = None
) -> Tensor:
    """Compute final scores [N] by Soft-NMS, -1 for a box whose score decays below min_score.

    boxes [N, 4], scores [N], labels [N]. factor(a, b) [...] of boxes [..., 4], with broadcasting, multiplies the score
    of b where a is better. It is symmetric, at most 1, and 1 for boxes that do not overlap. In each class the best
    remaining box (ties: the lower index) gets its final score and decays the remaining boxes, until none is left.
    `pairs` are the boxes' `overlapping_pairs` if the caller has them.

    Instead of one box, each round finalizes every box whose score no better remaining box would change, in all classes
    at once. The result equals that of the loop. Source: Bodla et al., arXiv 1704.04503, figure 2.
    """
    exact, value = upcast(boxes.detach()), upcast(scores.detach())
    if boxes.device.type == "cpu":
        pairs = overlapping_pairs(exact, labels) if pairs is None else pairs
        if pairs.total <= LISTED:
            touching = _touching(exact, pairs, factor)
            return torch.from_numpy(_decay(value.numpy().copy(), *touching, min_score)).to(scores.dtype)
    return _by_class(exact, value, labels, factor, min_score).to(scores.dtype)


def _touching(boxes: Tensor, pairs: Pairs, factor: Factor) -> tuple[Indices, Indices, Floats]:
    """Return the pairs with a factor below 1: the lower indices [E], the higher ones [E], and the factors [E]."""
    low, high, factors = [], [], []
    for a, b in pairs.chunks():
        decay = factor(side_by_side(boxes, a), side_by_side(boxes, b)).numpy()
        hit = np.flatnonzero(decay < 1)
        first, second = a.numpy()[hit], b.numpy()[hit]
        low.append(np.minimum(first, second))
        high.append(np.maximum(first, second))
        factors.append(decay[hit])
    if not low:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    return np.concatenate(low), np.concatenate(high), np.concatenate(factors)


def _decay(scores: Floats, low: Indices, high: Indices, factors: Floats, min_score: float) -> Floats:
    """Compute final scores [N] from the touching pairs; the scores [N] are overwritten.

    A box is final when it has the higher score of all its remaining pairs. A pair ends when one of its boxes is final
    or below min_score. If few boxes become final in a round, a loop over single boxes is faster.
    """
    final = np.full_like(scores, -1)
    while len(low):
        low_wins = scores.take(low) >= scores.take(high)
        loser, winner = np.where(low_wins, high, low), np.where(low_wins, low, high)
        done = scores >= min_score
        done[loser] = False
        final[done] = scores[done]
        ends = done.take(winner)
        decayed = np.flatnonzero(ends)
        np.multiply.at(scores, loser.take(decayed), factors.take(decayed))
        scores[done] = -1
        go_on = np.flatnonzero((scores.take(loser) >= min_score) & ~ends)
        low, high, factors = low.take(go_on), high.take(go_on), factors.take(go_on)
        if np.count_nonzero(done) * WORTH < len(low):
            return _decay_one_by_one(scores, final, low, high, factors, min_score)
    left = scores >= min_score
    final[left] = scores[left]
    return final


def _decay_one_by_one(
    scores: Floats, final: Floats, low: Indices, high: Indices, factors: Floats, min_score: float
) -> Floats:
    """Go on with `_decay` as a loop over the boxes, best first."""
    owner, other = np.concatenate([low, high]), np.concatenate([high, low])
    order = owner.argsort(kind="stable")
    other, factors = other[order], np.concatenate([factors, factors])[order]
    start = owner[order].searchsorted(np.arange(len(scores) + 1)).tolist()
    while (best := scores[index := int(scores.argmax())]) >= min_score:
        final[index], scores[index] = best, -1
        row = slice(start[index], start[index + 1])
        near = other[row]
        value = scores[near]
        scores[near] = np.where(value < 0, value, value * factors[row])
    return final


def _by_class(boxes: Tensor, scores: Tensor, labels: Tensor, factor: Factor, min_score: float) -> Tensor:
    """Compute `soften` by matrices of classes, for GPUs: one synchronization per round."""
    final = torch.full_like(scores, -1)
    for index in group_by_class(labels):
        real = index >= 0
        rounds = _rounds if index.numel() * index.shape[1] <= PAIRS else _rounds_of_the_best
        final[index[real]] = rounds(boxes[index], scores[index].where(real, -1), factor, min_score)[real]
    return final


def _rounds(boxes: Tensor, scores: Tensor, factor: Factor, min_score: float) -> Tensor:
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


def _rounds_of_the_best(boxes: Tensor, scores: Tensor, factor: Factor, min_score: float) -> Tensor:
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
