"""FCOS's assignment against torchvision's FCOS, and by hand where the two read the paper differently."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torchvision.models.detection.fcos import FCOS

from cledet.models.anchors import Anchors
from cledet.ops.assigners.fcos import assign_fcos

SHAPES, STRIDES = [(16, 16), (8, 8), (4, 4)], (8, 16, 32)


def points(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    return Anchors(STRIDES, scale, octaves=(1.0,), ratios=(1.0,))(SHAPES, (128, 128))


def torchvisions(anchors: torch.Tensor, gts: torch.Tensor, radius: float) -> torch.Tensor:
    """Capture the targets that FCOS.compute_loss passes to its head."""
    head = SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched)
    stub = SimpleNamespace(head=head, center_sampling_radius=radius)
    return FCOS.compute_loss(stub, [{"boxes": gts}], {}, [anchors], [256, 64, 16])[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("radius", [1.5, 100.0])
def test_equals_torchvision(seed: int, radius: float) -> None:
    g = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(2, 9, 2, generator=g) * 90, 4 + torch.rand(2, 9, 2, generator=g) * 100
    gts = torch.cat([corner, corner + side], -1)
    anchors, strides = points()
    wanted = torch.stack([torchvisions(anchors, one, radius) for one in gts])
    assert len(wanted.unique()) > 4
    for chunk in (2, 16):
        assert torch.equal(assign_fcos(anchors, gts, strides, radius=radius, chunk=chunk), wanted)
    assert torch.equal(assign_fcos(points(8.0)[0], gts, strides, radius=radius), wanted)  # only centres count
    if radius > 99:
        assert torch.equal(assign_fcos(anchors, gts, strides, radius=0), wanted)


def test_a_longest_distance_at_the_border_belongs_to_both_levels() -> None:
    """The paper leaves out what is over or under; 64 px is neither over the lowest level's end nor under the next's."""
    anchors, strides = points()
    gt = torch.tensor([[[0.0, 0, 128, 128]]])
    found = assign_fcos(anchors, gt, strides)
    middle = ((anchors[:, :2] + anchors[:, 2:]) / 2 == 64).all(1).nonzero().squeeze(1)
    assert found[0, middle].tolist() == [0, 0, -1]


def test_equal_areas_go_to_the_first_and_boxes_without_area_to_none() -> None:
    anchors, strides = points()
    gts = torch.tensor([[[10.0, 10, 10, 40], [8, 8, 40, 40], [9, 9, 41, 41], [0, 0, 0, 0]]])
    for chunk in (1, 2, 16):
        found = assign_fcos(anchors, gts, strides, chunk=chunk)[0]
        assert set(found.tolist()) == {-1, 1}
    assert (assign_fcos(anchors, torch.zeros(1, 0, 4), strides) == -1).all()


def test_a_point_on_the_edge_is_outside() -> None:
    anchors, strides = points()
    found = assign_fcos(anchors, torch.tensor([[[16.0, 16, 32, 32]]]), strides)[0]
    assert ((anchors[found == 0][:, :2] + anchors[found == 0][:, 2:]) / 2).tolist() == [[24, 24]]
