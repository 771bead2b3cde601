"""Every file is read once, and what was seen is in the right place."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.data import image_files as module
from cledet.data.image_files import read_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 0.png to 39.png, (10 + i) x 8 pixels."""
    for i in range(40):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 10 + i, 3), i, dtype=np.uint8))
    return tmp_path


def test_columns_are_those_of_the_paths(folder: Path, make_index) -> None:
    one = make_index(*[[]] * 40, paths=[folder / f"{i}.png" for i in range(40)], sizes=[(0, 0)] * 40)
    other = make_index([], [], paths=[folder / "39.png", folder / "gone.png"])
    found, (at, at2) = read_files([one, other], threads=3)
    assert found.paths[at].tolist() == one.paths.tolist()
    assert found.paths[at2].tolist() == other.paths.tolist()
    assert found.sizes[at].tolist() == [[10 + i, 8] for i in range(40)]
    assert found.sizes[at2].tolist() == [[49, 8], [0, 0]]
    for i in (0, 7, 39):
        content = (folder / f"{i}.png").read_bytes()
        assert found.digests[at[i]] == hashlib.blake2b(content, digest_size=16).digest()
    assert found.damage == {int(at2[1]): ("missing", "")}
    assert found.digests[at2[1]] == b""


def test_a_file_of_two_splits_is_read_once(folder: Path, make_index, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(module, "decode_image", lambda data, path, size: read.append(path) or np.zeros((1, 1, 3)))
    paths = [folder / f"{i}.png" for i in range(5)]
    read_files([make_index(*[[]] * 5, paths=paths), make_index([], [], paths=paths[3:])], threads=2)
    assert sorted(read) == sorted(map(str, paths))


def test_kinds_of_damage_are_distinguished(folder: Path, make_index) -> None:
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))[1].tobytes()
    contents = {"short.jpg": whole[: len(whole) // 2], "text.jpg": b"no image", "empty.jpg": b"", "good.jpg": whole}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    names = [*contents, "folder.jpg"]
    found, (at,) = read_files([make_index(*[[]] * 5, paths=[folder / name for name in names])], threads=2)
    kinds = {name: found.damage.get(int(i), ("sound", ""))[0] for name, i in zip(names, at)}
    assert kinds == {
        "short.jpg": "truncated", "text.jpg": "unreadable", "empty.jpg": "unreadable", "good.jpg": "sound",
        "folder.jpg": "unreadable",
    }  # fmt: skip
    assert found.damage[int(at[2])][1] == "the file is empty"
    assert found.damage[int(at[4])][1] == "Is a directory"


def test_the_annotated_size_decides_about_exif(tmp_path: Path, make_index) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[274] = 6
    for name in ("turned.jpg", "not.jpg"):
        Image.new("RGB", (40, 20)).save(tmp_path / name, exif=exif)
    index = make_index([], [], paths=[tmp_path / "turned.jpg", tmp_path / "not.jpg"], sizes=[(20, 40), (40, 20)])
    found, (at,) = read_files([index], threads=1)
    assert found.sizes[at].tolist() == [[20, 40], [40, 20]]


def test_upright_images_have_no_annotated_size(tmp_path: Path, make_index) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[274] = 3
    image = np.zeros((20, 40, 3), np.uint8)
    image[10:] = 255
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    index = make_index([], paths=[tmp_path / "a.png"], sizes=[(40, 20)])
    for upright, top in ((False, 0), (True, 255)):
        found, _ = read_files([replace(index, upright=np.array([upright]))], threads=1)
        assert found.thumbnails[0, 0].tolist() == [top] * found.thumbnails.shape[2]


def test_nothing_at_all(make_index) -> None:
    for indices in ([], [make_index()]):
        found, positions = read_files(indices, threads=1)
        assert len(found.paths) == 0
        assert [len(at) for at in positions] == [0] * len(indices)


def test_progress_and_an_interrupt_that_leaves_at_once(
    folder: Path, make_index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(*[[]] * 40, paths=[folder / f"{i}.png" for i in range(40)])
    calls: list[tuple[int, int]] = []
    read_files([index], threads=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 40) for i in range(1, 41)]

    begun = []
    decode = module.decode_image

    def slowly(*args: object) -> np.ndarray:
        begun.append(args)
        time.sleep(0.05)
        return decode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "decode_image", slowly)
    before = threading.active_count()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_files([index], threads=2, progress=interrupt)
    assert len(begun) < 7  # of 9 that were queued
    assert threading.active_count() == before
