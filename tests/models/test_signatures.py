"""Statistics of a step, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cledet.models.assignment import Positives, Targets
from cledet.models.signatures import SIGNATURES, rank_correlation, signatures

EMPTY = torch.zeros(0)


def test_rank_correlation_by_hand() -> None:
    """1 - 6 * (1 + 1) / (4 * 15) for ranks 1, 2, 4, 3; any rising function keeps it."""
    a = torch.tensor([0.1, 0.2, 0.3, 0.4])
    b = torch.tensor([1.0, 2.0, 9.0, 8.0])
    assert rank_correlation(a, b).item() == pytest.approx(0.8)
    assert rank_correlation(a.exp(), b).item() == pytest.approx(0.8)
    assert rank_correlation(a, -a).item() == pytest.approx(-1)
    # mean ranks of ties: 1.5, 1.5, 3, 4 against 1, 2, 3, 4
    tied = rank_correlation(torch.tensor([1.0, 1, 2, 3]), torch.tensor([1.0, 2, 3, 4])).item()
    assert tied == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_nothing_to_correlate() -> None:
    assert rank_correlation(EMPTY, EMPTY).isnan()
    assert rank_correlation(torch.ones(3), torch.tensor([1.0, 2, 3])).isnan()


def positives(gt: list[int], iou: list[float], recalled: list[bool]) -> Positives:
    """Positives of one image; fields that the statistics do not use are empty."""
    count = len(gt)
    used = {"image": torch.zeros(count, dtype=torch.int64), "gt": torch.tensor(gt, dtype=torch.int64)}
    used |= {"iou": torch.tensor(iou), "recalled": torch.tensor(recalled, dtype=torch.bool)}
    return Positives(**dict.fromkeys(Positives._fields, EMPTY) | used)


def test_by_hand() -> None:
    """A square with three positives, a bar with one, and padding."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 30, 10], [0, 0, 0, 0]]])
    targets = Targets(boxes, torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 0, 4))
    pos = positives([0, 0, 1, 0], [0.5, 0.7, 0.9, 0.1], [False, False, False, True])
    found = signatures(pos, targets, torch.tensor([1.0, 2, 3, 0.5]), torch.tensor([1.0, 1, 1, 2]))
    assert tuple(found) == (*SIGNATURES, "compact", "elongated")
    wanted = {"coefficient_iou": 1, "matched_iou": 0.7, "recalled_iou": 0.1, "recalled_box": 0.4}
    wanted |= {"compact_positives": 3, "elongated_positives": 1, "compact": 1, "elongated": 1}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted)


def test_without_positives_and_without_objects() -> None:
    targets = Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, 4))
    found = signatures(positives([], [], []), targets, None, EMPTY)
    assert all(math.isnan(found[name]) for name in SIGNATURES)
    assert (int(found["compact"]), int(found["elongated"])) == (0, 0)
