"""Probabilistic anchor assignment (PAA): positives are the candidates in the lower of two Gaussians over the loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def choose_paa(loss: Tensor, gt: Tensor, level: Tensor, *, count: int = 9) -> Tensor:
    """Select the candidates that stay positive: bool [P]; the others become background.

    loss [P] of each candidate for its ground truth, gt [P] int64 an index of that ground truth, unique in the batch,
    level [P] int64 of the pyramid. Per ground truth and level the `count` candidates of lowest loss remain, ties by
    order. A mixture of two Gaussians is fitted to the losses of each ground truth. Positive are the candidates that the
    lower Gaussian explains better, up to the one of highest mixture density. An only candidate stays positive. Computed
    in float64 on the CPU, so that devices agree.
    Source: Kim and Lee, "Probabilistic Anchor Assignment" (arXiv 2007.08103), algorithm 1.
    """
    keep = torch.zeros(len(loss), dtype=torch.bool)
    if len(loss):
        value, place = loss.detach().cpu().double(), torch.stack([gt, level]).cpu()
        left = (_ranks(value, place) < count).nonzero().squeeze(-1)
        row = place[0, left].unique(return_inverse=True)[1]
        column = _ranks(value[left], row[None])
        shape = (int(row.max()) + 1, int(column.max()) + 1)
        values, valid = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
        values[row, column], valid[row, column] = value[left], True
        keep[left] = lower_part(values, valid)[row, column]
    return keep.to(loss.device)


def lower_part(values: Tensor, valid: Tensor) -> Tensor:
    """Select the values [K, M], ascending, where valid [K, M], in the lower Gaussian of their row: bool [K, M]."""
    each, density = mixture(values, valid)
    low = valid & (each[..., 0] >= each[..., 1])
    densest = density.masked_fill(~low, -torch.inf).argmax(1, keepdim=True)
    return low & (torch.arange(values.shape[1]) <= densest)


def mixture(
    values: Tensor, valid: Tensor, *, rounds: int = 100, tolerance: float = 1e-3, least: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Fit two Gaussians to each row of values [K, M], where valid [K, M], by expectation-maximization.

    They start at the lowest and the highest value, with weights 0.5 and variances 1. A row has converged when its mean
    log-likelihood changes by less than the tolerance. `least` is added to every variance.
    Returns the logarithms of each Gaussian's weighted density [K, M, 2], and of their sum [K, M].
    """
    high = values.masked_fill(~valid, -torch.inf).amax(1)
    low = values.masked_fill(~valid, torch.inf).amin(1)
    mean, variance = torch.stack([low, high], -1), torch.ones(len(values), 2, dtype=values.dtype)
    weight = torch.full_like(mean, 0.5)
    before = torch.full_like(low, -torch.inf)
    active = torch.ones_like(low, dtype=torch.bool)
    for _ in range(rounds):
        each, density = _densities(values, mean, variance, weight)
        share = (each - density[..., None]).exp() * valid[..., None]
        size = share.sum(1) + 10 * torch.finfo(values.dtype).eps
        new_mean = (share * values[..., None]).sum(1) / size
        spread = (share * (values[..., None] - new_mean[:, None]).square()).sum(1) / size + least
        mean = torch.where(active[:, None], new_mean, mean)
        variance = torch.where(active[:, None], spread, variance)
        weight = torch.where(active[:, None], size / size.sum(-1, keepdim=True), weight)
        now = (density * valid).sum(1) / valid.sum(1)
        active = active & ((now - before).abs() >= tolerance)
        before = now
        if not active.any():
            break
    return _densities(values, mean, variance, weight)


def _densities(values: Tensor, mean: Tensor, variance: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the logarithms of each Gaussian's weighted density [K, M, 2], and of their sum [K, M]."""
    square = (values[..., None] - mean[:, None]).square() / variance[:, None]
    each = weight.log()[:, None] - 0.5 * (square + variance.log()[:, None] + math.log(2 * math.pi))
    return each, each.logsumexp(-1)


def _ranks(value: Tensor, group: Tensor) -> Tensor:
    """Rank values [P], lowest first, ties by order, among those with an equal column of group [G, P]: [P]."""
    number = group.unique(dim=1, return_inverse=True)[1]
    order = value.argsort(stable=True)
    order = order[number[order].argsort(stable=True)]
    sizes = number.bincount()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return rank
