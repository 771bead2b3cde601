"""Missing, damaged, misannotated and repeated images, on columns made by hand."""

from __future__ import annotations

import numpy as np

from cledet.data.image_files import ImageFiles
from cledet.data.index import DetectionIndex
from cledet.data_check.images import check_files, check_leaks, find_unions


def files_of(sizes: list[tuple[int, int]], contents: list[bytes], damage=None) -> ImageFiles:
    paths = np.array([f"/{i}.png" for i in range(len(sizes))])
    gray = np.random.default_rng(0).integers(0, 256, (len(contents), 16, 18), np.uint8)
    return ImageFiles(paths, np.array(sizes, dtype=np.int32), np.array(contents, dtype="S16"), gray, damage or {})


def found(index: DetectionIndex, files: ImageFiles) -> dict[str, tuple[str, int, str]]:
    """Severity, count and the first example's text of every kind of finding."""
    findings = check_files("train", index, files, np.arange(len(index)))
    assert len({finding.kind for finding in findings}) == len(findings)
    return {f.kind: (f.severity, f.count, f.examples[0].text) for f in findings}


def test_files_without_problems_have_no_findings(make_index) -> None:
    assert found(make_index([], []), files_of([(100, 80)] * 2, [b"a", b"b"])) == {}


def test_damage_by_kind(make_index) -> None:
    damage = {0: ("missing", ""), 2: ("truncated", "cut"), 3: ("truncated", "cut too"), 4: ("unreadable", "junk")}
    files = files_of([(0, 0), (100, 80), (0, 0), (0, 0), (0, 0)], [b"", b"a", b"b", b"c", b"d"], damage)
    assert found(make_index(*[[]] * 5), files) == {
        "missing": ("error", 1, ""), "truncated": ("error", 2, "cut"), "unreadable": ("error", 1, "junk"),
    }  # fmt: skip
    (missing, *_) = check_files("train", make_index(*[[]] * 5), files, np.arange(5))
    assert missing.text == "1 image has no file"
    assert missing.examples[0].picture is not None
    assert missing.examples[0].picture.path == "/0.png"


def test_sizes(make_index) -> None:
    index = make_index([], [], [], [], sizes=[(100, 80), (100, 81), (0, 80), (0, 0)])
    files = files_of([(100, 80)] * 4, [b"a", b"b", b"c", b"d"])
    assert found(index, files) == {
        "size": ("error", 1, "100x80, annotated as 100x81"),
        "unsized": ("warning", 2, ""),
    }


def test_copies_within_a_split(make_index) -> None:
    damage = {3: ("missing", ""), 4: ("missing", "")}
    files = files_of([(100, 80)] * 3 + [(0, 0)] * 2, [b"a", b"b", b"a", b"", b""], damage)
    assert found(make_index(*[[]] * 5), files)["copy"] == ("warning", 1, "is /0.png")
    (copy,) = check_files("train", make_index([], []), files, np.array([1, 1]))
    assert (copy.kind, copy.count, copy.text) == ("copy", 1, "1 image repeats the content of another")


def test_a_path_that_is_listed_twice(make_index) -> None:
    index = make_index([], [], paths=["/0.png", "/0.png"])
    (copy,) = check_files("train", index, files_of([(100, 80)], [b"a"]), np.array([0, 0]))
    assert copy.examples[0].text == "is listed twice"


def test_leaks_between_splits(make_index) -> None:
    files = files_of([(100, 80)] * 5 + [(0, 0)], [b"a", b"b", b"b", b"c", b"d", b""], {5: ("missing", "")})
    splits = {
        "train": (make_index([], [], [], paths=["/0.png", "/1.png", "/5.png"]), np.array([0, 1, 5])),
        "val": (make_index([], [], [], paths=["/2.png", "/3.png", "/5.png"]), np.array([2, 3, 5])),
        "test": (make_index([], [], paths=["/1.png", "/4.png"]), np.array([1, 4])),
    }
    leaks = {leak.split: leak for leak in check_leaks(splits, files)}
    assert {split: leak.count for split, leak in leaks.items()} == {"train, val": 1, "train, test": 1, "val, test": 1}
    assert [leak.examples[0].text for leak in leaks.values()] == ["is /2.png", "", "is /1.png"]
    assert leaks["train, val"].severity == "warning"
    twice = make_index([], [], [], paths=["/4.png", "/1.png", "/2.png"]), np.array([4, 1, 2])
    (leak,) = check_leaks({"train": twice, "val": splits["val"]}, files)
    assert leak.count == 1
    assert leak.examples[0].picture is not None
    assert leak.examples[0].picture.path == "/1.png"  # the first of those with that content
    assert leaks["train, val"].text.startswith("1 image is in both train and val")


def test_splits_that_are_unions_of_others(make_index) -> None:
    def split(*at: int):
        return make_index(*[[(0, 1, 1, 2, 2)] * (i != 1) for i in at]), np.array(at)  # image 1 has no box

    splits = {
        "train": split(0, 1),
        "val": split(2),
        "trainval": split(0, 1, 2),
        "test": split(3),
        "all": split(0, 1, 2, 3),
    }
    assert find_unions(splits) == {"trainval": ("train", "val"), "all": ("trainval", "test")}
    assert find_unions({"train": split(0, 1), "val": split(0, 1)}) == {}
    assert find_unions({"train": split(0, 1), "val": split(0)}) == {}
    overlapping = {"train": split(0, 1), "val": split(1, 2), "trainval": split(0, 1, 2)}
    assert find_unions(overlapping) == {}
    assert find_unions({"train": split(0, 2), "val": split(2, 4), "more": split(0, 2, 4, 5)}) == {}
    other_boxes = make_index([], [], []), np.array([0, 1, 2])
    assert find_unions({"train": split(0, 1), "val": split(2), "trainval": other_boxes}) == {}
