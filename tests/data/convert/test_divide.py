"""A divided data set: what is divided, by which share, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.data.convert.divide import divide_splits
from cledet.data.index import DetectionIndex
from cledet.data.splitting import divide
from cledet.errors import UserError

Make = Callable[..., DetectionIndex]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, make_index: Make) -> DetectionIndex:
    """100 different images of 32x32 px, with a box each."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [root / f"{i}.png" for i in range(100)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (32, 32, 3), np.uint8))
    return make_index(*[[(i % 2, i % 9, 1, 9, 9)] for i in range(100)], paths=paths, sizes=[(32, 32)] * 100)


def numbers(part: DetectionIndex) -> set[int]:
    return {int(Path(path).stem) for path in part.paths}


def test_three_parts(index: DetectionIndex) -> None:
    parts, notes = divide_splits({"all": index}, (), 0.2, 0.1)
    assert list(parts) == ["train", "val", "test"]
    assert notes == ()
    train, val, test = (numbers(part) for part in parts.values())
    assert train | val | test == {*range(100)}
    assert len(train) + len(val) + len(test) == 100
    assert 10 <= len(val) <= 30
    assert 5 <= len(test) <= 15
    assert parts["val"].num_boxes == len(val)
    held_out = set(np.flatnonzero(divide(index, 0.3).val).tolist())
    assert val | test == held_out  # a test part takes no image from the training part of the same shares


def test_without_a_test_part(index: DetectionIndex) -> None:
    parts, _ = divide_splits({"train": index}, (), 0.2)
    assert list(parts) == ["train", "val"]
    assert numbers(parts["val"]) == set(np.flatnonzero(divide(index, 0.2).val).tolist())


def test_other_splits_are_kept(index: DetectionIndex) -> None:
    half, rest = index.subset(range(50)), index.subset(range(50, 100))
    parts, _ = divide_splits({"train": half, "test2017": rest}, (), 0.2)
    assert list(parts) == ["train", "val", "test2017"]
    assert parts["test2017"] is rest
    with pytest.raises(UserError, match="a split 'test2017' already, beside the new 'test'"):
        divide_splits({"train": half, "test2017": rest}, (), 0.2, 0.1)
    joined, _ = divide_splits({"train": half, "val": rest}, ("train", "val"), 0.2)
    assert numbers(joined["val"]) == set(np.flatnonzero(divide(index, 0.2).val).tolist())


def test_an_image_of_several_splits_is_taken_once(index: DetectionIndex) -> None:
    parts, notes = divide_splits({"train": index.subset(range(50)), "trainval": index}, ("train", "trainval"), 0.2)
    assert sum(map(len, parts.values())) == sum(part.num_boxes for part in parts.values()) == 100
    assert notes == ("set/train: 50 images repeat the content of another: kept once",)


def test_lost_classes_are_said(index: DetectionIndex, make_index: Make) -> None:
    rare = make_index(*[[(0, 1, 1, 9, 9)]] * 99, [(1, 1, 1, 9, 9)], paths=index.paths.tolist())
    _, notes = divide_splits({"all": rare}, (), 0.2)
    assert len(notes) == 1
    assert notes[0].endswith("1 of 2 classes have no object: dog")


@pytest.mark.parametrize(
    ("chosen", "fractions", "words"),
    [
        ((), (0.2,), "it is open which of the splits train, extra to divide"),
        (("extra",), (0.2,), "there is a split 'train' already, beside the new 'train' .*--split extra --split train"),
        (("train",), (0.0,), "fractions of 0 for val and 0 for test leave nothing to validate on"),
        (("train",), (0.5, 0.5), "fractions of 0.5 for val and 0.5 for test leave nothing to train on"),
    ],
)
def test_mistakes(index: DetectionIndex, chosen: tuple[str, ...], fractions: tuple[float, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        divide_splits({"train": index, "extra": index}, chosen, *fractions)
