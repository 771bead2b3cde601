"""Names of the files about images: distinct, and the same in every sink."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from cledet.inference.file_names import FileNames
from cledet.inference.results import Results


def result(name, number=None):
    none = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    image = np.zeros((4, 4, 3), np.uint8)
    return Results(None, image, *none, ("a",), (1,), name=name, number=number, seconds=number)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["a.png", "a.jpg", "b/a.png", "a-2.png"], ["a", "a-2", "a-3", "a-2-2"]),
        (["a-2.png", "a.png", "x/a.png"], ["a-2", "a", "a-3"]),
        (["A.png", "a.png"], ["A", "a-2"]),
        (["-", "image 0", "https://host/x/photo.jpg", "x\ny.png", ".."], ["stdin", "image 0", "photo", "x-y", "image"]),
    ],
)
def test_names_do_not_collide(sources, expected):
    names = FileNames()
    assert [names.name(result(source)) for source in sources] == expected


def test_frames_are_numbered_and_videos_kept_apart():
    names = FileNames()
    frames = [("a/clip.mp4", 0), ("a/clip.mp4", 1), ("b/clip.mp4", 0), ("b/clip.mp4", 0), ("b/clip.mp4", 7)]
    found = [names.name(result(*one)) for one in frames]
    assert found == ["clip-000000", "clip-000001", "clip-2-000000", "clip-3-000000", "clip-3-000007"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([("clip.mp4", 0), ("clip.mp4", 1), ("CLIP-000000.jpg",)], ["clip-000000", "clip-000001", "CLIP-000000-2"]),
        ([("clip-000000.jpg",), ("clip.mp4", 0), ("clip.mp4", 1)], ["clip-000000", "clip-2-000000", "clip-2-000001"]),
        ([("clip.mp4", 0), ("clip-0001.jpg",), ("other-000000.jpg",)], ["clip-000000", "clip-0001", "other-000000"]),
    ],
)
def test_images_that_are_named_like_frames_are_kept_apart_from_them(sources, expected):
    names = FileNames()
    assert [names.name(result(*one)) for one in sources] == expected


def test_stems_of_frames_are_those_of_their_video():
    one, other = FileNames(), FileNames()
    results = [result("clip.mp4", 0), result("clip.mp4", 1), result("clip.png"), result("x/clip.mp4", 2)]
    assert [one.stem(r) for r in results] == ["clip", "clip", "clip-2", "clip-3"]
    assert [other.name(r) for r in results] == ["clip-000000", "clip-000001", "clip-2", "clip-3-000002"]


def test_long_names_leave_room_for_numbers():
    names = FileNames()
    for _ in range(2):
        assert len(os.fsencode(names.name(result("é" * 120 + ".jpg")))) <= 210
