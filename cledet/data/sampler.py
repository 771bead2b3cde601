"""Batch samplers: pure functions of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from cledet.data.dataset import Key
from cledet.data.index import Floats, Ints

WINDOW = 8
"""Number of batches within which images are sorted by group."""


@dataclass(eq=False)
class EpochBatches(torch.utils.data.Sampler[list[Key]]):
    """Batches of keys of `n` images for the steps start_step to total_steps - 1.

    Sample k of a run, k = step * batch + i, is image k % e in the order of epoch k // e. An epoch has e = n images, or
    `images_per_epoch`. Every batch is full: an epoch's last batch continues with the next epoch. This process (`rank`
    of `world`) yields its equal share of each batch, in `parts` equal parts.

    The order is random, but within WINDOW batches, images are sorted by `groups` [n]: batches of only portrait or only
    landscape images need less padding. Steps from the fraction `mosaic_until` of the run on have no mosaics.
    """

    n: int
    batch: int
    _: KW_ONLY
    seed: int
    total_steps: int
    start_step: int = 0
    groups: Ints | None = None
    repeats: Floats | None = None
    """[n] repeat factors, at least 1; an epoch has `images_per_epoch` images then."""
    mosaic_until: float = 1.0
    rank: int = 0
    world: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        if self.batch % (self.world * self.parts):
            shares = f"{self.world} processes in {self.parts} parts"
            raise ValueError(f"a batch of {self.batch} cannot be shared equally by {shares}")
        self.epoch_images = images_per_epoch(self.n, self.repeats)

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step) * self.parts

    def __iter__(self) -> Iterator[list[Key]]:
        share = self.batch // self.world
        orders: dict[int, Ints] = {}
        for step in range(self.start_step, self.total_steps):
            first, mosaic = step * self.batch + self.rank * share, step < self.mosaic_until * self.total_steps
            places = [divmod(k, self.epoch_images) for k in range(first, first + share)]
            epochs = range(places[0][0], places[-1][0] + 1)
            orders = {epoch: orders[epoch] if epoch in orders else self._order(epoch) for epoch in epochs}
            rows = [(epoch, orders[epoch][place]) for epoch, place in places]
            keys = [Key(epoch, int(position), int(copy), mosaic) for epoch, (position, copy) in rows]
            part = share // self.parts
            yield from (keys[i : i + part] for i in range(0, share, part))

    def _order(self, epoch: int) -> Ints:
        """Return the image position and the copy of each draw of an epoch, [e, 2]."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.repeats is None:
            order = np.column_stack([rng.permutation(self.n), np.zeros(self.n, dtype=np.int64)])
        else:
            order = rng.permutation(_draw_repeats(self.repeats, rng))
        window = np.arange(len(order)) // (WINDOW * self.batch)
        return order[np.lexsort((window,) if self.groups is None else (self.groups[order[:, 0]], window))]


def images_per_epoch(n: int, repeats: Floats | None) -> int:
    """Count the images of an epoch: n, or the sum of the repeat factors [n], rounded up.

    The number is the same for every epoch, so that epochs, the schedule and evaluations follow from the step alone. An
    image is then drawn `repeats[i] * images / sum(repeats)` times on average: shares are exactly those of the factors,
    and a factor grows by less than one part in n.
    """
    return n if repeats is None else math.ceil(math.fsum(repeats))


def _draw_repeats(repeats: Floats, rng: np.random.Generator) -> Ints:
    """Draw the image position and the copy, from 0, of each draw of an epoch: [e, 2].

    Each scaled factor is rounded up or down at random, so that its mean is the factor and the sum is e: systematic
    sampling of the fractional parts in random order (Madow 1949). Rounding each by itself would give epochs of
    different lengths.
    """
    images = images_per_epoch(len(repeats), repeats)
    order = rng.permutation(len(repeats))
    whole, part = np.divmod(repeats[order] * (images / math.fsum(repeats)), 1)
    extra = images - int(whole.sum())
    ends = np.minimum(np.floor(part.cumsum() + rng.random()), extra)
    ends[-1] = extra  # as without rounding errors
    counts = (whole + np.diff(ends, prepend=0)).astype(np.int64)
    copies = np.arange(images) - np.repeat(counts.cumsum() - counts, counts)
    return np.column_stack([np.repeat(order, counts), copies])


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
