"""ATSS against a loop in float64 over objects, levels and anchors, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cledet.models.anchors import Anchors
from cledet.ops.assigners.atss import assign_atss
from cledet.ops.assigners.max_iou import ignore_regions
from cledet.ops.boxes import centers

LEVELS = [144, 36, 9]


def grid(scale: float = 4.0) -> torch.Tensor:
    """Squares of `scale` strides on a 96x96 image, of strides 8, 16 and 32."""
    return Anchors((8, 16, 32), scale, octaves=(1.0,), ratios=(1.0,))([(12, 12), (6, 6), (3, 3)], (96, 96))[0]


def random_boxes(n: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(n, 2, generator=g) * 80, 4 + torch.rand(n, 2, generator=g) * 60
    return torch.cat([corner, corner + side], 1)


def slow(anchors: torch.Tensor, gts: torch.Tensor, levels: list[int], count: int) -> list[int]:
    """Run algorithm 1 as in the paper."""
    a, g = anchors.double().numpy(), gts.double().numpy()
    points = (a[:, :2] + a[:, 2:]) / 2

    def iou(i: int, j: int) -> float:
        side = np.minimum(a[i, 2:], g[j, 2:]) - np.maximum(a[i, :2], g[j, :2])
        shared = float(np.prod(side.clip(min=0)))
        return shared / (float(np.prod(a[i, 2:] - a[i, :2]) + np.prod(g[j, 2:] - g[j, :2])) - shared)

    claims: dict[int, tuple[float, int]] = {}
    for j in range(len(g)):
        center, near, first = (g[j, :2] + g[j, 2:]) / 2, [], 0
        for level in levels:
            apart = [(float(((points[i] - center) ** 2).sum()), i) for i in range(first, first + level)]
            near += [i for _, i in sorted(apart)[:count]]
            first += level
        overlaps = np.array([iou(i, j) for i in near])
        threshold = overlaps.mean() + overlaps.std(ddof=1)
        for i, overlap in zip(near, overlaps):
            inside = min(*(points[i] - g[j, :2]), *(g[j, 2:] - points[i])) > 0.01
            if overlap >= threshold and inside and overlap > claims.get(i, (0, 0))[0]:
                claims[i] = (float(overlap), j)
    return [claims.get(i, (0, -1))[1] for i in range(len(a))]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [9, 4])
def test_equals_the_slow_loop(seed: int, count: int) -> None:
    anchors, gts = grid(), [random_boxes(7, seed), random_boxes(4, seed + 100)]
    batch = torch.zeros(2, 7, 4)
    batch[0], batch[1, :4] = gts[0], gts[1]  # the second image is padded
    wanted = [slow(anchors, one, LEVELS, count) for one in gts]
    assert max(wanted[0]) > 0
    for chunk in (1, 3, 16):
        assert assign_atss(anchors, batch, LEVELS, count=count, chunk=chunk).tolist() == wanted


def test_by_hand() -> None:
    """One level of five anchors in a row, of IoU 1/3, 1, 1/3 and 0 with the object, the three nearest candidates.

    Their mean is 5/9 and their deviation 0.385, so that only the one that is the object reaches the threshold.
    """
    anchors = torch.tensor([[x, 0.0, x + 16, 16] for x in (0, 8, 16, 40, 60)])
    assert assign_atss(anchors, anchors[None, 1:2], [5], count=3).tolist() == [[-1, 0, -1, -1, -1]]
    # alone on its level each is the only candidate there: 1/3 and 1 have mean 2/3 and deviation 0.47
    assert assign_atss(anchors[:2], anchors[None, 1:2], [1, 1], count=9).tolist() == [[-1, -1]]
    assert assign_atss(anchors[:1], anchors[None, 1:2], [1], count=9).tolist() == [[-1]]  # its centre is on the edge
    assert assign_atss(anchors[1:2], anchors[None, 1:2], [1], count=9).tolist() == [[0]]


def test_of_equal_distances_the_first_are_candidates() -> None:
    """An object whose centre, 36, is amid four places 32 and 40, all of one IoU with it, and room for two."""
    anchors = grid()[:144]
    found = assign_atss(anchors, torch.tensor([[[30.0, 30, 42, 42]]]), [144], count=2)[0]
    assert centers(anchors)[found == 0].tolist() == [[32, 32], [40, 32]]
    all_four = assign_atss(anchors, torch.tensor([[[30.0, 30, 42, 42]]]), [144], count=4)[0]
    assert int((all_four == 0).sum()) == 4


def test_an_anchor_of_two_objects_goes_to_the_higher_iou_and_the_first_of_equals() -> None:
    anchors = torch.tensor([[0.0, 0, 16, 16]])
    gts = torch.tensor([[[0.0, 0, 16, 12], [0, 0, 16, 15], [0, 0, 16, 15]]])
    for chunk in (1, 2, 16):
        assert assign_atss(anchors, gts, [1], chunk=chunk).tolist() == [[1]]


def test_nothing_to_assign() -> None:
    anchors = grid()
    assert (assign_atss(anchors, torch.zeros(2, 0, 4), LEVELS) == -1).all()
    assert (assign_atss(anchors, torch.tensor([[[3.0, 3, 3, 9], [0, 0, 0, 0]]]), LEVELS) == -1).all()
    between = torch.tensor([[[41.0, 41, 43, 43]]])  # no place lies in it
    assert (assign_atss(anchors, between, LEVELS) == -1).all()


def test_nine_anchors_per_position_are_candidates_together() -> None:
    anchors = Anchors((8, 16), 4.0)([(8, 8), (4, 4)], (64, 64))[0]
    gt = torch.tensor([[[20.0, 20, 52, 52]]])
    found = assign_atss(anchors, gt, [576, 144], count=81)
    assert len(centers(anchors)[found[0] == 0].unique(dim=0)) > 2
    alone = assign_atss(anchors, gt, [576, 144], count=9)
    assert len(centers(anchors[:576])[alone[0, :576] == 0].unique(dim=0)) <= 1  # one place has them all


def test_a_crowd_is_ignored_but_for_the_objects_in_it() -> None:
    anchors, gt = grid(), random_boxes(3, 5)[None]
    found = assign_atss(anchors, gt, LEVELS)
    crowd = torch.tensor([[[0.0, 0, 96, 96]]])
    ignored = ignore_regions(found, anchors, crowd)
    assert torch.equal(ignored >= 0, found >= 0)
    assert (found[0, 13], ignored[0, 13]) == (-1, -2)
