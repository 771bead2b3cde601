"""Large indices come from the cache, the same to the last bit, and only while what they were read from is the same."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.data import index_cache
from cledet.data.index import COLUMNS, DetectionIndex
from cledet.data.open import open_source


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, that keeps indices of any size."""
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "MIN_BYTES", 1)
    return tmp_path / "cache" / "indices"


@pytest.fixture
def copy(squares: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(squares, tmp_path / "squares"))


def same(a: DetectionIndex, b: DetectionIndex) -> bool:
    columns = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS)
    dtypes = all(getattr(a, name).dtype == getattr(b, name).dtype for name in COLUMNS)
    return columns and dtypes and (a.name, a.classes, a.notes) == (b.name, b.classes, b.notes)


def test_the_second_read_is_from_the_cache_and_equal(cache: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(copy)
    plain = source.reader.read("train")
    first = source.index("train")
    monkeypatch.setattr(type(source.reader), "read", None)
    second = source.index("train")
    assert same(first, second)
    assert np.array_equal(second.xywh, plain.xywh)
    assert isinstance(second.xywh, np.memmap)
    assert len(list(cache.iterdir())) == 1


def test_small_indices_are_not_cached(copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "MIN_BYTES", 10_000_000)
    open_source(copy).index("train")
    assert not cache.exists()


def test_changed_annotations_are_read_again(cache: Path, copy: Path) -> None:
    file = copy / "annotations" / "instances_train.json"
    before = open_source(copy).index("train")
    file.write_text(file.read_text().replace('"blue"', '"navy"'))
    assert open_source(copy).index("train").classes == ("navy", *before.classes[1:])


def test_moved_images_are_found_again(cache: Path, copy: Path) -> None:
    open_source(copy).index("train")
    (copy / "train").rename(copy / "elsewhere")
    assert Path(str(open_source(copy).index("train").paths[0])).parent == copy / "elsewhere"


def test_missing_images_do_not_matter_if_none_are_needed(
    cache: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(copy)
    first = source.index("train")
    shutil.rmtree(copy / "train")
    monkeypatch.setattr(type(source.reader), "read", None)
    assert same(source.index("train", need_images=False), first)


def test_new_images_of_a_yolo_folder_are_seen(cache: Path, tmp_path: Path) -> None:
    """Where boxes are fractions, the pixels depend on the images."""
    for width in (40, 80):
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, width, 3), np.uint8))
        (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
        index = open_source(tmp_path).index("train")
        assert (index.sizes.tolist(), index.xywh[0, 2]) == ([[width, 20]], width / 2)


@pytest.mark.parametrize("damage", ["metadata.json", "xywh.npy"])
def test_a_damaged_cache_entry_is_rewritten(cache: Path, copy: Path, damage: str) -> None:
    first = open_source(copy).index("train")
    kept = pickle.loads(pickle.dumps(first.subset(range(len(first)))))
    (folder,) = cache.iterdir()
    (folder / damage).write_bytes(b"")
    assert same(open_source(copy).index("train"), kept)
    assert (folder / damage).stat().st_size > 0


def test_an_unwritable_cache_is_skipped(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(index_cache, "MIN_BYTES", 1)
    assert len(open_source(copy).index("train")) == 6


def test_the_least_recently_used_are_deleted(cache: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "MAX_INDICES", 2)
    for split in ("train", "val"):
        open_source(copy).index(split)
    newest = {folder.name for folder in cache.iterdir()}
    (copy / "annotations" / "instances_val.json").rename(copy / "annotations" / "instances_test.json")
    open_source(copy).index("test")
    assert len(list(cache.iterdir())) == 2
    assert newest & {folder.name for folder in cache.iterdir()}


@pytest.mark.slow
def test_a_new_process_maps_the_same_file(cache: Path, copy: Path) -> None:
    index = open_source(copy).index("train")
    sent = pickle.dumps(index)
    assert len(sent) < 1000
    look = "import pickle, sys; x = pickle.load(sys.stdin.buffer).xywh; print(type(x).__name__, float(x.sum()))"
    done = subprocess.run([sys.executable, "-c", look], input=sent, capture_output=True, check=True)
    assert done.stdout.decode().split() == ["memmap", str(float(index.xywh.sum()))]


def test_a_subset_is_not_pickled_as_the_cached_index(cache: Path, copy: Path) -> None:
    part = open_source(copy).index("train").subset([1, 3])
    again = pickle.loads(pickle.dumps(part))
    assert again.cache_folder is None
    assert same(part, again)


def test_names_that_are_not_utf8_are_kept_too(cache: Path, copy: Path) -> None:
    image = copy / "val" / "0.png"
    image.rename(image.with_name("caf\udce9.png"))
    file = copy / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"0.png"', r'"caf\udce9.png"'))
    folder = copy.rename(copy.with_name("\udce9"))
    first, again = (open_source(folder).index("val") for _ in range(2))
    assert again.cache_folder is not None
    assert same(first, again)
    assert Path(again.paths[0]).name == "caf\udce9.png"
