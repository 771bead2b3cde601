import math

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from cledet.ops.nms_clusters import _chunks, _index_large_class, _round_down, _rows, find_clusters, sort_by_class


def rank(*sizes: int) -> torch.Tensor:
    """Count the boxes of its class before each box, in classes of these sizes."""
    return torch.cat([torch.arange(size) for size in sizes])


def test_chunks_are_whole_classes_within_the_pairs() -> None:
    def groups(*sizes: int, pairs: int = 40, large: int = 8) -> list[tuple[int, int, int]]:
        return list(_chunks(rank(*sizes), pairs, large))

    assert groups(3, 1, 5) == [(0, 9, 4)]  # 9 boxes by 4 before each are 36 pairs
    assert groups(3, 1, 5, pairs=35) == [(0, 4, 2), (4, 9, 4)]
    assert groups(3, 9, 2, 3) == [(0, 3, 2), (3, 12, 8), (12, 17, 2)]  # of 9 up to 8 come before one: alone
    assert groups(9, 9) == [(0, 9, 8), (9, 18, 8)]
    assert groups(8, pairs=10) == [(0, 8, 7)]  # a class is never divided
    assert groups(1, 1, 1) == [(0, 3, 1)]
    assert groups(1) == [(0, 1, 1)]
    assert list(_chunks(torch.arange(0), 40, 8)) == []


def test_a_large_class_amid_small_ones() -> None:
    # both ways in one call, with the limits that are used; standard NMS class by class, and its order of score
    generator = torch.Generator().manual_seed(0)
    corner, side = torch.rand(1500, 2, generator=generator) * 60, torch.rand(1500, 2, generator=generator) * 20 + 5
    boxes, scores = torch.cat([corner, corner + side], 1), (torch.rand(1500, generator=generator) * 50).round()
    labels = torch.where(torch.rand(1500, generator=generator) < 0.4, 7, torch.arange(1500) % 30)
    assert labels.bincount().max() > 500
    keepers, cluster_index = find_clusters(boxes, scores, labels, 0.5)
    wanted = torch.full_like(cluster_index, -1)
    for c in labels.unique():
        index = (labels == c).nonzero().squeeze(1)
        kept = index[torchvision.ops.nms(boxes[index], scores[index], 0.5)]
        taken = torchvision.ops.box_iou(boxes[kept], boxes[index]) > 0.5
        wanted[index] = kept[taken.int().argmax(0)]  # kept are by score
    assert torch.equal(cluster_index, wanted)
    assert torch.equal(keepers, wanted.unique())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_is_by_class_then_score_then_index(dtype: torch.dtype) -> None:
    scores = torch.tensor([0.5, -1, 0.5, 0.0, -0.0, 2], dtype=dtype)
    labels, order = sort_by_class(scores, torch.tensor([1, 0, 1, -3, -3, 1]))
    assert order.tolist() == [3, 4, 1, 5, 0, 2]
    assert labels.tolist() == [-3, -3, 0, 1, 1, 1]


@given(st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.integers(-3, 3))), st.booleans())
def test_order_is_that_of_a_sort_by_class_and_score(boxes: list[tuple[float, int]], negative: bool) -> None:
    scores = [score if negative else abs(score) for score, _ in boxes]
    classes = [c for _, c in boxes]
    labels, order = sort_by_class(torch.tensor(scores), torch.tensor(classes, dtype=torch.long))
    assert order.tolist() == sorted(range(len(boxes)), key=lambda i: (classes[i], -scores[i], i))
    assert labels.tolist() == sorted(classes)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_class_and_score_are_sorted_as_one_integer_at_their_bounds(dtype: torch.dtype) -> None:
    scores = torch.tensor([0, 5e-324, 1e-45, 1e-38, 3e38, math.inf, math.inf, 1])
    labels = torch.tensor([2**31 - 1, 0, 0, 0, 0, 1 - 2**31, 0, 2**31 - 1], dtype=dtype)
    assert sort_by_class(scores, labels)[1].tolist() == [5, 6, 4, 3, 2, 1, 7, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_of_any_size_are_classes(dtype: torch.dtype) -> None:
    # 0, 2^32 and 2^33 are the same in 32 bits, and the halves' ends overflow with a score
    some = [0, 2**32, -(2**32), 2**33, 2**31, -(2**31), 2**31 - 1, 2**63 - 1, -(2**63), -1]
    generator = torch.Generator().manual_seed(0)
    scores = (torch.rand(400, generator=generator) * 20).round().div(20).to(dtype)
    labels = torch.tensor(some)[torch.randint(len(some), (400,), generator=generator)]
    classes, value = labels.tolist(), scores.tolist()
    found, order = sort_by_class(scores, labels)
    assert order.tolist() == sorted(range(400), key=lambda i: (classes[i], -value[i], i))
    assert found.tolist() == sorted(classes)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_the_ends_of_narrow_types_are_classes(dtype: torch.dtype) -> None:
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    labels, order = sort_by_class(torch.tensor([0.0, 1, 0.5, 2]), torch.tensor([low, low, high, high], dtype=dtype))
    assert (labels.tolist(), order.tolist()) == ([low, low, high, high], [1, 0, 3, 2])


def test_a_suppressed_box_that_overlaps_no_kept_box_keeps_its_index() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [50, 50, 59, 59]])
    assert _index_large_class(_rows(boxes, 0), torch.tensor([0]), 100, 0.5).tolist() == [0, 0, 2]


@pytest.mark.parametrize("n", [255, 256, 257, 400])
def test_places_are_counted_beyond_a_byte(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # all in one place, and every second one apart from all: the last is as far from its keeper as a class is large
    monkeypatch.setattr("cledet.ops.nms_clusters.LARGE", {False: 1024})
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(n + 1, 1)
    boxes[1:-1:2] += torch.arange(len(boxes[1:-1:2]))[:, None] * 10 + 10
    keepers, cluster_index = find_clusters(
        boxes, torch.linspace(1, 0, n + 1), torch.zeros(n + 1, dtype=torch.long), 0.5
    )
    assert keepers.tolist() == [0, *range(1, n, 2)]
    assert cluster_index.tolist() == [i if i % 2 and i < n else 0 for i in range(n + 1)]


def test_a_threshold_in_float32_decides_as_the_double() -> None:
    for numerator in range(1, 50):
        threshold = numerator / 50
        rounded = torch.tensor(_round_down(threshold, torch.float32))
        assert rounded.item() <= threshold < rounded.nextafter(torch.tensor(2.0)).item()
        assert _round_down(threshold, torch.float64) == threshold
