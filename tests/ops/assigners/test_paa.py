"""PAA's choice against a loop in plain Python, and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cledet.ops.assigners.paa import choose_paa, mixture


def slow_mixture(x: list[float]) -> tuple[list[tuple[float, float]], list[float]]:
    """One row, number by number: logarithms of both densities, and of their sum."""
    m, v, w, before = [min(x), max(x)], [1.0, 1.0], [0.5, 0.5], -math.inf

    def logs() -> tuple[list[tuple[float, float]], list[float]]:
        each = [
            tuple(math.log(w[k]) - (one - m[k]) ** 2 / (2 * v[k]) - math.log(2 * math.pi * v[k]) / 2 for k in (0, 1))
            for one in x
        ]
        return each, [max(pair) + math.log1p(math.exp(min(pair) - max(pair))) for pair in each]

    for _ in range(100):
        each, whole = logs()
        now = sum(whole) / len(x)
        for k in (0, 1):
            share = [math.exp(pair[k] - one) for pair, one in zip(each, whole)]
            n = sum(share)
            m[k] = sum(s * one for s, one in zip(share, x)) / n
            v[k] = sum(s * (one - m[k]) ** 2 for s, one in zip(share, x)) / n + 1e-5
            w[k] = n / len(x)
        if abs(now - before) < 1e-3:
            break
        before = now
    return logs()


def slow_choice(loss: list[float], gt: list[int], level: list[int], count: int) -> set[int]:
    kept: set[int] = set()
    for j in set(gt):
        mine: list[int] = []
        for one in set(level):
            here = [p for p in range(len(loss)) if gt[p] == j and level[p] == one]
            mine += sorted(here, key=lambda p: loss[p])[:count]
        mine.sort(key=lambda p: loss[p])
        if len(mine) == 1:
            kept |= set(mine)
            continue
        each, density = slow_mixture([loss[p] for p in mine])
        low = [i for i in range(len(mine)) if each[i][0] >= each[i][1]]
        kept |= {mine[i] for i in low if i <= max(low, key=lambda i: density[i])} if low else set()
    return kept


@pytest.mark.parametrize("count", [9, 2])
def test_equals_the_slow_loop(count: int) -> None:
    g = torch.Generator().manual_seed(count)
    gt, level = torch.randint(0, 7, (300,), generator=g) * 5, torch.randint(0, 3, (300,), generator=g)
    loss = torch.rand(300, generator=g) * (1 + level) + (torch.rand(300, generator=g) > 0.6) * 2
    gt[0], gt[1], gt[2] = 2, 3, 3  # one with a single candidate, one with two
    found = choose_paa(loss, gt, level, count=count)
    wanted = slow_choice(loss.double().tolist(), gt.tolist(), level.tolist(), count)
    assert set(found.nonzero().flatten().tolist()) == wanted
    assert 0 in wanted
    assert 20 < len(wanted) < (0.9 if count == 9 else 1) * 300
    order = torch.randperm(300, generator=g)
    assert torch.equal(choose_paa(loss[order], gt[order], level[order], count=count), found[order])


def test_a_row_is_fitted_alone() -> None:
    """Padded rows that converge after different numbers of rounds equal rows fitted alone."""
    rows = [
        [0.1, 0.11, 0.12, 3.0, 3.1],
        [10 + 0.25 * i + 0.01 * i * i for i in range(12)],
        [0.0, 0.5, 0.9, 1.4, 2.2, 2.3, 5.0],
    ]
    values, valid = torch.zeros(3, 20, dtype=torch.float64), torch.zeros(3, 20, dtype=torch.bool)
    for i, row in enumerate(rows):
        values[i, : len(row)], valid[i, : len(row)] = torch.tensor(row, dtype=torch.float64), True
    each, density = mixture(values, valid)
    for i, row in enumerate(rows):
        wanted_each, wanted = slow_mixture(row)
        assert density[i, : len(row)].tolist() == pytest.approx(wanted, rel=1e-9)
        torch.testing.assert_close(each[i, : len(row)], torch.tensor(wanted_each, dtype=torch.float64))


def test_by_hand() -> None:
    """Four low losses and four high ones: the low ones up to their densest, which is the mean of the four's nearest."""
    loss = torch.tensor([5.0, 0.2, 0.1, 5.1, 0.22, 0.3, 5.2, 4.9])
    zero = torch.zeros(8, dtype=torch.int64)
    assert choose_paa(loss, zero, zero).nonzero().flatten().tolist() == [1, 2]
    assert choose_paa(loss, zero, zero, count=1).nonzero().flatten().tolist() == [2]


def test_equal_losses_and_none() -> None:
    zero = torch.zeros(3, dtype=torch.int64)
    assert choose_paa(torch.ones(3), zero, zero)[0]
    assert choose_paa(torch.zeros(0), zero[:0], zero[:0]).shape == (0,)
