"""Class lists made one: exact names, spellings, explicit renaming, conflicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cledet.data.convert.classes import lost_classes, parse_renames, rename_classes, respelled, unify_classes
from cledet.data.index import DetectionIndex
from cledet.errors import UserError

Make = Callable[..., DetectionIndex]
BOX = (1, 1, 5, 5)


def named(index: DetectionIndex) -> list[str]:
    return [index.classes[label] for label in index.labels]


def test_new_classes_come_after_known_ones(make_index: Make) -> None:
    one = make_index([(0, *BOX), (1, *BOX)], classes=("cat", "dog"), category_ids=np.array([3, 7]))
    other = make_index(
        [(0, *BOX), (1, *BOX), (2, *BOX)], classes=("dog", "bird", "cow"), category_ids=np.array([1, 3, 9])
    )
    first, second = unify_classes([one, other])
    assert first.classes == second.classes == ("cat", "dog", "bird", "cow")
    assert first.category_ids.tolist() == second.category_ids.tolist() == [3, 7, 8, 9]  # 3 is taken
    assert (named(first), named(second)) == (["cat", "dog"], ["dog", "bird", "cow"])


def test_equal_classes_are_left_alone(make_index: Make) -> None:
    one, other = make_index([(0, *BOX)]), make_index([])
    assert unify_classes([one, other]) == [one, other]


def test_two_classes_of_one_name_are_refused(make_index: Make) -> None:
    with pytest.raises(UserError, match="set/train: two classes are called 'cat'"):
        unify_classes([make_index([], classes=("cat", "cat"))])


def test_renaming_joins_classes(make_index: Make) -> None:
    index = make_index(
        [(0, *BOX), (1, *BOX), (2, *BOX)], classes=("auto", "dog", "car"), category_ids=np.array([5, 6, 9])
    )
    joined = rename_classes(index, {"auto": "car"})
    assert joined.classes == ("car", "dog")
    assert joined.category_ids.tolist() == [5, 6]
    assert joined.labels.tolist() == [0, 1, 0]
    swapped = rename_classes(index, {"auto": "dog", "dog": "auto"})
    assert named(swapped) == ["dog", "auto", "car"]


def test_spellings_match() -> None:
    assert respelled(["traffic light", "cat"], ["Traffic-Light", "cat", "dog"], "B") == {
        "Traffic-Light": "traffic light"
    }
    assert respelled(["STRASSE"], ["straße"], "B") == {"straße": "STRASSE"}


@pytest.mark.parametrize(
    ("known", "new", "words"),
    [
        (["cat", "Cat"], ["CAT"], "class 'CAT' of B may be 'cat' or 'Cat' .say which: --rename 'CAT=cat'"),
        (["CAT"], ["cat", "Cat"], "class 'Cat' of B may be 'cat' or 'CAT'"),
        (["cat"], ["Cat", "cat"], "class 'Cat' of B may be 'cat'"),
    ],
)
def test_open_matches_are_refused(known: list[str], new: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        respelled(known, new, "B")


def test_renames_are_parsed() -> None:
    assert parse_renames(["a=b", " c = d e ", "a=b"], ["a", "c"]) == {"a": "b", "c": "d e"}
    for pair, words in (("a", "old=new"), ("a=", "old=new"), ("ca=b", "no class 'ca'.*did you mean cat")):
        with pytest.raises(UserError, match=words):
            parse_renames([pair], ["a", "cat"])
    with pytest.raises(UserError, match="class 'a' is to be both 'b' and 'c'"):
        parse_renames(["a=b", "a=c"], ["a"])


def test_lost_classes_are_named(make_index: Make) -> None:
    whole = make_index([(0, *BOX)], [(1, *BOX)], ignore=[])
    assert lost_classes(whole, {"val": whole.subset([0]), "train": whole}) == (
        "val: 1 of 2 classes have no object: dog",
    )
