"""Zip files of data sets: the cache, what is said, hostile files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cledet.data.download import unpacked as module
from cledet.data.download.unpacked import silent, unpacked
from cledet.data.open import open_source
from cledet.errors import UserError

LABELS = "filename,class,xmin,ymin,xmax,ymax\na.png,dog,1,2,11,22\n"
PNG = cv2.imencode(".png", np.zeros((30, 40, 3), np.uint8))[1].tobytes()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "zips"


def zipped(file: Path, members: dict[str, bytes | str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


@pytest.mark.parametrize("top", ["", "birds-v1/", "a/b/c/"])
@pytest.mark.parametrize("name", ["birds.zip", "birds.ZIP"])
def test_a_zip_is_read_as_its_folder(tmp_path: Path, cache: Path, top: str, name: str) -> None:
    members = {f"{top}labels.csv": LABELS, f"{top}images/a.png": PNG, "__MACOSX/._a.png": b"x", ".DS_Store": b"x"}
    source = open_source(zipped(tmp_path / "in" / name, members))
    (folder,) = cache.iterdir()
    assert str(source) == f"birds: CSV (unpacked in {folder}, labels.csv, images in images/a.png), all"
    index = source.index("val")
    assert index.name == "birds/all"
    assert index.paths.tolist() == [str(folder / top / "images" / "a.png")]
    assert index.xywh.tolist() == [[1, 2, 10, 20]]
    assert os.listdir(tmp_path / "in") == [name]


def test_it_is_unpacked_once_and_said_once(tmp_path: Path, cache: Path) -> None:
    titles = []

    @contextmanager
    def phase(title: str, total: int) -> Iterator[SimpleNamespace]:
        titles.append(title)
        yield SimpleNamespace(set=lambda done, total: None)

    file = zipped(tmp_path / "a.zip", {"labels.csv": LABELS, "a.png": PNG})
    copy = zipped(tmp_path / "b.zip", {"labels.csv": LABELS.replace("dog", "cat"), "a.png": PNG})
    assert open_source(file, phase).index("all").classes == ("dog",)
    size = len(LABELS) + len(PNG)
    assert titles == [f"unpacking a.zip, 2 files, {size} bytes"]
    os.utime(file, (0, 0))
    assert open_source(file.rename(tmp_path / "c.zip"), phase).index("all").classes == ("dog",)
    assert len(titles) == 1
    assert open_source(copy, phase).index("all").classes == ("cat",)
    assert len(titles) == len(list(cache.iterdir())) == 2


def test_a_process_that_unpacks_at_the_same_time_does_no_harm(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = zipped(tmp_path / "a.zip", {"labels.csv": LABELS})

    def unpack_twice(source: Path, folder: Path, phase: object) -> None:
        monkeypatch.undo()
        monkeypatch.setenv("CLEDET_CACHE", str(cache.parent))
        unpacked(source, silent)

    monkeypatch.setattr(module, "unpack", unpack_twice)
    folder = unpacked(file, silent)
    assert [entry.name for entry in folder.iterdir()] == ["labels.csv"]
    assert list(cache.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"../labels.csv": LABELS}, "leads out of the folder"),
        ({"/labels.csv": LABELS}, "not a relative path"),
        ({}, "it is empty"),
        ({"a.txt": "x"}, "holds neither"),
    ],
)
def test_hostile_and_useless_zips(tmp_path: Path, members: dict[str, bytes | str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_source(zipped(tmp_path / "a.zip", members))


def test_a_damaged_zip_leaves_nothing_in_the_cache(tmp_path: Path, cache: Path) -> None:
    file = zipped(tmp_path / "a.zip", {"labels.csv": LABELS, "a.png": PNG})
    data = bytearray(file.read_bytes())
    data[60] ^= 255  # in the content of labels.csv
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.zip is damaged or not supported: Bad CRC-32"):
        open_source(file)
    assert list(cache.iterdir()) == []
    file.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"a\.zip is damaged or not supported"):
        open_source(file)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, cache: Path) -> None:
    cache.parent.write_text("a file")
    with pytest.raises(UserError, match=rf"cannot be unpacked: {cache.parent}.*Not a directory.*CLEDET_CACHE"):
        open_source(zipped(tmp_path / "a.zip", {"labels.csv": LABELS}))


def test_ctrl_c_leaves_nothing_in_the_cache(tmp_path: Path, cache: Path) -> None:
    @contextmanager
    def phase(title: str, total: int) -> Iterator[SimpleNamespace]:
        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        yield SimpleNamespace(set=interrupt)

    with pytest.raises(KeyboardInterrupt):
        open_source(zipped(tmp_path / "a.zip", {"labels.csv": LABELS}), phase)
    assert list(cache.iterdir()) == []
