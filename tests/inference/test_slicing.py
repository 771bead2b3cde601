"""Slices: windows that cover an image, and boxes that are cut off at their edges."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from cledet.inference import slicing
from cledet.inference.slicing import cut_off, drop_covered, slice_windows
from cledet.models.postprocess import Detected


def test_windows_by_hand():
    """A step of 80, and the last window moved back inside."""
    assert slice_windows(100, 250, 100, 0.2) == [(0, 0, 100, 100), (80, 0, 180, 100), (150, 0, 250, 100)]
    assert slice_windows(90, 180, 100, 0.2) == [(0, 0, 100, 90), (80, 0, 180, 90)]
    assert slice_windows(50, 60, 100, 0.5) == [(0, 0, 60, 50)]
    assert slice_windows(200, 200, 100, 0) == [(0, 0, 100, 100), (100, 0, 200, 100), (0, 100, 100, 200),
                                               (100, 100, 200, 200)]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_windows_cover_every_pixel_and_overlap(seed):
    rng = np.random.default_rng(seed)
    height, width, side = (int(v) for v in rng.integers(32, 400, 3))
    overlap = float(rng.uniform(0, 0.9))
    covered = np.zeros((height, width), int)
    windows = slice_windows(height, width, side, overlap)
    for left, top, right, bottom in windows:
        assert 0 <= left < right <= width
        assert (right - left, bottom - top) == (min(side, width), min(side, height))
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1
    assert len(set(windows)) == len(windows)
    rows = sorted({top for _, top, _, _ in windows})
    assert all(b - a <= side - int(overlap * side) for a, b in pairwise(rows))


def test_boxes_at_inner_edges_are_cut_off():
    """A window of 100 px at the left edge of an image of 300x100: only its right edge is inside the image."""
    boxes = torch.tensor([[0.0, 0, 50, 50], [40, 0, 99.5, 100], [60, 10, 98, 90], [0, 0, 100, 100]])
    assert cut_off(boxes, (0, 0, 100, 100), (100, 300)).tolist() == [False, True, False, True]
    middle = boxes + torch.tensor([100.0, 0, 100, 0])
    assert cut_off(middle, (100, 0, 200, 100), (100, 300)).tolist() == [True, True, False, True]
    below = boxes + torch.tensor([0.0, 200, 0, 200])
    assert cut_off(below, (0, 200, 100, 300), (300, 100)).tolist() == [True, True, False, True]
    assert not cut_off(boxes, (0, 0, 100, 100), (100, 100)).any()


def loop(found, cut, agnostic):
    """drop_covered as its docstring says it, box by box."""
    keep = []
    for i, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
        covered = False
        for j, (a1, b1, a2, b2) in enumerate(found.boxes.tolist()):
            same = agnostic or found.labels[i] == found.labels[j]
            shared = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            covered |= bool(cut[i] and not cut[j] and same and shared > slicing.COVERED * (x2 - x1) * (y2 - y1))
        if not covered:
            keep.append(i)
    return keep


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_covered_boxes_are_dropped_as_in_the_loop(seed, agnostic, monkeypatch):
    monkeypatch.setattr(slicing, "PAIRS", 50)
    torch.manual_seed(seed)
    corners, count = torch.randint(0, 20, (40, 2)).float(), torch.tensor([0.0, 0.3, 0.6, 1.0])[seed % 4]
    found = Detected(
        torch.cat([corners, corners + torch.randint(1, 20, (40, 2))], 1), torch.rand(40), torch.randint(0, 3, (40,))
    )
    cut = torch.rand(40) < count
    keep = loop(found, cut, agnostic)
    kept = drop_covered(found, cut, agnostic)
    assert all(torch.equal(ours, values[keep]) for ours, values in zip(kept, found))
    if 0 < count < 1:
        assert len(keep) < 40


def test_a_part_without_its_whole_is_kept():
    """Two halves of one object: no view holds the whole."""
    found = Detected(torch.tensor([[50.0, 0, 100, 40], [80, 0, 140, 40]]), torch.ones(2), torch.zeros(2).long())
    assert len(drop_covered(found, torch.tensor([True, True])).boxes) == 2
    whole = Detected(*(torch.cat([a, b]) for a, b in zip(found, (torch.tensor([[50.0, 0, 140, 40]]), torch.ones(1),
                                                                torch.zeros(1).long()))))  # fmt: skip
    assert drop_covered(whole, torch.tensor([True, True, False])).boxes.tolist() == [[50, 0, 140, 40]]
    other = whole._replace(labels=torch.tensor([0, 0, 1]))
    assert len(drop_covered(other, torch.tensor([True, True, False])).boxes) == 3
    assert len(drop_covered(other, torch.tensor([True, True, False]), agnostic=True).boxes) == 1


@pytest.mark.parametrize(("covered", "kept"), [(79.0, 2), (81.0, 1)])
def test_a_part_is_dropped_if_more_than_four_fifths_of_it_are_covered(covered, kept):
    boxes = torch.tensor([[0, 0, 100, 10], [100 - covered, 0, 200, 10]])
    found = Detected(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64))
    assert len(drop_covered(found, torch.tensor([True, False])).boxes) == kept
