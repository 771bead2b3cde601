"""Arguments of compare: runs, files and models of one split; others are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cledet.errors import UserError
from cledet.evaluation.compare.entries import Entry, check_seeds, common_ground, names, open_entries, sides_of


@pytest.fixture
def run_of_val(tmp_path):
    """Makes the folder of a run of val; without data, of one from before these were noted down."""

    def make(name, data="/sets/birds", split="val", predictions=None):
        folder = tmp_path / "val" / name
        folder.mkdir(parents=True)
        (folder / "detections.json").write_text("[]")
        if data:
            lines = {"data": data, "split": split, "predictions": predictions}
            (folder / "config.yaml").write_text("".join(f"{k}: {json.dumps(v)}  # flag\n" for k, v in lines.items()))
        return folder

    return make


def no_model(path, data, split):
    raise AssertionError("there is no model among them")


def opened(*paths, data=None, split=None):
    entries = open_entries(list(paths), data, split, no_model)
    return common_ground(entries, data, split)


def test_runs_of_one_split_agree(run_of_val, tmp_path):
    a, b = run_of_val("a"), run_of_val("b", predictions="found.json")
    (tmp_path / "mine.json").write_text("[]")
    entries = open_entries([a, b / "detections.json", tmp_path / "mine.json"], None, None, no_model)
    assert common_ground(entries, None, None) == ("/sets/birds", "val")
    assert names(entries) == ["a", "b", "mine"]
    assert [entry.of_model for entry in entries] == [True, False, False]
    assert [entry.file.name for entry in entries] == ["detections.json", "detections.json", "mine.json"]


def test_predictions_of_other_detectors_are_files_or_folders_of_text(tmp_path):
    """A run of Ultralytics holds both; its text files are in labels/."""
    run = tmp_path / "detect" / "val"
    (run / "labels").mkdir(parents=True)
    (run / "labels" / "a.txt").write_text("0 0.5 0.5 1 1 0.5")
    for name in ("predictions.json", "found.csv", "found.jsonl"):
        (run / name).write_text("")
    paths = [run, run / "labels", run / "predictions.json", run / "found.csv", run / "found.jsonl"]
    entries = open_entries(paths, "birds", "val", no_model)
    assert [entry.file for entry in entries] == paths
    assert names(entries[:4]) == ["val", "labels", "predictions", "found"]


def test_runs_of_different_splits_are_refused_by_name(run_of_val):
    a, b, c = run_of_val("a"), run_of_val("b", split="test"), run_of_val("c", data="/sets/fish")
    with pytest.raises(UserError, match=r"val/a is of /sets/birds, split val, and .*val/b of /sets/birds, split test"):
        opened(a, b)
    with pytest.raises(UserError, match=r"val/c of /sets/fish, split val .*--data and --split"):
        opened(a, c)
    assert opened(a, b, split="test") == ("/sets/birds", "test")
    assert opened(a, c, data="other.json") == ("other.json", "val")


def test_files_alone_need_a_data_set(run_of_val, tmp_path):
    (tmp_path / "mine.json").write_text("[]")
    old = run_of_val("old", data=None)
    with pytest.raises(UserError, match=r"the data set of .*mine.json is unknown .*--data"):
        opened(tmp_path / "mine.json", old)
    assert opened(tmp_path / "mine.json", old, data="birds") == ("birds", "val")


def test_models_are_validated_on_the_data_of_the_others(run_of_val, tmp_path):
    a = run_of_val("a", split="test")
    (tmp_path / "net.pt").write_bytes(b"")
    (tmp_path / "trained" / "weights").mkdir(parents=True)
    (tmp_path / "trained" / "weights" / "best.pt").write_bytes(b"")
    asked = []

    def validate(path, data, split):
        asked.append((path.name, data, split))
        return run_of_val(f"of-{path.stem}", split=split)

    entries = open_entries([tmp_path / "net.pt", a, tmp_path / "trained"], None, None, validate)
    assert asked == [("net.pt", "/sets/birds", "test"), ("trained", "/sets/birds", "test")]
    assert names(entries) == ["net", "a", "trained"]
    assert entries[0].file == tmp_path / "val" / "of-net" / "detections.json"
    assert entries[0].path == tmp_path / "net.pt"


def test_a_model_alone_is_evaluated_on_its_own_data(run_of_val, tmp_path):
    for name in ("x.pt", "y.safetensors"):
        (tmp_path / name).write_bytes(b"")
    asked = []

    def validate(path, data, split):
        asked.append(data)
        return run_of_val(path.stem, split=split)

    open_entries([tmp_path / "x.pt", tmp_path / "y.safetensors"], None, None, validate)
    assert asked == [None, "/sets/birds"]


def test_paths_that_cannot_be_compared_are_refused(run_of_val, tmp_path):
    a = run_of_val("a")
    with pytest.raises(UserError, match=r"not found: .*val/aa \(did you mean a"):
        opened(a, a.parent / "aa")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"empty cannot be compared: a folder without detections.json, weights and predictions"
    ):
        opened(a, tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        UserError, match=r"notes.txt cannot be compared: neither predictions \(.json, .jsonl, .csv\) nor weights"
    ):
        opened(a, tmp_path / "notes.txt")
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "nms.csv").write_text("")
    with pytest.raises(UserError, match=r"methods compares NMS methods and holds no detections .*one --nms"):
        opened(a, tmp_path / "methods")
    (tmp_path / "grid" / "none" / "weights").mkdir(parents=True)
    (tmp_path / "grid" / "none" / "weights" / "best.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"grid is a grid of runs"):
        opened(a, tmp_path / "grid")
    (a / "config.yaml").write_text("data: [")
    with pytest.raises(UserError, match=r"config.yaml is not valid YAML: .*name --data and --split"):
        opened(a)


def test_entries_of_equal_name_are_called_by_their_paths(run_of_val, tmp_path):
    a = run_of_val("a")
    (tmp_path / "a.json").write_text("[]")
    entries = open_entries([a, tmp_path / "a.json"], None, None, no_model)
    assert names(entries) == [str(a), str(tmp_path / "a.json")]
    with pytest.raises(UserError, match="is given twice"):
        names(open_entries([a, Path(a)], None, None, no_model))


def test_names_are_divided_into_sides():
    assert sides_of(["none-seed0", "none-seed1", "dc-seed0", "dc-seed1"], 2) == {
        "none": ["none-seed0", "none-seed1"],
        "dc": ["dc-seed0", "dc-seed1"],
    }
    hundreds = [f"{side}-seed{seed}-val" for side in ("none", "dc") for seed in (100, 101)]
    assert list(sides_of(hundreds, 2)) == ["none", "dc"]
    assert sides_of(["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"], 2) == {x: [f"{x}/0", f"{x}/1"] for x in "abc"}
    assert list(sides_of(["x1", "y1", "x2", "z1"], 2)) == ["x1", "x2"]  # nothing in common: named by the first
    for count in (2, 3, 5):
        with pytest.raises(UserError, match=f"{count} runs do not make two or more sides of 2"):
            sides_of([str(i) for i in range(count)], 2)


def test_runs_are_paired_by_seed(tmp_path):
    """The seed of a run of val is that of the weights it evaluated; files of other detectors have none."""

    def run(name, seed, of=None):
        folder = tmp_path / name
        (folder / "weights").mkdir(parents=True)
        line = f"seed: {seed}\n" if of is None else f"weights: {of}\n"
        (folder / "config.yaml").write_text(line)
        return Entry(folder, folder / "detections.json")

    a, b, other = run("a", 0), run("b", 1), Entry(tmp_path / "x.json", tmp_path / "x.json")
    val_b = run("val", None, of=tmp_path / "b" / "weights" / "best.pt")
    check_seeds([a, b, a, val_b], 2)
    check_seeds([a, b, other, val_b], 2)
    with pytest.raises(UserError, match=r"a has seed 0 and its partner .*val seed 1"):
        check_seeds([a, b, val_b, a], 2)
    with pytest.raises(UserError, match=r"b and .*val are of one side and of one seed, 1") as error:
        check_seeds([b, val_b, a, other], 2)
    assert error.value.hint.startswith("name one run of each seed")
