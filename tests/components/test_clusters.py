import pytest
import torch
import torchvision

from cledet.components.clusters import _at_most, _groups, by_class, clusters


def rank(*sizes: int) -> torch.Tensor:
    """How many boxes of its class come before each, in classes of those sizes."""
    return torch.cat([torch.arange(size) for size in sizes])


def test_groups_are_whole_classes_within_the_pairs() -> None:
    def groups(*sizes: int, pairs: int = 40, large: int = 8) -> list[tuple[int, int, int]]:
        return list(_groups(rank(*sizes), pairs, large))

    assert groups(3, 1, 5) == [(0, 9, 4)]  # 9 boxes by 4 before each are 36 pairs
    assert groups(3, 1, 5, pairs=35) == [(0, 4, 2), (4, 9, 4)]
    assert groups(3, 9, 2, 3) == [(0, 3, 2), (3, 12, 8), (12, 17, 2)]  # of 9 up to 8 come before one: alone
    assert groups(9, 9) == [(0, 9, 8), (9, 18, 8)]
    assert groups(8, pairs=10) == [(0, 8, 7)]  # a class is never divided
    assert groups(1, 1, 1) == [(0, 3, 1)]
    assert groups(1) == [(0, 1, 1)]
    assert list(_groups(torch.arange(0), 40, 8)) == []


def test_a_large_class_amid_small_ones() -> None:
    # both ways in one call, with the limits that are used; standard NMS class by class, and its order of score
    generator = torch.Generator().manual_seed(0)
    corner, side = torch.rand(1500, 2, generator=generator) * 60, torch.rand(1500, 2, generator=generator) * 20 + 5
    boxes, scores = torch.cat([corner, corner + side], 1), (torch.rand(1500, generator=generator) * 50).round()
    labels = torch.where(torch.rand(1500, generator=generator) < 0.4, 7, torch.arange(1500) % 30)
    assert labels.bincount().max() > 500
    keepers, owner = clusters(boxes, scores, labels, 0.5)
    wanted = torch.full_like(owner, -1)
    for c in labels.unique():
        index = (labels == c).nonzero().squeeze(1)
        kept = index[torchvision.ops.nms(boxes[index], scores[index], 0.5)]
        taken = torchvision.ops.box_iou(boxes[kept], boxes[index]) > 0.5
        wanted[index] = kept[taken.int().argmax(0)]  # kept are by score
    assert torch.equal(owner, wanted)
    assert torch.equal(keepers, wanted.unique())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_is_by_class_then_score_then_index(dtype: torch.dtype) -> None:
    scores = torch.tensor([0.5, -1, 0.5, 0.0, -0.0, 2], dtype=dtype)
    labels, order = by_class(scores, torch.tensor([1, 0, 1, -3, -3, 1]))
    assert order.tolist() == [3, 4, 1, 5, 0, 2]
    assert labels.tolist() == [-3, -3, 0, 1, 1, 1]


def test_a_threshold_in_float32_decides_as_the_double() -> None:
    for numerator in range(1, 50):
        threshold = numerator / 50
        rounded = torch.tensor(_at_most(threshold, torch.float32))
        assert rounded.item() <= threshold < rounded.nextafter(torch.tensor(2.0)).item()
        assert _at_most(threshold, torch.float64) == threshold
