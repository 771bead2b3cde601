"""Batches are a pure function of (seed, step)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cledet.data.sampler import EpochBatches, sequential_batches


@settings(deadline=None)
@given(n=st.integers(1, 20), batch=st.integers(1, 30), start=st.integers(0, 12))
def test_every_epoch_has_every_image_once_and_a_start_in_the_middle_changes_nothing(
    n: int, batch: int, start: int
) -> None:
    whole = list(EpochBatches(n, batch, seed=3, total_steps=12))
    assert list(EpochBatches(n, batch, seed=3, total_steps=12, start_step=start)) == whole[start:]
    assert all(len(keys) == batch for keys in whole)
    keys = [key for keys in whole for key in keys]
    full = [(epoch, image) for epoch in range(len(keys) // n) for image in range(n)]
    assert Counter(keys[: len(full)]) == Counter(full)


def test_epochs_and_seeds_differ() -> None:
    first, second = list(EpochBatches(50, 50, seed=0, total_steps=2))
    assert [image for _, image in first] != [image for _, image in second]
    assert first != next(iter(EpochBatches(50, 50, seed=1, total_steps=1)))


def test_processes_share_every_batch() -> None:
    whole = list(EpochBatches(7, 6, seed=0, total_steps=5))
    parts = [list(EpochBatches(7, 6, seed=0, total_steps=5, rank=rank, world=3)) for rank in range(3)]
    assert [a + b + c for a, b, c in zip(*parts)] == whole
    with pytest.raises(ValueError, match="cannot be shared equally"):
        EpochBatches(7, 5, seed=0, total_steps=1, world=2)


def test_length() -> None:
    assert len(EpochBatches(5, 2, seed=0, total_steps=9, start_step=4)) == 5
    assert len(EpochBatches(5, 2, seed=0, total_steps=9, start_step=11)) == 0


def test_sequential_batches() -> None:
    assert sequential_batches(5, 2) == [[0, 1], [2, 3], [4]]
    assert sequential_batches(5, 2, rank=1, world=2) == [[2, 3]]
    assert sequential_batches(0, 4) == []


def test_images_of_one_group_come_together_and_each_still_once_an_epoch():
    """16 of 64 images stand on end; in batches of 8, windows of 64: two batches are theirs alone."""
    groups = np.arange(64) % 4 == 0
    batches = list(EpochBatches(64, 8, seed=0, total_steps=16, groups=groups.astype(np.int64)))
    for epoch in (0, 1):
        positions = [[p for e, p in batch if e == epoch] for batch in batches[8 * epoch : 8 * epoch + 8]]
        assert sorted(p for batch in positions for p in batch) == list(range(64))
        assert [groups[p].mean() for p in positions] == [0, 0, 0, 0, 0, 0, 1, 1]
    assert batches[:8] != [[(0, p) for _, p in batch] for batch in batches[8:]]


def test_evaluation_batches_hold_one_group_and_every_image_once():
    groups = np.array([5, 2, 5, 5, 2, 9])
    assert sequential_batches(6, 2, groups=groups) == [[1, 4], [0, 2], [3], [5]]
    assert sequential_batches(6, 2, groups=groups, rank=1, world=2) == [[0, 2], [5]]
