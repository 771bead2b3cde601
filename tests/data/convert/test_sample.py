"""Samples: rare classes stay, shares are proportional, and the choice has nothing to do with paths and order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cledet.data.convert.sample import _shares, choose, sample
from cledet.data.index import DetectionIndex
from cledet.errors import UserError

Make = Callable[..., DetectionIndex]
CLASSES = tuple("abcdef")


@pytest.fixture
def index(make_index: Make) -> DetectionIndex:
    """60 images: class 0 in all, 1 in a third, 2 in two, 3 in one of those two, 4 in another, 5 as a crowd."""
    rows = [[(0, i, 1, 9, 9), *([(1, 1, i, 5, 5)] if i % 3 == 0 else [])] for i in range(60)]
    rows[17] += [(2, 4, 4, 9, 9), (3, 4, 4, 9, 9)]
    rows[18] += [(2, 4, 4, 9, 9)]
    rows[40] += [(4, 4, 4, 9, 9)]
    rows[50] += [(5, 4, 4, 9, 9)]
    crowd = sum(map(len, rows[:51])) - 1
    return make_index(*rows, paths=[f"/d/{i}.png" for i in range(60)], classes=CLASSES, ignore=[crowd])


def test_every_class_stays(index: DetectionIndex) -> None:
    for seed in (None, 0, 1, 2):
        chosen = choose(index, 3, seed).tolist()
        assert {17, 40} < set(chosen)  # 17 holds classes 2 and 3
        assert any(i % 3 == 0 for i in chosen)
    assert index.subset(choose(index, 3)).class_counts().keys() == {*CLASSES}


def test_too_little_room_is_said(index: DetectionIndex) -> None:
    chosen, notes = sample({"train": index}, 1)
    assert chosen["train"].paths.tolist() == ["/d/17.png"]
    assert notes == ("train: 2 of 5 classes have no object: b, e",)


def test_the_choice_is_that_of_the_content(index: DetectionIndex) -> None:
    first = choose(index, 20)
    order = np.random.default_rng(0).permutation(60)
    again = index.subset(order)
    names = {Path(index.paths[i]).name for i in first}
    assert {Path(again.paths[i]).name for i in choose(again, 20)} == names
    assert set(first.tolist()) < set(choose(index, 30).tolist())  # a larger sample holds the smaller one
    assert first.tolist() != choose(index, 20, seed=0).tolist() != choose(index, 20, seed=1).tolist()
    assert (choose(index, 20, seed=1) == choose(index, 20, seed=1)).all()
    assert choose(index, 60).tolist() == list(range(60))


def test_splits_share_the_images(index: DetectionIndex) -> None:
    splits = {"train": index, "val": index.subset(range(20)), "test": index.subset(range(10))}
    chosen, _ = sample(splits, 9)
    assert {name: len(part) for name, part in chosen.items()} == {"train": 6, "val": 2, "test": 1}
    chosen, notes = sample(splits, 1)
    assert {name: len(part) for name, part in chosen.items()} == {"train": 1}
    assert notes[-1] == "no image is chosen from val, test"
    with pytest.raises(UserError, match="91 images are to be chosen of 90"):
        sample(splits, 91)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.data())
def test_shares_add_up(sizes: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, sum(sizes)))
    shares = _shares(sizes, count)
    assert sum(shares) == count
    assert all(0 <= share <= size for share, size in zip(shares, sizes))
    assert count < len(sizes) or min(shares) > 0
    if count >= 10 * len(sizes):
        exact = [count * size / sum(sizes) for size in sizes]
        assert all(abs(share - value) < len(sizes) for share, value in zip(shares, exact))
