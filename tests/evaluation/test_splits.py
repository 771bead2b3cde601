"""Images that a model was trained on are warned of, and equal divisions are one data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from cledet.data.formats.division import Division
from cledet.evaluation.splits import load_split, same_data


@pytest.fixture
def divided(squares: Path, tmp_path: Path) -> Path:
    """The YAML of a division of the squares' training split, of which 2 of 6 images are held out."""
    paths = [str(squares / "train" / f"{i}.png") for i in range(6)]
    return write(Division(str(squares), "train", tuple(paths[:4]), tuple(paths[4:])), tmp_path / "one")


def write(parts: Division, folder: Path) -> Path:
    folder.mkdir()
    for name, content in parts.files("squares").items():
        (folder / name).write_bytes(content)
    return folder / "squares.yaml"


def test_the_training_data_are_the_default(divided: Path, squares: Path) -> None:
    assert len(load_split(None, "val", str(divided))) == 2
    assert len(load_split(str(squares), "val", str(divided))) == 4


def test_trained_images_of_another_data_set_are_warned_of(
    divided: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for data, split in ((None, "train"), (str(divided), "train"), (str(squares), "val"), (None, "val")):
        load_split(data, split, str(divided))
    assert "trained on" not in capsys.readouterr().err
    load_split(str(squares), "train", str(divided))
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: 4 of the 6 images of" in said
    assert "were trained on: the metrics are too high for other images; without --data, the held-out images" in said
    (divided.parent / "train.txt").unlink()
    assert len(load_split(str(squares), "train", str(divided))) == 6
    assert len(load_split(str(squares), "train", "")) == 6


def test_equal_divisions_are_the_same_data(divided: Path, squares: Path, tmp_path: Path) -> None:
    paths = [str(squares / "train" / f"{i}.png") for i in range(6)]
    equal = write(Division(str(squares), "train", tuple(paths[:4]), tuple(paths[4:])), tmp_path / "two")
    other = write(Division(str(squares), "train", tuple(paths[:3]), tuple(paths[3:])), tmp_path / "three")
    assert same_data(str(divided), str(equal))
    assert not same_data(str(divided), str(other))
    assert not same_data(str(divided), str(squares))
    assert not same_data(str(squares), None)
    assert same_data("shapes", "shapes")
    assert same_data(None, None)
