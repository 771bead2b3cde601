"""`cledet data convert`, `split`, `merge` and `sample` as users type them, in a process of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cledet.data.open import open_source

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "cledet", "data"]


def run(folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "CLEDET_CACHE": str(folder / "cache")}
    words = [*COMMAND, *map(str, args)]
    return subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)


def sentence(process: subprocess.CompletedProcess[str]) -> str:
    """The error of a command that ended as a user's mistake should."""
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    assert "Traceback" not in process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, process.stderr
    return errors[0]


def test_convert_says_what_was_lost_and_what_to_type_next(squares: Path, tmp_path: Path) -> None:
    process = run(tmp_path, "convert", squares, "--to", "yolo", "a b", "--images", "hardlink")
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"{tmp_path / 'a b'}\n"
    assert process.stderr.splitlines() == [
        f"{squares.name}: COCO, train, val",
        "note: 10 images get other ids, which are read from the file names",
        "note: 2 classes get other ids, which are numbered from 0",
        "train: 6 images, 10 boxes",
        "val: 4 images, 6 boxes",
        "train on it: cledet train --data 'a b'",
    ]
    back = open_source(tmp_path / "a b").index("train")
    assert (back.xywh == open_source(squares).index("train").xywh).all()


def test_convert_prints_one_json_document(squares: Path, tmp_path: Path) -> None:
    process = run(tmp_path, "convert", squares, "--to", "voc", "out", "--split", "val", "--json")
    assert json.loads(process.stdout) == {
        "folder": str(tmp_path / "out"),
        "format": "voc",
        "classes": ["blue", "red"],
        "splits": {"val": {"images": 4, "boxes": 6}},
        "notes": [
            "4 images get other ids, which are read from the file names",
            "2 classes get other ids, which are numbered from 1",
        ],
    }


def test_a_missing_image_is_left_out_with_a_note(squares: Path, tmp_path: Path) -> None:
    shutil.copytree(squares, tmp_path / "less")
    (tmp_path / "less" / "train" / "5.png").unlink()
    process = run(tmp_path, "convert", "less", "--to", "coco", "out")
    assert "warning: less/train: 1 of 6 images have no file, the first is " in process.stderr
    assert "train: 5 images, 8 boxes" in process.stderr
    assert len(open_source(tmp_path / "out").index("train")) == 5
    for split in ("train", "val"):
        shutil.rmtree(tmp_path / "less" / split)
    assert "none of its 6 images exists" in sentence(run(tmp_path, "convert", "less", "--to", "coco", "new"))
    process = run(tmp_path, "convert", "less", "--to", "yolo", "new", "--images", "none")
    assert "train on it" not in process.stderr
    assert len(list((tmp_path / "new" / "labels" / "train").iterdir())) == 6


def test_mistakes_end_in_one_sentence(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    shutil.copytree(squares, tmp_path / "bad")
    file = tmp_path / "bad" / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"category_id": 7', '"category_id": 8'))
    for args, words in (
        (("convert", squares, "--to", "voc", "full"), "full exists, and nothing is overwritten (name a new folder)"),
        (("convert", squares, "--to", "voc", "out", "--split", "vla"), "has no split 'vla' (did you mean val?)"),
        (("convert", "bad", "--to", "coco", "out"), "boxes are of an unknown class"),
        (("convert", "bad", "--to", "coco", "out"), "(`cledet check` lists all errors)"),
        (("split", squares, "out"), "it is open which of the splits train, val to divide"),
        (("split", squares, "out", "--split", "x"), "has no split 'x'"),
        (("merge", squares, "out"), "merging takes two different data sets or more"),
        (("merge", squares, squares, "out"), "merging takes two different data sets or more"),
        (("merge", squares, "full", "out"), "full"),
        (("sample", squares, 11, "out"), "11 images are to be chosen of 10"),
    ):
        assert words in sentence(run(tmp_path, *args))
        assert not (tmp_path / "out").exists()
    process = run(tmp_path, "convert", squares, "--to", "pascal", "out")
    assert process.returncode == 2
    assert "not one of 'coco', 'yolo', 'voc'" in process.stderr


def test_split_divides(squares: Path, tmp_path: Path) -> None:
    words = ("split", squares, "out", "--split", "train", "--split", "val", "--fraction", 0.3, "--to", "voc", "--json")
    document = json.loads(run(tmp_path, *words).stdout)
    images = {name: split["images"] for name, split in document["splits"].items()}
    assert list(images) == ["train", "val"]
    assert sum(images.values()) == 10
    assert images["val"] in (2, 3, 4)
    assert document["format"] == "voc"


def test_merge_and_sample(squares: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "convert", squares, "--to", "yolo", "copy", "--split", "val").returncode == 0
    process = run(tmp_path, "merge", squares, "copy", "all", "--rename", "blue=water", "--json")
    document = json.loads(process.stdout)
    assert document["classes"] == ["water", "red"]
    assert document["splits"] == {"train": {"images": 6, "boxes": 10}, "val": {"images": 4, "boxes": 6}}
    assert document["notes"] == ["val: 4 images repeat the content of another: kept once"]
    assert document["format"] == "coco"
    process = run(tmp_path, "sample", "all", 5, "few")
    assert process.returncode == 0, process.stderr
    few = open_source(tmp_path / "few")
    assert [len(few.index(split)) for split in few.splits] == [3, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_nothing(shared_data: Path, tmp_path: Path, number: signal.Signals) -> None:
    words = [*COMMAND, "convert", str(shared_data / "deeppcb"), "--to", "voc", "out"]
    environ = {**os.environ, "CLEDET_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(words, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob(".cledet-draft-*/draft/Annotations/*.xml")):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(number)
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1] == f"error: stopped by {number.name}"
        assert process.wait(timeout=30) == 128 + number
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []
