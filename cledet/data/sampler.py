"""Batch samplers: pure functions of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from cledet.data.dataset import Key
from cledet.data.index import Ints

WINDOW = 8
"""Number of batches within which images are sorted by group."""


@dataclass(eq=False)
class EpochBatches(torch.utils.data.Sampler[list[Key]]):
    """Batches of (epoch, image position) for the steps start_step to total_steps - 1.

    Sample k of a run, k = step * batch + i, is image k % n in the order of epoch k // n. Every batch is full: an
    epoch's last batch continues with the next epoch. This process (`rank` of `world`) yields its equal share of each
    batch, in `parts` equal parts.

    The order is random, but within WINDOW batches, images are sorted by `groups` [n]: batches of only portrait or only
    landscape images need less padding.
    """

    n: int
    batch: int
    _: KW_ONLY
    seed: int
    total_steps: int
    start_step: int = 0
    groups: Ints | None = None
    rank: int = 0
    world: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        if self.batch % (self.world * self.parts):
            shares = f"{self.world} processes in {self.parts} parts"
            raise ValueError(f"a batch of {self.batch} cannot be shared equally by {shares}")

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
        return order[np.lexsort((window,) if self.groups is None else (self.groups[order], window))]


def sequential_batches(
    n: int, batch: int, *, groups: Ints | None = None, rank: int = 0, world: int = 1
) -> list[list[int]]:
    """Batch every image once, ordered by group, then by position; this process gets every `world`-th batch.

    Each batch holds at most `batch` images, of a single one of the `groups` [n]; by default there is one group.
    """
    groups = np.zeros(n, dtype=np.int64) if groups is None else groups
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    runs = [run.tolist() for run in np.split(order, ends)]
    batches = [run[start : start + batch] for run in runs for start in range(0, len(run), batch)]
    return batches[rank::world]
