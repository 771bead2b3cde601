"""Pairs of boxes of one class that may overlap, listed without comparing all boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

PAIRS = {False: 1 << 16, True: 1 << 22}
"""Pairs, off or on CUDA, that are listed at a time: they fit into a cache, or fill a GPU."""


class Pairs(NamedTuple):
    """Boxes sorted by class and left edge; the box at place p may overlap the next counts[p] of the same class."""

    order: Tensor
    """[N] int64: index of the box at each place."""
    counts: Tensor
    """[N] int64."""
    total: int
    """Number of pairs."""

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the indices of the two boxes of each pair, every pair once, in chunks of about PAIRS pairs."""
        ends = self.counts.cumsum(0)
        shift = torch.arange(1, len(ends) + 1, device=ends.device) - (ends - self.counts)
        most = PAIRS[self.order.is_cuda]
        begin, done = 0, 0
        while done < self.total:
            end, reached = len(ends), self.total
            if self.total - done > most:
                end = max(begin + 1, int(torch.searchsorted(ends, done + most, right=True)))
                reached = int(ends[end - 1])
            place = torch.arange(begin, end, device=ends.device)
            first = place.repeat_interleave(self.counts[begin:end], output_size=reached - done)
            second = torch.arange(done, reached, device=ends.device).add_(shift.index_select(0, first))
            yield self.order.index_select(0, first), self.order.index_select(0, second)
            begin, done = end, reached


def overlapping_pairs(boxes: Tensor, labels: Tensor) -> Pairs:
    """List all pairs of boxes [N, 4] of one class, labels [N], whose intervals in x overlap.

    Pairs that overlap in x only are among them. Classes and edges are compared as integers, so any float works.
    """
    n = len(boxes)
    edges = torch.cat([boxes[:, 0], boxes[:, 2]])
    rank = torch.empty_like(edges, dtype=torch.int64)
    rank[edges.argsort()] = torch.arange(2 * n, device=boxes.device)
    rank = rank.view(2, n) + labels.unique(return_inverse=True)[1] * (2 * n)
    left, order = rank[0].sort()
    reach = torch.searchsorted(left, rank[1].index_select(0, order))
    counts = (reach - torch.arange(1, n + 1, device=boxes.device)).clamp_(min=0)
    return Pairs(order, counts, int(counts.sum()))


def side_by_side(boxes: Tensor, index: Tensor) -> Tensor:
    """Gather boxes [M, 4] whose four columns are contiguous, which elementwise arithmetic reads faster."""
    return boxes.t().contiguous().index_select(1, index).t()
