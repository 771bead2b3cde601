"""Images by id, path, file name, stem and number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cledet.errors import UserError
from cledet.metrics.predictions.image_names import AMBIGUOUS, UNKNOWN, ImageFinder, find_images

PATHS = ["/s/val/x/a.jpg", "/s/val/y/a.jpg", "/s/val/y/b.png", "/s/val/y/b.jpg", "/s/val/0012.jpg", "/s/val/v1.2.jpg"]


@pytest.fixture
def index(make_index):
    return make_index(*[[]] * 6, paths=PATHS, image_ids=np.arange(10, 16))


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("/s/val/x/a.jpg", 0), ("x/a.jpg", 0), ("y/a.jpg", 1), ("./y/a", 1), ("y\\a.jpg", 1), ("/other/y/a.jpg", 1),
        ("a.jpg", AMBIGUOUS), ("a", AMBIGUOUS), ("z/a.jpg", AMBIGUOUS), ("x_a", 0), ("y_a.jpg", 1),
        ("b.png", 2), ("b.jpg", 3), ("b", AMBIGUOUS), ("b.webp", AMBIGUOUS),
        ("0012.jpg", 4), ("0012", 4), ("0012.PNG", 4), ("12", UNKNOWN), (12, 4), (12.0, 4), (13, UNKNOWN),
        ("v1.2", 5), ("v1.2.jpg", 5), ("v1", UNKNOWN), ("v1.jpg", UNKNOWN), ("", UNKNOWN), ("/", UNKNOWN),
        (0.5, UNKNOWN),
    ],
)  # fmt: skip
def test_an_image_is_found_by_what_a_file_calls_it(index, name, position):
    assert ImageFinder(index).by_name(name) == position


@pytest.mark.parametrize(
    ("ref", "position"),
    [(12, 2), (12.0, 2), ("12", 2), ("012", 2), ("a", -1), (1e300, -1), (2**70, -1), ("9" * 99, -1)],
)
def test_an_image_is_found_by_its_id(index, ref, position):
    assert ImageFinder(index).by_id(ref) == position


def test_all_images_are_identified_in_the_same_way(index):
    path = Path("found.json")
    assert find_images(path, ["b.png", "x/a.jpg"], [10, 11], index)[1] == "file name"
    positions, by = find_images(path, ["no.png", "x/a.jpg"], [10, 11], index)
    assert (positions.tolist(), by) == ([0, 1], "id")
    positions, by = find_images(path, None, [12, "v1.2"], index)
    assert (positions.tolist(), by) == ([4, 5], "file name")


def test_the_error_is_of_the_way_that_fits_best(index):
    with pytest.raises(
        UserError, match=r"names 1 of 2 images that set/train does not have: 12 \(the first .*, id 10\)"
    ):
        find_images(Path("f"), ["12", "v1.2"], None, index)
    with pytest.raises(UserError, match=r"names 7 of 8 images .*: 1, 2, 3, 4, 5 \.\.\."):
        find_images(Path("f"), None, [1, 2, 3, 4, 5, 6, 7, 10], index)


@pytest.mark.parametrize("ref", [10**400, 10**5000, float("inf"), 2**70, "x" * 9999], ids=range(5))
def test_no_id_is_too_large_for_a_message(index, ref):
    with pytest.raises(UserError, match=r"names 1 of 1 images that set/train does not have") as refused:
        find_images(Path("f"), None, [ref], index)
    assert len(str(refused.value)) < 300


def test_images_of_one_name_are_told_apart_by_paths_only(index):
    with pytest.raises(UserError, match=r"image a, but set/train has 2 of that name: /s/val/x/a.jpg, /s/val/y/a.jpg"):
        find_images(Path("f"), ["a", "b.png"], None, index)


def test_windows_paths_of_several_drives_are_no_problem(make_index):
    index = make_index([], [], paths=["C:\\a\\x.jpg", "D:\\b\\y.jpg"])
    assert [ImageFinder(index).by_name(name) for name in ("x", "b/y.jpg", "C:/a/x.jpg")] == [0, 1, 0]
