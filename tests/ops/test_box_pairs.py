"""Lists of pairs of boxes, against all pairs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cledet.ops import box_pairs
from cledet.ops.box_pairs import overlapping_pairs, side_by_side

coordinates = st.integers(0, 9) | st.sampled_from([float("inf"), -1e30, 1e-30])
boxes_and_labels = st.lists(st.tuples(*[coordinates] * 4, st.sampled_from([-3, 0, 2**40])), max_size=12)


def listed(boxes: torch.Tensor, labels: torch.Tensor) -> list[tuple[int, int]]:
    chunks = list(overlapping_pairs(boxes, labels).chunks())
    return [tuple(sorted(pair)) for a, b in chunks for pair in zip(a.tolist(), b.tolist())]


@pytest.mark.parametrize("most", [1, 3, 1 << 16])
@settings(max_examples=60, deadline=None)
@given(boxes_and_labels)
def test_each_pair_that_overlaps_in_x_is_listed_once(most: int, rows: list[tuple[float, ...]]) -> None:
    boxes = torch.tensor([row[:4] for row in rows]).reshape(-1, 4)
    labels = torch.tensor([row[4] for row in rows], dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_pairs, "PAIRS", {False: most})
        found = listed(boxes, labels)
    assert len(set(found)) == len(found)
    n = range(len(rows))
    same = [(i, j) for i in n for j in n if i < j and labels[i] == labels[j]]
    assert set(found) <= set(same)
    x1, x2 = boxes[:, 0].tolist(), boxes[:, 2].tolist()
    wide = {(i, j) for i, j in same if x1[i] < x2[i] and x1[j] < x2[j] and max(x1[i], x1[j]) < min(x2[i], x2[j])}
    assert wide <= set(found)


def test_boxes_apart_in_x_are_not_listed() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 9], [3, 0, 5, 9], [4, 8, 6, 9], [4, 0, 5, 1]])
    assert listed(boxes, torch.tensor([1, 1, 1, 0])) == [(1, 2)]


def test_side_by_side_gathers_boxes_with_contiguous_columns() -> None:
    boxes = torch.arange(12.0).reshape(3, 4)
    gathered = side_by_side(boxes, torch.tensor([2, 0]))
    assert torch.equal(gathered, boxes[[2, 0]])
    assert all(column.is_contiguous() for column in gathered.unbind(1))
