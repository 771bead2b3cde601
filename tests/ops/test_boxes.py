import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from cledet.ops.boxes import (
    area,
    box_intersection,
    box_iou,
    centers,
    clip_boxes,
    contains,
    elementwise_iou,
    intersection,
)

A = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])
B = torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10], [25, 30, 25, 30]])


def test_contains_counts_the_edge_and_no_box_without_points() -> None:
    points = torch.tensor([[0.0, 10], [10, 10.5], [5, 5]])
    assert contains(A[0], points).tolist() == [True, False, True]
    assert contains(A[0, None].expand(0, 4), points[:0]).tolist() == []


coordinate = st.floats(-1e4, 1e4, width=32)
boxes = st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), min_size=0, max_size=6)


def test_by_hand() -> None:
    assert area(A).tolist() == [100, 200]
    assert centers(A).tolist() == [[5, 5], [25, 30]]
    assert box_intersection(A, B).tolist() == [[50, 100, 0], [0, 0, 0]]
    assert box_iou(A, B)[0].tolist() == pytest.approx([50 / 150, 1, 0])
    assert elementwise_iou(A, A).tolist() == [1, 1]
    assert intersection(A, B[:2]).tolist() == [50, 0]


@settings(max_examples=100, deadline=None)
@given(boxes, boxes)
def test_any_coordinates_give_an_iou_between_0_and_1(a: list, b: list) -> None:  # type: ignore[type-arg]
    first, second = torch.tensor(a).reshape(-1, 4), torch.tensor(b).reshape(-1, 4)
    iou = box_iou(first, second)
    assert iou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1 + 1e-5)).all()
    assert torch.equal(iou, box_iou(second, first).T)


def test_equals_torchvision_to_the_last_bit() -> None:
    corner, side = torch.rand(2, 300, 2) * 100
    sample = torch.cat([corner, corner + side], 1)
    assert torch.equal(box_iou(sample, sample), torchvision.ops.box_iou(sample, sample))


def test_boxes_without_area_overlap_nothing() -> None:
    flat = torch.tensor([[0.0, 0, 0, 0], [3, 3, 3, 9], [9, 9, 3, 3]])
    assert box_iou(flat, torch.cat([flat, A])).count_nonzero() == 0
    assert area(flat).tolist() == [0, 0, 0]


def test_leading_dimensions_broadcast() -> None:
    batch = torch.stack([A, A + 5])
    assert box_iou(batch, B).shape == (2, 2, 3)
    assert torch.equal(box_iou(batch, B)[1], box_iou(A + 5, B))
    assert box_iou(torch.zeros(2, 0, 4), B).shape == (2, 0, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_narrow_dtypes_are_computed_in_float32(dtype: torch.dtype) -> None:
    big = torch.tensor([[0, 0, 1000, 1000]]).to(dtype)  # the area is beyond float16
    assert area(big).dtype == torch.float32
    assert area(big).item() == big[0, 2].float() ** 2
    assert box_iou(big, big).item() == 1


def test_clip_keeps_boxes_in_the_image() -> None:
    out = clip_boxes(torch.tensor([[-5.0, -5, 50, 50], [1, 2, 3, 4]]), (20, 30))
    assert out.tolist() == [[0, 0, 30, 20], [1, 2, 3, 4]]
