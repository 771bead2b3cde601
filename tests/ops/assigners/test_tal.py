"""Task-aligned assignment against a loop over objects and anchors in float64, and by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from cledet.models.anchors import Anchors
from cledet.ops.assigners.tal import assign_tal


def drawn(seed: int, classes: int = 3) -> tuple[torch.Tensor, ...]:
    """Two images of 64x64 with 80 points, boxes around them, and five objects each, the last of the second padding."""
    g = torch.Generator().manual_seed(seed)
    anchors = Anchors((8, 16), 4.0, octaves=(1.0,), ratios=(1.0,))([(8, 8), (4, 4)], (64, 64))[0].double()
    sides = torch.rand(2, 80, 4, generator=g, dtype=torch.float64) * 24
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)
    corner, side = (torch.rand(2, 5, 2, generator=g, dtype=torch.float64) * 40 for _ in range(2))
    gts = torch.cat([corner, corner + side + 4], -1)
    gts[1, 4] = 0
    logits = torch.randn(2, 80, classes, generator=g, dtype=torch.float64)
    return anchors, boxes, logits, gts, torch.randint(0, classes, (2, 5), generator=g)


def slow_tal(anchors, boxes, logits, gts, labels, count):  # type: ignore[no-untyped-def]
    """Image by image; t and not its logarithm."""
    assigned, quality = torch.full((2, len(anchors)), -1), torch.zeros(2, len(anchors), dtype=torch.float64)
    for i in range(2):
        iou, t = box_iou(gts[i], boxes[i]).nan_to_num(), {}
        claims: dict[int, list[int]] = {}
        for j in range(len(gts[i])):
            for a, (x1, y1, x2, y2) in enumerate(anchors.tolist()):
                x, y = (x1 + x2) / 2, (y1 + y2) / 2
                inside = min(x - gts[i, j, 0], y - gts[i, j, 1], gts[i, j, 2] - x, gts[i, j, 3] - y) > 0.01
                value = float(logits[i, a, labels[i, j]].sigmoid() * iou[j, a] ** 6)
                if inside and value > 0:
                    t[j, a] = value
            best = sorted((a for k, a in t if k == j), key=lambda a: (-t[j, a], a))[:count]
            for a in best:
                claims.setdefault(a, []).append(j)
        for a, rivals in claims.items():
            assigned[i, a] = min(rivals, key=lambda j: (-float(iou[j, a]), j))
        for j in range(len(gts[i])):
            mine = (assigned[i] == j).nonzero().flatten().tolist()
            for a in mine:
                quality[i, a] = t[j, a] / max(t[j, b] for b in mine) * max(iou[j, b] for b in mine)
    return assigned, quality


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [13, 3])
def test_equals_the_slow_loop(seed: int, count: int) -> None:
    given = drawn(seed)
    wanted, quality = slow_tal(*given, count)
    assert (wanted >= 0).sum() > 8
    for chunk in (2, 16):
        ours, target = assign_tal(*given, count=count, chunk=chunk)
        assert torch.equal(ours, wanted)
        torch.testing.assert_close(target, quality, rtol=1e-9, atol=0)


def test_by_hand() -> None:
    """Three points in an object of 20 x 20 with scores 0.5, 0.5 and 0.9, one outside it, and a second object."""
    anchors = torch.tensor([[4.0, 4, 6, 6], [9, 9, 11, 11], [14, 14, 16, 16], [29, 29, 31, 31]])
    boxes = torch.tensor([[[0.0, 0, 20, 20], [0, 0, 20, 10], [0, 0, 20, 10], [0, 0, 20, 20]]])
    logits = torch.tensor([[[0.0], [0.0], [0.9], [5.0]]])
    logits[0, 2] = torch.tensor(0.9).logit()
    gts = torch.tensor([[[0.0, 0, 20, 20], [0, 0, 0, 0]]])
    gt, quality = assign_tal(anchors, boxes, logits, gts, torch.tensor([[0, 0]]))
    assert gt.tolist() == [[0, 0, 0, -1]]
    assert quality[0].tolist() == pytest.approx([1, 0.5**6, 1.8 * 0.5**6, 0], rel=1e-5)
    assert assign_tal(anchors, boxes, logits, gts, torch.tensor([[0, 0]]), count=2)[0].tolist() == [[0, -1, 0, -1]]
    gt, quality = assign_tal(anchors, boxes, logits, gts, torch.tensor([[0, 0]]), alpha=0, count=2)
    assert gt.tolist() == [[0, 0, -1, -1]]  # equals go to the first
    assert quality[0].tolist() == pytest.approx([1, 0.5**6, 0, 0], rel=1e-5)


def test_an_anchor_of_two_objects_goes_to_the_higher_iou() -> None:
    anchors, boxes = torch.tensor([[4.0, 4, 6, 6]]), torch.tensor([[[0.0, 0, 10, 10]]])
    gts = torch.tensor([[[0.0, 0, 10, 6], [0, 0, 10, 8], [0, 0, 8, 10]]])
    logits = torch.tensor([[[5.0, -5.0]]])
    for chunk in (1, 16):
        gt, quality = assign_tal(anchors, boxes, logits, gts, torch.tensor([[0, 1, 0]]), chunk=chunk)
        assert gt.tolist() == [[1]]  # though the first has the higher t, and the third the same IoU
        assert quality.tolist() == [[pytest.approx(0.8)]]


def test_boxes_that_hardly_overlap_are_ranked() -> None:
    """IoUs of 4e-8 and 1e-8, whose sixth power float32 does not have; one of 0 is not taken."""
    anchors = torch.tensor([[499.0, 499, 501, 501]]).repeat(3, 1)
    boxes = torch.tensor([[[500.0, 500, 500.1, 500.1], [500, 500, 500.2, 500.2], [500, 500, 500, 500]]])
    gts = torch.tensor([[[0.0, 0, 1000, 1000]]])
    gt, quality = assign_tal(anchors, boxes, torch.zeros(1, 3, 1), gts, torch.zeros(1, 1, dtype=torch.int64))
    assert gt.tolist() == [[0, 0, -1]]
    assert quality[0, 0] / quality[0, 1] == pytest.approx(0.25**6, rel=0.02)
    assert assign_tal(anchors, boxes, torch.zeros(1, 3, 1), gts, torch.zeros(1, 1, dtype=torch.int64), count=1)[
        0
    ].tolist() == [[-1, 0, -1]]


def test_without_objects_there_is_only_background() -> None:
    anchors, boxes, logits, _, _ = drawn(0)
    for gts in (torch.zeros(2, 0, 4), torch.zeros(2, 2, 4)):
        gt, quality = assign_tal(anchors, boxes, logits, gts, torch.zeros(gts.shape[:2], dtype=torch.int64))
        assert (gt == -1).all()
        assert (quality == 0).all()
