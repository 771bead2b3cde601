"""Which images make up which step: pure functions of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from cledet.data.dataset import Key
from cledet.data.index import Ints

WINDOW = 8
"""Batches among which images of one group are brought together."""


class EpochBatches(torch.utils.data.Sampler[list[Key]]):
    """Batches of (epoch, image position) for the steps start_step to total_steps - 1.

    Sample k of a run, k = step * batch + place, is the image at place k % n of epoch k // n's order; so every
    batch is full, an epoch's last one going on into the next epoch. Of each batch, this process (`rank` of
    `world`) gets its equal share, in so many equal parts.

    The order is random, but among the next WINDOW batches those of one of `groups` [n] come together: with images
    on end apart from images on their side, batches need less padding.
    """

    def __init__(
        self,
        n: int,
        batch: int,
        *,
        seed: int,
        total_steps: int,
        start_step: int = 0,
        groups: Ints | None = None,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
    ) -> None:
        if batch % (world * parts):
            raise ValueError(f"a batch of {batch} cannot be shared equally by {world} processes in {parts} parts")
        self.n, self.batch, self.seed = n, batch, seed
        self.start_step, self.total_steps = start_step, total_steps
        self.groups = np.zeros(n, dtype=np.int64) if groups is None else groups
        self.rank, self.world, self.parts = rank, world, parts

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step) * self.parts

    def __iter__(self) -> Iterator[list[Key]]:
        share = self.batch // self.world
        orders: dict[int, Ints] = {}
        for step in range(self.start_step, self.total_steps):
            first = step * self.batch + self.rank * share
            epochs = range(first // self.n, (first + share - 1) // self.n + 1)
            orders = {epoch: orders[epoch] if epoch in orders else self._order(epoch) for epoch in epochs}
            keys = [(k // self.n, int(orders[k // self.n][k % self.n])) for k in range(first, first + share)]
            part = share // self.parts
            yield from (keys[i : i + part] for i in range(0, share, part))

    def _order(self, epoch: int) -> Ints:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.n)
        window = np.arange(self.n) // (WINDOW * self.batch)
        return order[np.lexsort((self.groups[order], window))]


def sequential_batches(
    n: int, batch: int, *, groups: Ints | None = None, rank: int = 0, world: int = 1
) -> list[list[int]]:
    """Every image once, in order of its group and then its position; this process gets every `world`-th batch.

    A batch holds images of one of `groups` [n] only, at most `batch` of them; by default there is one group.
    """
    groups = np.zeros(n, dtype=np.int64) if groups is None else groups
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    runs = [run.tolist() for run in np.split(order, ends)]
    batches = [run[start : start + batch] for run in runs for start in range(0, len(run), batch)]
    return batches[rank::world]
