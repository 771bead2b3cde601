"""Copies of a picture are near-duplicates, other pictures are not, and groups are those of a slow loop."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from cledet.data import near_duplicates as module
from cledet.data.near_duplicates import (
    MAX_DISTANCE,
    MIN_CORRELATION,
    are_near,
    difference_hashes,
    group_near_duplicates,
    hamming_distances,
    thumbnail,
)


def photo(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Smooth blobs with some noise, as in photos."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + rng.normal(0, 4, coarse.shape), 0, 255).astype(np.uint8)


def near(one: np.ndarray, other: np.ndarray) -> bool:
    groups = group_near_duplicates(np.stack([thumbnail(one), thumbnail(other)]))
    return bool(groups[0] == groups[1])


def test_a_thumbnail_averages_gray_over_areas() -> None:
    image = photo(0, 50, 70)
    height, width = image.shape[:2]
    for row, column in ((0, 0), (3, 17), (15, 9)):
        part = image[row * height // 16 : (row + 1) * height // 16, column * width // 18 : (column + 1) * width // 18]
        gray = float((part.reshape(-1, 3).astype(float) @ [77, 150, 29]).mean() / 256)
        assert thumbnail(image)[row, column] == int(gray)
    assert (thumbnail(np.full((200, 300, 3), 93, np.uint8)) == 93).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (15, 17), (16, 18)])
def test_a_small_image_repeats_its_pixels(shape: tuple[int, int]) -> None:
    pixels = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    found = thumbnail(np.repeat(pixels[:, :, None], 3, axis=2))
    assert found.shape == (16, 18)
    assert set(found.ravel().tolist()) <= set(range(int(pixels.max()) + 1))
    if shape == (16, 18):
        assert (found == pixels).all()


def test_hashes_hold_a_bit_for_each_brighter_area() -> None:
    rising = np.tile(np.repeat(np.arange(9, dtype=np.uint8) * 20, 2), (16, 1))
    step = rising.copy()
    step[0, 4:6] = 255  # the first row's third area: brighter than the second by more, and the fourth is now darker
    assert difference_hashes(np.stack([rising, rising[:, ::-1], step])).tolist()[:2] == [2**64 - 1, 0]
    assert hamming_distances(*[difference_hashes(np.stack([rising, step]))] * 2).tolist() == [[0, 1], [1, 0]]


def test_distances_without_the_instruction_of_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 30, dtype=np.uint64)
    slow = [[(one ^ other).bit_count() for other in hashes.tolist()] for one in hashes.tolist()]
    assert hamming_distances(hashes, hashes).tolist() == slow
    if hasattr(np, "bitwise_count"):
        monkeypatch.delattr(np, "bitwise_count")
    assert hamming_distances(hashes, hashes).tolist() == slow


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_near_and_other_photos_are_not(seed: int) -> None:
    image = photo(seed)
    encoded = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    copies = {
        "encoded": encoded,
        "half": cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_LINEAR),
        "larger": cv2.resize(image, (301, 213)),
        "brighter": np.clip(image * 1.2, 0, 255).astype(np.uint8),
        "gray": np.repeat(image @ [0.299, 0.587, 0.114], 3).reshape(image.shape).astype(np.uint8),
        "cropped": image[1:-1, 1:-1],
    }
    assert {name for name, copy in copies.items() if near(image, copy)} == copies.keys()
    assert not any(near(image, photo(other)) for other in range(100, 120))


def test_uniform_images_are_near_to_equal_ones_only() -> None:
    black, gray = np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 90, np.uint8)
    assert near(black, np.zeros((40, 30, 3), np.uint8))
    assert not near(black, gray)
    assert not near(black, photo(0))


def test_groups_are_chains_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connected components of all pairs, one by one in float64, for blocks of few hashes and few pairs."""
    rng = np.random.default_rng(3)
    thumbnails = [thumbnail(photo(seed % 7)) for seed in range(24)]
    noise = rng.normal(0, 1, (24, 16, 18)) * rng.uniform(1, 14, (24, 1, 1))
    some = np.clip(np.stack(thumbnails) + noise, 0, 255).astype(np.uint8)
    expected = list(range(24))
    hashes, edges = difference_hashes(some).tolist(), 0
    for i, j in combinations(range(24), 2):
        close = (hashes[i] ^ hashes[j]).bit_count() <= MAX_DISTANCE
        if close and np.corrcoef(some[i].ravel(), some[j].ravel())[0, 1] >= MIN_CORRELATION:
            edges += 1
            expected = [expected[i] if group == expected[j] else group for group in expected]
    assert edges > 24 - len(set(expected)) > 0  # some pairs close circles
    for block, pairs in ((2**18, 2**14), (50, 3), (1, 1)):
        monkeypatch.setattr(module, "_BLOCK", block)
        monkeypatch.setattr(module, "_PAIRS", pairs)
        groups = group_near_duplicates(some).tolist()
        assert {(i, j) for i, j in combinations(range(24), 2) if groups[i] == groups[j]} == {
            (i, j) for i, j in combinations(range(24), 2) if expected[i] == expected[j]
        }


def test_correlation_is_that_of_numpy() -> None:
    rng = np.random.default_rng(1)
    one = rng.integers(0, 256, (200, 16, 18), np.uint8)
    other = np.clip(one + rng.normal(0, 1, one.shape) * rng.uniform(10, 50, (200, 1, 1)), 0, 255).astype(np.uint8)
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] >= MIN_CORRELATION for a, b in zip(one, other)]
    assert are_near(one, other).tolist() == expected
    assert 20 < sum(expected) < 180
    assert are_near(other, one).tolist() == expected


def test_nothing_has_no_groups() -> None:
    assert group_near_duplicates(np.zeros((0, 16, 18), np.uint8)).tolist() == []
