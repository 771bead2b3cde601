"""Batches are a pure function of (seed, step)."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cledet.data.sampler import EpochBatches, images_per_epoch, sequential_batches


@settings(deadline=None)
@given(n=st.integers(1, 20), batch=st.integers(1, 30), start=st.integers(0, 12))
def test_every_epoch_has_every_image_once_and_a_start_in_the_middle_changes_nothing(
    n: int, batch: int, start: int
) -> None:
    whole = list(EpochBatches(n, batch, seed=3, total_steps=12))
    assert list(EpochBatches(n, batch, seed=3, total_steps=12, start_step=start)) == whole[start:]
    assert all(len(keys) == batch for keys in whole)
    keys = [key[:2] for keys in whole for key in keys]
    full = [(epoch, image) for epoch in range(len(keys) // n) for image in range(n)]
    assert Counter(keys[: len(full)]) == Counter(full)


def test_epochs_and_seeds_differ() -> None:
    first, second = list(EpochBatches(50, 50, seed=0, total_steps=2))
    assert [key.position for key in first] != [key.position for key in second]
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
        positions = [[p for e, p, *_ in batch if e == epoch] for batch in batches[8 * epoch : 8 * epoch + 8]]
        assert sorted(p for batch in positions for p in batch) == list(range(64))
        assert [groups[p].mean() for p in positions] == [0, 0, 0, 0, 0, 0, 1, 1]
    assert batches[:8] != [[key._replace(epoch=0) for key in batch] for batch in batches[8:]]


def test_evaluation_batches_hold_one_group_and_every_image_once():
    groups = np.array([5, 2, 5, 5, 2, 9])
    assert sequential_batches(6, 2, groups=groups) == [[1, 4], [0, 2], [3], [5]]
    assert sequential_batches(6, 2, groups=groups, rank=1, world=2) == [[0, 2], [5]]


def drawn(repeats: np.ndarray, epoch_count: int, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each epoch, [epochs, n]."""
    images = images_per_epoch(len(repeats), repeats)
    batches = EpochBatches(len(repeats), images, seed=seed, total_steps=epoch_count, repeats=repeats)
    counts = np.zeros((epoch_count, len(repeats)), dtype=np.int64)
    for epoch, keys in enumerate(batches):
        assert {key.epoch for key in keys} == {epoch}
        np.add.at(counts[epoch], [key.position for key in keys], 1)
    return counts


FACTORS = st.lists(st.floats(1, 5), min_size=1, max_size=12).map(np.array)


@settings(deadline=None)
@given(repeats=FACTORS, seed=st.integers(0, 2**63 - 1))
def test_an_epoch_has_each_image_its_factor_rounded_down_or_up(repeats: np.ndarray, seed: int) -> None:
    counts, images = drawn(repeats, 3, seed), math.ceil(math.fsum(repeats))
    assert (counts.sum(axis=1) == images).all()
    scaled = repeats * (images / math.fsum(repeats))
    assert (counts >= np.floor(repeats)).all()
    assert (counts >= np.floor(scaled)).all()
    assert (counts <= np.floor(scaled) + 1).all()


@settings(deadline=None)
@given(repeats=FACTORS, batch=st.integers(1, 30), start=st.integers(0, 12))
def test_repeated_images_are_a_function_of_seed_and_step(repeats: np.ndarray, batch: int, start: int) -> None:
    """Full batches, copies numbered from 0 in each epoch, and the same after a start in the middle."""
    n = len(repeats)
    whole = list(EpochBatches(n, batch, seed=3, total_steps=12, repeats=repeats))
    assert list(EpochBatches(n, batch, seed=3, total_steps=12, start_step=start, repeats=repeats)) == whole[start:]
    assert all(len(keys) == batch for keys in whole)
    keys, images = [key for keys in whole for key in keys], images_per_epoch(n, repeats)
    assert [key.epoch for key in keys] == [k // images for k in range(len(keys))]
    assert len(set(keys)) == len(keys)
    for epoch in range(len(keys) // images):
        copies = sorted(key[1:3] for key in keys if key.epoch == epoch)
        assert all(copy == 0 or copies[i - 1] == (position, copy - 1) for i, (position, copy) in enumerate(copies))


def test_the_mean_number_of_draws_is_the_factor() -> None:
    """Factors of sum 9: nothing is scaled. The standard error of a mean is at most 0.5 / sqrt(4000) = 0.008."""
    repeats = np.array([1, 1.25, 1.5, 1.9, 3.35])
    mean = drawn(repeats, 4000).mean(axis=0)
    np.testing.assert_allclose(mean, repeats, atol=0.03)
    assert mean[0] == 1
    scaled = np.array([1, 1, 2.5])  # sum 4.5, so 5 images: each factor times 10 / 9
    np.testing.assert_allclose(drawn(scaled, 4000).mean(axis=0), scaled * 10 / 9, atol=0.03)


def test_factors_of_one_draw_every_image_once() -> None:
    assert (drawn(np.ones(7), 20) == 1).all()
    assert images_per_epoch(7, np.ones(7)) == images_per_epoch(7, None) == 7


def test_repeated_images_are_shared_by_processes_and_parts_and_sorted_by_group() -> None:
    repeats, groups = np.array([1, 1, 1, 2.5, 2.5]), np.array([0, 1, 0, 1, 1])
    shares = {"seed": 0, "total_steps": 8, "repeats": repeats, "groups": groups}
    whole = list(EpochBatches(5, 8, **shares))
    parts = [list(EpochBatches(5, 8, rank=rank, world=2, parts=2, **shares)) for rank in (0, 1)]
    joined = [a + b + c + d for (a, b), (c, d) in zip(*(zip(one[::2], one[1::2]) for one in parts))]
    assert joined == whole
    assert all([groups[key.position] for key in keys] == sorted(groups[key.position] for key in keys) for keys in whole)


def test_the_last_part_of_a_run_has_no_mosaics() -> None:
    """20 steps until 0.9: steps 0 to 17, also after a start in the middle."""
    for start in (0, 17, 18):
        batches = list(EpochBatches(3, 2, seed=0, total_steps=20, start_step=start, mosaic_until=0.9))
        assert [{key.mosaic for key in keys} for keys in batches] == [{step < 18} for step in range(start, 20)]
    assert all(key.mosaic for keys in EpochBatches(3, 2, seed=0, total_steps=20) for key in keys)
    assert not any(key.mosaic for keys in EpochBatches(3, 2, seed=0, total_steps=20, mosaic_until=0) for key in keys)
