"""Run folders: a new one per run, and none after an interruption."""

from __future__ import annotations

import os

import pytest

from cledet.config.train import TrainSettings
from cledet.errors import UserError
from cledet.io.run_folders import data_beside, find_weights, from_anywhere, name_from, new_run, whole_run


def test_a_second_run_of_a_name_gets_a_number(tmp_path):
    names = [new_run(tmp_path, "val", "a").name for _ in range(3)]
    assert names == ["a", "a-2", "a-3"]


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "a\0b", "x" * 256])
def test_a_run_is_a_folder_in_its_commands(tmp_path, name):
    with pytest.raises(UserError, match="a run cannot be called"):
        new_run(tmp_path, "val", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_folder_is_deleted_and_no_other(tmp_path, error):
    (new_run(tmp_path, "val", "a") / "metrics.json").write_text("{}")
    began = []

    def break_off():
        with whole_run(tmp_path, "val", "a") as run:
            (run / "plots").mkdir()
            (run / "plots" / "a.png").write_text("")
            began.append(run.name)
            raise error

    with pytest.raises(error):
        break_off()
    assert began == ["a-2"]
    assert [path.name for path in (tmp_path / "val").iterdir()] == ["a"]
    with whole_run(tmp_path, "val", "a") as run:
        (run / "metrics.json").write_text("{}")
    assert (tmp_path / "val" / "a-2" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("text", "name"),
    [("a photo", "a photo"), ("a\x1b[31m\nb/c\\d", "a-[31m-b-c-d"), ("..", "image"), ("", "image"),
     ("é" * 200, "é" * 100), ("\udcff" * 300, "\udcff" * 200)],
)  # fmt: skip
def test_any_file_name_gives_a_run_name(tmp_path, text, name):
    assert name_from(text, "image") == name
    assert new_run(tmp_path, "explain", name).is_dir()


def trained(project, name, status, age):
    """A run folder of that age in seconds, with weights and a status."""
    file = project / "train" / name / "weights" / "best.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    os.utime(file, (1e9 - age, 1e9 - age))
    if status:
        (file.parents[1] / "status").write_text(f"{status}\n")
    return file


def test_diverged_and_failed_runs_are_passed_over(tmp_path, capsys):
    trained(tmp_path, "a", "", 40)
    wanted = trained(tmp_path, "b", "unfinished", 30)
    trained(tmp_path, "c", "failed", 20)
    trained(tmp_path, "d", "diverged", 10)
    assert find_weights(tmp_path, None, None) == wanted
    said = capsys.readouterr().err
    assert f"{tmp_path / 'train' / 'd'} has diverged and is passed over; its best epoch is --weights" in said
    assert said.count("is passed over") == 2
    assert find_weights(tmp_path, "x.pt", None) == "x.pt"


def test_only_a_diverged_run_is_one_sentence(tmp_path):
    trained(tmp_path, "d", "diverged", 10)
    with pytest.raises(UserError, match=r"/d has diverged, and there is no other trained run \(its best epoch is --we"):
        find_weights(tmp_path, None, None, published="coco")


def test_without_any_run_published_weights_are_taken_and_announced(tmp_path, capsys):
    assert find_weights(tmp_path, None, None, published="coco") == "coco"
    assert "there is no trained run in" in capsys.readouterr().err
    for arguments in ((None, None), (None, (("dc",),), "coco")):
        with pytest.raises(UserError, match="there is no trained run in"):
            find_weights(tmp_path, *arguments)


def test_the_division_of_a_run_is_found_where_the_run_is(tmp_path):
    old = "/gone/train/photos/splits/photos.yaml"
    run = tmp_path / "moved"
    weights, own = run / "weights" / "best.pt", run / "splits" / "photos.yaml"
    assert data_beside(weights, old) == old
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert data_beside(weights, old) == data_beside(run / "config.yaml", old) == str(own)
    assert data_beside(run / "dc-seed0" / "weights" / "best.pt", old) == str(own)  # a run of a grid
    assert data_beside(tmp_path / "best.pt", old) == old
    for other in ("/gone/photos.yaml", "photos", "", "/gone/splits/other.yaml"):
        assert data_beside(weights, other) == other


def test_paths_of_data_and_weights_hold_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").mkdir()
    (tmp_path / "runs" / "a" / "weights").mkdir(parents=True)
    (tmp_path / "body.pth").touch()
    settings = from_anywhere(TrainSettings(data="coco", weights="runs/a", backbone_weights="body.pth"))
    assert settings.data == str(tmp_path / "coco")
    assert settings.weights == str(tmp_path / "runs" / "a")
    assert settings.backbone_weights == str(tmp_path / "body.pth")
    (tmp_path / "auto").touch()
    names = from_anywhere(TrainSettings(data="voc", weights="coco"))
    assert (names.data, names.weights, names.backbone_weights) == ("voc", "coco", "auto")
