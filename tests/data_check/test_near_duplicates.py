"""Near-duplicates across splits are leaks and within a split a note; copies of the same content are neither."""

from __future__ import annotations

import numpy as np

from cledet.data.image_files import ImageFiles
from cledet.data_check.near_duplicates import check_near_duplicates


def files_of(pictures: list[int], contents: list[bytes], damaged: tuple[int, ...] = ()) -> ImageFiles:
    """Files that show these pictures, each with some noise of its own."""
    rng = np.random.default_rng(0)
    shown = np.random.default_rng(1).integers(20, 230, (10, 16, 18))
    gray = (shown[pictures] + rng.normal(0, 2, (len(pictures), 16, 18))).astype(np.uint8)
    sizes = np.full((len(pictures), 2), 50, np.int32)
    gray[list(damaged)], sizes[list(damaged)] = 0, 0
    paths = np.array([f"/{i}.png" for i in range(len(pictures))])
    return ImageFiles(paths, sizes, np.array(contents, dtype="S16"), gray, {})


def found(splits, files) -> dict[tuple[str, str], tuple[str, int, list[tuple[str, str]]]]:
    findings = check_near_duplicates(splits, files)
    return {
        (f.kind, f.split): (f.severity, f.count, [(e.picture.path, e.text) for e in f.examples if e.picture])
        for f in findings
    }


def split(make_index, *at: int):
    return make_index(*[[]] * len(at), paths=[f"/{i}.png" for i in at]), np.array(at)


def test_near_duplicates_across_splits(make_index) -> None:
    files = files_of([0, 1, 2, 1, 3, 2], [b"a", b"b", b"c", b"d", b"e", b"c"])  # 2 and 5 have the same content
    splits = {"train": split(make_index, 0, 1, 2), "val": split(make_index, 3, 4, 5)}
    assert found(splits, files) == {
        ("near-leak", "train, val"): ("warning", 1, [("/1.png", "resembles /3.png")]),
    }
    (leak,) = check_near_duplicates(splits, files)
    assert leak.text.startswith("1 image of train has a near-duplicate in val: metrics on one may be too high")


def test_near_duplicates_within_a_split(make_index) -> None:
    files = files_of([0, 1, 0, 0, 2], [b"a", b"b", b"c", b"a", b"d"])
    assert found({"train": split(make_index, 0, 1, 2, 3, 4)}, files) == {
        ("near-copy", "train"): ("note", 1, [("/2.png", "resembles /0.png")]),
    }


def test_the_example_is_the_most_similar_image(make_index) -> None:
    files = files_of([0] * 4, [b"a", b"b", b"c", b"d"])
    gray = files.thumbnails.copy()
    gray[1:3, :2, :9] = 255 - gray[1:3, :2, :9]  # farther from 0 than 3 is, and still near
    splits = {"train": split(make_index, 0), "val": split(make_index, 1, 2, 3)}
    ((_, _, examples),) = (v for k, v in found(splits, files._replace(thumbnails=gray)).items() if k[0] == "near-leak")
    assert examples == [("/0.png", "resembles /3.png")]


def test_damaged_images_resemble_none(make_index) -> None:
    files = files_of([0, 1, 2, 3], [b"", b"", b"a", b"b"], damaged=(0, 1, 2))
    assert found({"train": split(make_index, 0, 3), "val": split(make_index, 1, 2)}, files) == {}
    assert found({}, files_of([], [])) == {}
