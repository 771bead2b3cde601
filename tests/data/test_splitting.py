"""A division by content is independent of paths and order, stable, and fair to groups and classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cledet.data.index import DetectionIndex
from cledet.data.splitting import (
    balance,
    class_groups,
    divide,
    missing_classes,
    spread_classes,
)
from cledet.errors import UserError

Make = Callable[..., DetectionIndex]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """150 small pictures, all different."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [root / f"{i:03}.png" for i in range(150)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (32, 36, 3), np.uint8))
    return paths


def chosen(index: DetectionIndex, fraction: float = 0.2) -> set[str]:
    return set(index.paths[divide(index, fraction).val].tolist())


def test_about_the_fraction_is_chosen(pictures: list[Path], make_index: Make) -> None:
    index = make_index(*[[]] * 150, paths=pictures)
    for fraction in (0.1, 0.2, 0.5, 0.8):
        mask = divide(index, fraction).val
        assert mask.dtype == np.bool_
        assert abs(mask.mean() - fraction) <= min(fraction, 1 - fraction) / 2


def test_paths_order_and_threads_have_no_part(pictures: list[Path], make_index: Make, tmp_path: Path) -> None:
    content = {path.read_bytes(): i for i, path in enumerate(pictures)}
    order = np.random.default_rng(1).permutation(150).tolist()
    for new, old in enumerate(order):
        (tmp_path / f"{new}.png").write_bytes(pictures[old].read_bytes())
    first = chosen(make_index(*[[]] * 150, paths=pictures))
    moved = make_index(*[[]] * 150, paths=[tmp_path / f"{new}.png" for new in range(150)])
    again = {pictures[content[Path(path).read_bytes()]] for path in chosen(moved)}
    assert again == set(map(Path, first))
    assert (divide(moved, 0.2).val == divide(moved, 0.2, threads=1).val).all()


def test_added_images_move_no_other(pictures: list[Path], make_index: Make) -> None:
    before = chosen(make_index(*[[]] * 100, paths=pictures[:100]))
    after = chosen(make_index(*[[]] * 150, paths=pictures))
    assert before == after & set(map(str, pictures[:100]))
    assert after - before


def test_a_larger_fraction_keeps_the_images_of_a_smaller(pictures: list[Path], make_index: Make) -> None:
    index = make_index(*[[]] * 150, paths=pictures)
    assert chosen(index, 0.2) < chosen(index, 0.4)


def test_near_duplicates_are_on_one_side(make_index: Make, tmp_path: Path) -> None:
    rng, paths = np.random.default_rng(5), []
    for i in range(30):
        picture = cv2.resize(rng.integers(0, 256, (6, 7, 3), np.uint8), (90, 70), interpolation=cv2.INTER_CUBIC)
        paths += [tmp_path / f"{i}.png", tmp_path / f"{i}.jpg", tmp_path / f"{i}s.png", tmp_path / f"{i}c.png"]
        for path, copy in zip(paths[-4:], (picture, picture, picture[::2, ::2], picture)):
            cv2.imwrite(str(path), copy)
    index = make_index(*[[]] * 120, paths=paths)
    result = divide(index, 0.3)
    assert result.near_duplicates
    assert len(set(result.groups.tolist())) == 30
    by_picture = result.val.reshape(30, 4)
    assert (by_picture.all(axis=1) | ~by_picture.any(axis=1)).all()
    assert 0.15 <= result.val.mean() <= 0.45


