"""The embedded set: the same pictures every time, tight boxes, whole or not there."""

from __future__ import annotations

import errno
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from cledet.data.formats.paths import cache_folder
from cledet.data.images import read_image
from cledet.data.open import open_source
from cledet.data.shapes import dataset as shapes
from cledet.data.shapes.drawing import SHAPES, draw_scene
from cledet.errors import UserError
from cledet.models.anchors import STRIDES, Anchors
from cledet.ops.boxes import box_iou


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a data set of a few images."""
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes.draw_shapes, "__defaults__", ({"train": 6, "val": 3, "test": 2}, 0))
    return tmp_path / "cache"


def test_the_set_opens_by_name(cache: Path) -> None:
    source = open_source("shapes")
    index = source.index("train")
    assert source.splits == ("train", "val", "test")
    assert index.name == "shapes/train"
    assert index.classes == ("star", "crescent", "ring", "bar", "elbow")
    assert (len(index), len(source.index("val"))) == (6, 3)
    assert index.notes == ()
    for path, (width, height) in zip(index.paths, index.sizes):
        assert read_image(path).shape == (height, width, 3)


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in "ab":
        shapes.draw_shapes(tmp_path / name, {"train": 3})
    files = [file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file()]
    assert len(files) == 4
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    shapes.draw_shapes(tmp_path / "few", {"train": 1, "val": 2})
    shapes.draw_shapes(tmp_path / "more", {"train": 3, "val": 2})
    for name in ("train/0000.jpg", "val/0001.jpg"):
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "more" / name).read_bytes()


def test_two_processes_at_once_both_succeed(cache: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: shapes.shapes_folder(), range(2))
    assert first == second
    assert [entry.name for entry in cache.iterdir()] == [first.name]
    json.loads((first / "annotations" / "instances_val.json").read_text())


def test_an_interruption_leaves_no_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(width: int, height: int, rng: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "draw_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        shapes.shapes_folder()
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write to the cache.*CLEDET_CACHE"):
        shapes.shapes_folder()


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLEDET_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/cledet")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "cledet"


def test_shapes_are_inside_the_image_and_within_the_range_of_sizes() -> None:
    names = set()
    for seed in range(30):
        picture, things = draw_scene(320, 256, np.random.default_rng(seed))
        assert picture.shape == (256, 320, 3)
        assert 1 <= len(things) <= 8
        for thing in things:
            left, top, width, height = thing.box
            assert left >= 0
            assert top >= 0
            assert left + width <= 320
            assert top + height <= 256
            assert 20 <= max(width, height) <= 155
            assert max(width, height) / min(width, height) < 11
            assert 0 < thing.area <= width * height
            names.add(thing.name)
    assert names == set(SHAPES)


def test_one_image_in_eight_is_a_crowd_of_one_class_and_size() -> None:
    sides = {}
    for seed in range(200):
        _, things = draw_scene(320, 256, np.random.default_rng(seed))
        if len(things) >= 5 and len({thing.name for thing in things}) == 1:
            lengths = [max(thing.box[2:]) for thing in things]
            sides[seed] = max(lengths) / min(lengths)
    assert 0.06 < len(sides) / 200 < 0.18
    assert np.median(list(sides.values())) < 1.6


def test_the_set_is_what_the_paper_is_about() -> None:
    """A fifth of the objects is elongated, a tenth has no anchor of IoU 0.4 in the recipe's, and one class is rare."""
    boxes, names = [], []
    for seed in range(150):
        _, things = draw_scene(320, 256, np.random.default_rng(seed))
        boxes += [thing.box for thing in things]
        names += [thing.name for thing in things]
    left, top, width, height = np.array(boxes, dtype=np.float64).T * 192 / 256
    aspect = np.maximum(width / height, height / width)
    assert (aspect > 2.5).mean() > 0.2
    assert 0.02 < names.count("ring") / len(names) < 0.07
    maps = [(math.ceil(192 / stride), math.ceil(240 / stride)) for stride in STRIDES]
    anchors, _ = Anchors(STRIDES, scale=3)(maps, (192, 256))
    best = box_iou(torch.tensor(np.stack([left, top, left + width, top + height], 1)), anchors.double()).amax(1)
    assert 0.08 < float((best < 0.4).double().mean()) < 0.16


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_complete_and_of_the_given_length(name: str) -> None:
    for seed in range(20):
        mask = SHAPES[name].draw(100, np.random.default_rng(seed))
        rows, columns = np.nonzero(mask > 0.5)
        assert not mask[[0, -1]].any()
        assert not mask[:, [0, -1]].any()
        assert 70 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 140


def test_a_disk_that_fills_while_drawing_is_a_user_error_and_leaves_no_files(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = shapes._draw_image

    def full(file: Path, seed: tuple[int, int, int]):
        if seed[-1] == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return draw(file, seed)

    monkeypatch.setattr(shapes, "_draw_image", full)
    with pytest.raises(UserError) as raised:
        shapes.shapes_folder()
    words = (
        f"cannot write to the cache {cache}: No space left on device (set CLEDET_CACHE to a folder that can be written)"
    )
    assert str(raised.value) == words
    assert not list(cache.iterdir())
