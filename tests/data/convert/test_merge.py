"""Merged data sets: classes, splits, and images of equal content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cledet.data.convert.merge import merge
from cledet.data.index import DetectionIndex
from cledet.errors import UserError

Make = Callable[..., DetectionIndex]
CAT, DOG = (0, 1, 1, 9, 9), (1, 20, 20, 9, 9)


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[Path]]:
    """Writes files in a folder, each with its content."""

    def write(folder: str, *contents: str) -> list[Path]:
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / f"{i}.png" for i in range(len(contents))]
        for path, content in zip(paths, contents):
            path.write_text(content)
        return paths

    return write


def objects(index: DetectionIndex) -> list[tuple[str, list[tuple[str, float]]]]:
    """Of each image its content, and the classes and left sides of its boxes."""
    return [
        (
            Path(path).read_text(),
            [(index.classes[index.labels[row]], index.xywh[row, 0]) for row in range(*index.starts[[i, i + 1]])],
        )
        for i, path in enumerate(index.paths)
    ]


def test_splits_classes_and_ids(make_index: Make, files: Callable[..., list[Path]]) -> None:
    a = {"train": make_index([CAT], [DOG], paths=files("a", "1", "2"))}
    b = {
        "train2017": make_index([CAT, DOG], paths=files("b", "3"), classes=("Dog", "bird")),
        "val2017": make_index([DOG], paths=files("c", "4"), classes=("Dog", "bird")),
    }
    merged, notes = merge({"a": a, "b": b})
    assert notes == ("class 'Dog' of b is taken for 'dog'",)
    assert list(merged) == ["train", "val2017"]
    assert merged["train"].classes == merged["val2017"].classes == ("cat", "dog", "bird")
    assert objects(merged["train"]) == [("1", [("cat", 1)]), ("2", [("dog", 20)]), ("3", [("dog", 1), ("bird", 20)])]
    assert objects(merged["val2017"]) == [("4", [("bird", 20)])]
    assert merged["train"].image_ids.tolist() == [1, 2, 3]
    assert merged["val2017"].image_ids.tolist() == [4]


def test_classes_are_renamed(make_index: Make, files: Callable[..., list[Path]]) -> None:
    a = {"all": make_index([CAT, DOG], paths=files("a", "1"))}
    b = {"all": make_index([CAT, DOG], paths=files("b", "2"), classes=("kitty", "DOG"))}
    merged, notes = merge({"a": a, "b": b}, ["kitty=cat", "DOG=hound", "dog=hound"])
    assert notes == ()
    assert objects(merged["all"]) == [("1", [("cat", 1), ("hound", 20)]), ("2", [("cat", 1), ("hound", 20)])]
    with pytest.raises(UserError, match=r"no class 'kity' to rename .did you mean kitty"):
        merge({"a": a, "b": b}, ["kity=cat"])


def test_equal_images_are_kept_once(make_index: Make, files: Callable[..., list[Path]]) -> None:
    a = {"train": make_index([CAT], [DOG], paths=files("a", "1", "2"))}
    near = (0, 1.005, 1, 9, 9)  # as a YOLO file with six digits has it
    b = {"train": make_index([DOG], [near], [CAT], paths=files("b", "2", "1", "3"))}
    merged, notes = merge({"a": a, "b": b})
    assert objects(merged["train"]) == [("1", [("cat", 1)]), ("2", [("dog", 20)]), ("3", [("cat", 1)])]
    assert notes == ("train: 2 images repeat the content of another: kept once",)


def test_equal_images_of_other_boxes_are_a_conflict(make_index: Make, files: Callable[..., list[Path]]) -> None:
    a = {"train": make_index([CAT, CAT], [DOG], paths=files("a", "1", "2"))}
    b = {"train": make_index([CAT, DOG], [DOG], paths=files("b", "1", "2"))}
    with pytest.raises(
        UserError, match=r"train: 1 images .* the first: .*a/0\.png and .*b/0\.png .*--on-conflict first"
    ):
        merge({"a": a, "b": b})
    merged, notes = merge({"a": a, "b": b}, on_conflict="first")
    assert objects(merged["train"])[0] == ("1", [("cat", 1), ("cat", 1)])
    assert notes[0] == "train: 1 images have equal content and different boxes: the boxes of the first are kept"
    merged, _ = merge({"a": a, "b": b}, on_conflict="union")
    assert objects(merged["train"]) == [("1", [("cat", 1), ("cat", 1), ("dog", 20)]), ("2", [("dog", 20)])]


def test_boxes_that_the_first_has_more_of_are_a_conflict(make_index: Make, files: Callable[..., list[Path]]) -> None:
    a, b = make_index([CAT, DOG], paths=files("a", "1")), make_index([CAT], paths=files("b", "1"))
    for sources in ({"a": {"val": a}, "b": {"val": b}}, {"b": {"val": b}, "a": {"val": a}}):
        with pytest.raises(UserError, match="equal content and different boxes"):
            merge(sources)
        merged, _ = merge(sources, on_conflict="union")
        assert objects(merged["val"]) == [("1", [("cat", 1), ("dog", 20)])]


def test_held_out_images_leave_the_training_split(make_index: Make, files: Callable[..., list[Path]]) -> None:
    paths = files("a", "1", "2", "3", "4")
    a = {"train": make_index([CAT], [CAT], [CAT], paths=paths[:3]), "val": make_index([CAT], [CAT], paths=paths[2:])}
    paths = files("b", "2", "4", "5")
    b = {"valid": make_index([CAT], paths=paths[:1]), "test": make_index([CAT], [CAT], paths=paths[1:])}
    merged, notes = merge({"a": a, "b": b})
    contents = {split: [content for content, _ in objects(index)] for split, index in merged.items()}
    assert contents == {"train": ["1", "3"], "val": ["3", "2"], "test": ["4", "5"]}  # the leak inside of a stays
    assert notes == (
        "1 images of val are held out by another data set: left out of val",
        "1 images of train are held out by another data set: left out of train",
    )


def test_a_split_may_end_empty(make_index: Make, files: Callable[..., list[Path]]) -> None:
    a = {"train": make_index([CAT], paths=files("a", "1"))}
    b = {"val": make_index([CAT], paths=files("b", "1"))}
    merged, notes = merge({"a": a, "b": b})
    assert list(merged) == ["val"]
    assert notes[-1] == "train: no image is left"


def test_an_undivided_data_set_is_divided_first(make_index: Make) -> None:
    divided = {"train": make_index([CAT]), "val": make_index([CAT])}
    with pytest.raises(UserError, match=r"b is not divided, and others have train, val .*cledet data split b OUT"):
        merge({"a": divided, "b": {"all": make_index([CAT])}})


def test_progress_and_files_that_are_missing(make_index: Make, files: Callable[..., list[Path]]) -> None:
    calls: list[tuple[int, int]] = []
    a = {"val": make_index([CAT], [DOG], paths=[*files("a", "1"), "/nowhere/1.png"])}
    b = {"val": make_index([DOG], paths=["/nowhere/2.png"])}
    merged, notes = merge({"a": a, "b": b}, progress=lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert len(merged["val"]) == 3
    assert notes == ()
    assert merged["val"].area.tolist() == [81.0] * 3
    assert np.diff(merged["val"].starts).tolist() == [1, 1, 1]
