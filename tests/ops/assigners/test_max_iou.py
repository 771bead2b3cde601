import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from cledet.ops.assigners.max_iou import assign_max_iou, ignore_regions, match

ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [0, 0, 10, 3], [50, 50, 60, 60]])
GT = torch.tensor([[0.0, 0, 10, 10]])


def random_boxes(n: int, seed: int) -> torch.Tensor:
    """Whole pixels, so that equal IoUs are common."""
    corner, side = torch.randint(1, 20, (2, n, 2), generator=torch.Generator().manual_seed(seed)).float()
    return torch.cat([corner, corner + side], 1)


def test_by_hand() -> None:
    # IoU 1, 0.5, 0.4, 0.3, 0: both thresholds belong to the upper side
    assert assign_max_iou(ANCHORS, GT).tolist() == [0, 0, -2, -1, -1]
    assert assign_max_iou(ANCHORS, GT, fg_threshold=0.6, bg_threshold=0.35).tolist() == [0, -2, -2, -1, -1]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_equals_torchvision(seed: int, anchors: int, gts: int, chunk: int) -> None:
    a, g = random_boxes(anchors, seed), random_boxes(gts, seed + 1)
    iou = box_iou(g, a)
    # torchvision lets an object that overlaps nothing claim every anchor: an IoU of its own instead, that none has
    iou = torch.cat([iou, torch.full((gts, 1), 1e-9)], 1)
    wanted = Matcher(0.5, 0.4, allow_low_quality_matches=True)(iou)[:-1]
    assert torch.equal(assign_max_iou(a, g), wanted)
    matches = match(a, g, chunk)
    assert torch.equal(matches.iou, iou[:, :-1].max(0).values)
    assert torch.equal(matches.gt, iou[:, :-1].max(0).indices)


def test_the_best_anchor_is_assigned_to_the_object_that_it_overlaps_most() -> None:
    # one anchor, two objects, of IoU 0.25 and 0.2: best of both, given to the first
    gts = torch.tensor([[0.0, 0, 5, 5], [0, 0, 5, 4]])
    assert assign_max_iou(GT, gts).tolist() == [0]
    assert assign_max_iou(GT, gts.flip(0)).tolist() == [1]


def test_ties_go_to_the_lowest_object_across_chunks() -> None:
    for chunk in (1, 2, 16):
        matches = match(ANCHORS, GT.repeat(5, 1), chunk)
        assert matches.gt.tolist() == [0] * 5
        assert matches.best.tolist() == [True, False, False, False, False]


def test_equal_best_anchors_all_stay() -> None:
    anchors = torch.tensor([[0.0, 0, 4, 4], [6, 6, 10, 10], [30, 30, 40, 40]])
    assert assign_max_iou(anchors, GT).tolist() == [0, 0, -1]


def test_an_object_that_overlaps_no_anchor_has_no_positives() -> None:
    assert assign_max_iou(ANCHORS, torch.tensor([[200.0, 200, 210, 210]])).tolist() == [-1] * 5


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_padded_batch_equals_single_images(chunk: int) -> None:
    anchors, batch = random_boxes(50, 1), torch.zeros(3, 7, 4)
    images = [random_boxes(n, 10 + n) for n in (7, 2, 0)]
    for row, image in zip(batch, images):
        row[: len(image)] = image
    got = match(anchors, batch, chunk)
    for i, image in enumerate(images):
        alone = match(anchors, image)
        for ours, wanted in zip(got[:3], alone[:3]):
            assert torch.equal(ours[i], wanted)
        assert torch.equal(got.top[i, : len(image)], alone.top)
        assert not got.top[i, len(image) :].any()


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
def test_without_objects_or_anchors(shape: tuple[int, ...]) -> None:
    got = assign_max_iou(ANCHORS, torch.zeros(shape))
    assert got.shape == (*shape[:-2], 5)
    assert (got == -1).all()
    assert assign_max_iou(torch.zeros(0, 4), torch.ones(2, 3, 4)).shape == (2, 0)
    assert torch.equal(ignore_regions(got, ANCHORS, torch.zeros(shape)), got)


def test_ignored_regions_by_hand() -> None:
    # shares of the anchor: 1, 0.5 (not over), 0 for background; a positive stays, whatever lies over it
    assignment = torch.tensor([0, -1, -1, -1])
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [5, 0, 15, 10], [30, 30, 40, 40]])
    crowd = torch.tensor([[0.0, 0, 10, 50], [0, 0, 0, 0]])
    assert ignore_regions(assignment, anchors, crowd).tolist() == [0, -2, -1, -1]
    assert ignore_regions(assignment, anchors, crowd, 0.4).tolist() == [0, -2, -2, -1]
    batch = ignore_regions(assignment.repeat(2, 1), anchors, torch.stack([crowd, crowd * 0]), chunk=1)
    assert batch.tolist() == [[0, -2, -1, -1], [0, -1, -1, -1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_boxes(dtype: torch.dtype) -> None:
    a, g = random_boxes(40, 3), random_boxes(6, 4)
    assert torch.equal(assign_max_iou(a.to(dtype), g.to(dtype)), assign_max_iou(a, g))