def test_images_alike_are_divided_by_copies(make_index: Make, tmp_path: Path) -> None:
    """A video of one scene is one group of near-duplicates, which has no second side."""
    rng = np.random.default_rng(2)
    scene = cv2.resize(rng.integers(0, 256, (6, 7, 3), np.uint8), (90, 70), interpolation=cv2.INTER_CUBIC)
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(paths):
        frame = scene.copy()
        frame[:4, :4] = 5 * (i // 2)  # frames in pairs of copies
        cv2.imwrite(str(path), frame)
    result = divide(make_index(*[[]] * 20, paths=paths), 0.2)
    assert not result.near_duplicates
    assert len(set(result.groups.tolist())) == 10
    assert (result.val[::2] == result.val[1::2]).all()
    assert 2 <= result.val.sum() <= 6


def test_damaged_images_join_no_near_duplicates(pictures: list[Path], make_index: Make, tmp_path: Path) -> None:
    broken = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(broken):
        path.write_text(f"no image {min(i, 1)}")
    result = divide(make_index(*[[]] * 23, paths=[*broken, *pictures[:20]]), 0.2)
    assert len(set(result.groups.tolist())) == 22
    assert result.groups[1] == result.groups[2]


def test_every_class_of_two_images_is_on_both_sides(pictures: list[Path], make_index: Make) -> None:
    """Classes 1 to 9 are on two images each, and class 10 on one."""
    rare = [[(1 + i // 2, 5, 5, 20, 20)] for i in range(18)] + [[(10, 5, 5, 20, 20)]]
    rows = [[(0, 1, 1, 9, 9)]] * (150 - len(rare)) + rare
    index = make_index(*rows, paths=pictures, classes=tuple("abcdefghijk"))
    mask = divide(index, 0.2).val
    val, train = (set(index.labels[side[index.image_of_boxes()]].tolist()) for side in (mask, ~mask))
    assert val & train == set(range(10))
    assert train == set(range(11))  # of one image, there is no second for validation
    unrepaired = divide(make_index(*[[]] * 150, paths=pictures), 0.2).val
    assert (mask != unrepaired).sum() <= 10


@pytest.mark.parametrize("names", [["a.png"], ["a.png", "b.png"]])
def test_one_content_cannot_be_divided(names: list[str], make_index: Make, tmp_path: Path) -> None:
    for name in names:
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 20, 3), np.uint8))
    index = make_index(*[[]] * len(names), paths=[tmp_path / name for name in names])
    with pytest.raises(UserError, match="set/train cannot be divided"):
        divide(index, 0.2)


def test_two_images_are_one_on_each_side(pictures: list[Path], make_index: Make) -> None:
    for i in range(10):
        assert divide(make_index([], [], paths=pictures[i : i + 2]), 0.2).val.sum() == 1


def test_ignored_and_degenerate_boxes_are_no_objects_of_a_class(make_index: Make) -> None:
    index = make_index([(0, 1, 1, 5, 5), (1, 1, 1, 0, 5)], [(1, 1, 1, 5, 5), (0, 2, 2, 5, 5)], ignore=[3])
    assert [part.tolist() for part in class_groups(index, np.array([4, 2]))] == [[2, 4], [1, 0]]


sides = st.integers(2, 30).flatmap(
    lambda count: st.tuples(
        st.lists(st.integers(1, 6), min_size=count, max_size=count),
        st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).random(count)),
        st.sampled_from([0.05, 0.2, 0.5, 0.9]),
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, 7)), max_size=40, unique=True),
    )
)


@settings(deadline=None, max_examples=300)
@given(sides)
def test_balance_ends_where_no_move_comes_closer(case: tuple) -> None:
    sizes, positions, fraction = np.array(case[0]), case[1], case[2]
    side = balance(sizes, positions, positions < fraction, fraction)
    assert 0 < side.sum() < len(side)
    excess = sizes[side].sum() - fraction * sizes.sum()
    if abs(excess) > min(fraction, 1 - fraction) / 2 * sizes.sum():
        movable = side if excess > 0 else ~side
        moved = np.abs(excess - np.sign(excess) * sizes[movable])
        assert movable.sum() == 1 or moved.min() >= abs(excess)
    elif 0 < (positions < fraction).sum() < len(side):
        first = positions < fraction
        start = sizes[first].sum() - fraction * sizes.sum()
        assert (side == first).all() or abs(start) > min(fraction, 1 - fraction) / 2 * sizes.sum()


@settings(deadline=None, max_examples=300)
@given(sides)
def test_classes_are_missing_only_where_no_single_move_helps(case: tuple) -> None:
    sizes, positions, fraction = np.array(case[0]), case[1], case[2]
    rows = np.unique(np.array(sorted(case[3]), dtype=np.int64).reshape(-1, 2), axis=0)
    pairs = rows[:, 0], rows[:, 1]
    start = balance(sizes, positions, positions < fraction, fraction)
    side = spread_classes(sizes, positions, start, pairs, fraction)
    assert 0 < side.sum() < len(side)
    left = missing_classes(side, pairs).sum()
    assert left <= missing_classes(start, pairs).sum()
    assert (side != start).sum() <= missing_classes(start, pairs).sum() - left
    if left:
        for group in range(len(side)):
            moved = side.copy()
            moved[group] ^= True
            if not 0 < moved.sum() < len(moved):
                continue
            assert missing_classes(moved, pairs).sum() >= left
    shuffled = np.random.default_rng(0).permutation(len(sizes))  # groups in another order
    place = np.argsort(shuffled)
    again = spread_classes(sizes[shuffled], positions[shuffled], start[shuffled], (place[pairs[0]], pairs[1]), fraction)
    assert (again == side[shuffled]).all()
