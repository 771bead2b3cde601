"""Probabilistic anchor assignment (PAA): of an object's candidates those with losses of the lower of two Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def choose_paa(loss: Tensor, owner: Tensor, level: Tensor, *, count: int = 9) -> Tensor:
    """Which of P candidates stay positive: bool [P]; the others are to be background.

    loss [P] of each for its object, owner [P] int64 the number of that object, level [P] int64 of the pyramid. Of each
    object and level the `count` of lowest loss are left, ties by order. A mixture of two Gaussians is fitted to an
    object's losses; positive are those that the lower one explains better, up to the one where the mixture is densest.
    An object's only candidate stays. Computed in float64 on the CPU, the same everywhere.
    Source: Kim and Lee, "Probabilistic Anchor Assignment" (arXiv 2007.08103), algorithm 1.
    """
    keep = torch.zeros(len(loss), dtype=torch.bool)
    if len(loss):
        value, place = loss.detach().cpu().double(), torch.stack([owner, level]).cpu()
        left = (_ranks(value, place) < count).nonzero().squeeze(-1)
        row = place[0, left].unique(return_inverse=True)[1]
        column = _ranks(value[left], row[None])
        shape = (int(row.max()) + 1, int(column.max()) + 1)
        values, there = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
        values[row, column], there[row, column] = value[left], True
        keep[left] = lower_part(values, there)[row, column]
    return keep.to(loss.device)


def lower_part(values: Tensor, there: Tensor) -> Tensor:
    """Which of values [K, M], rising, there [K, M] or padding, make the lower part of their row: bool [K, M]."""
    each, density = mixture(values, there)
    low = there & (each[..., 0] >= each[..., 1])
    densest = density.masked_fill(~low, -torch.inf).argmax(1, keepdim=True)
    return low & (torch.arange(values.shape[1]) <= densest)


def mixture(
    values: Tensor, there: Tensor, *, rounds: int = 100, tolerance: float = 1e-3, least: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Two Gaussians fitted to each row of values [K, M] by expectation-maximization.

    They begin at the lowest and the highest value, with weights of a half and variance 1; a row is done when its mean
    log-likelihood changes by less than the tolerance; `least` is added to every variance.
    Returns the logarithms of each one's density times weight [K, M, 2], and of their sum [K, M].
    """
    high = values.masked_fill(~there, -torch.inf).amax(1)
    low = values.masked_fill(~there, torch.inf).amin(1)
    mean, variance = torch.stack([low, high], -1), torch.ones(len(values), 2, dtype=values.dtype)
    weight = torch.full_like(mean, 0.5)
    before = torch.full_like(low, -torch.inf)
    going = torch.ones_like(low, dtype=torch.bool)
    for _ in range(rounds):
        each, density = _densities(values, mean, variance, weight)
        share = (each - density[..., None]).exp() * there[..., None]
        size = share.sum(1) + 10 * torch.finfo(values.dtype).eps
        new_mean = (share * values[..., None]).sum(1) / size
        spread = (share * (values[..., None] - new_mean[:, None]).square()).sum(1) / size + least
        mean = torch.where(going[:, None], new_mean, mean)
        variance = torch.where(going[:, None], spread, variance)
        weight = torch.where(going[:, None], size / size.sum(-1, keepdim=True), weight)
        now = (density * there).sum(1) / there.sum(1)
        going = going & ((now - before).abs() >= tolerance)
        before = now
        if not going.any():
            break
    return _densities(values, mean, variance, weight)


def _densities(values: Tensor, mean: Tensor, variance: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithms of each Gaussian's density times weight [K, M, 2], and of their sum [K, M]."""
    square = (values[..., None] - mean[:, None]).square() / variance[:, None]
    each = weight.log()[:, None] - 0.5 * (square + variance.log()[:, None] + math.log(2 * math.pi))
    return each, each.logsumexp(-1)


def _ranks(value: Tensor, group: Tensor) -> Tensor:
    """The rank [P] of each value [P], lowest first, ties by order, among those of its column in group [G, P]."""
    number = group.unique(dim=1, return_inverse=True)[1]
    order = value.argsort(stable=True)
    order = order[number[order].argsort(stable=True)]
    sizes = number.bincount()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return rank
