"""`compare` and `tune` from settings to what lies in their run folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from cledet import Detector
from cledet.commands.compare import compare_to_folder
from cledet.commands.tune import tune_to_folder
from cledet.commands.val import val_to_folder
from cledet.config.evaluate import CompareSettings, TuneSettings, ValSettings
from cledet.config.loading import resolve
from cledet.errors import UserError
from cledet.evaluation.compare.entries import DETECTIONS

FEWER = {"device": "cpu", "workers": 0, "batch": 4}


def settled(kind, project, **given):
    return resolve(kind, {"project": project, **FEWER, **given}, environ={})


@pytest.fixture(scope="module")
def judged(tiny_run, squares, tmp_path_factory):
    """A project with a run of `val`, and that run."""
    project = tmp_path_factory.mktemp("judges")
    run, _ = val_to_folder(Detector(tiny_run), settled(ValSettings, project, conf=0.001, nms="soft", report=False))
    return project, run


def test_val_notes_down_what_it_was_made_on(judged, squares):
    said = yaml.safe_load((judged[1] / "config.yaml").read_text())
    assert (said["data"], said["split"], said["predictions"]) == (str(squares), "val", None)
    assert (said["nms"], said["conf"]) == ("soft", 0.001)


def test_a_run_a_model_and_a_file_are_compared(judged, tiny_run, squares, tmp_path):
    """The model is validated on the run's split; the file's detections are the run's own."""
    project, run = judged
    (tmp_path / "mine.json").write_bytes((run / DETECTIONS).read_bytes())
    paths = [run, tiny_run, tmp_path / "mine.json"]
    folder, tables, notes, document = compare_to_folder(paths, settled(CompareSettings, project, bootstrap=5, conf=0.0))
    assert document["first"] == "val"
    assert list(document["figures"]) == ["val", "tiny", "mine"]
    assert document["differences"]["mine"]["AP"] == 0
    assert document == json.loads((folder / "compare.json").read_text())
    assert (project / "val" / "val-2" / DETECTIONS).is_file()
    validated = json.loads((project / "val" / "val-2" / "metrics.json").read_text())
    assert document["figures"]["tiny"]["AP50"] == validated["AP50"]
    assert (folder / "compare.csv").read_text().count("\n") == 4
    assert (folder / "compare.md").read_text().startswith(f"## {squares.name}/val, 4 images\n")
    pictures = len(document["differences"]["tiny"]["images"])
    assert len(list(folder.glob("images/tiny/*.png"))) == pictures
    assert not (folder / "images" / "mine").exists()
    assert tables[0][0] == f"{squares.name}/val, 4 images"
    assert notes
    with pytest.raises(UserError, match="has no split 'trian'"):
        compare_to_folder(paths[::2], settled(CompareSettings, project, split="trian"))


def test_some_classes_are_compared(judged, tiny_run, squares, monkeypatch):
    """AP is the mean of the AP of these classes, and their detections alone are in the pictures."""
    project, run = judged
    whole = compare_to_folder([run, tiny_run], settled(CompareSettings, project, bootstrap=5))[3]
    name, *others = whole["differences"]["tiny"]["per_class"]
    assert others
    settings = settled(CompareSettings, project, bootstrap=5, classes=name, name="one")
    drawn = []
    monkeypatch.setattr("cledet.evaluation.compare.side_by_side.save_side_by_side", lambda *given: drawn.append(given))
    _, tables, _, document = compare_to_folder([run, tiny_run], settings)
    assert len(np.unique(np.concatenate([*drawn[0][3].values()])[:, 6])) == 1
    assert tables[0][0] == f"{squares.name}/val ({name}), 4 images"
    assert document["data"] == f"{squares.name}/val ({name})"
    assert [*document["differences"]["tiny"]["per_class"]] == [name]
    for side in ("val", "tiny"):
        assert document["figures"][side]["AP"] == whole["figures"][side]["per_class"][name]["AP"]
    monkeypatch.setattr(Detector, "validate", lambda *_: pytest.fail("evaluated before the classes were looked up"))
    for first in (run, tiny_run):
        with pytest.raises(UserError, match=f"{squares.name}/val has no class 'circel'"):
            compare_to_folder([first, tiny_run], settled(CompareSettings, project, classes="circel"))


def test_tuning_leaves_a_recipe_and_all_that_was_tried(judged, tiny_run, monkeypatch, tmp_path):
    project, run = judged
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path))
    given = {"weights": str(tiny_run), "conf": 0.001, "bootstrap": 5, "repeats": 2, "nms": "standard,soft"}
    folder, tuned, lines = tune_to_folder(settled(TuneSettings, project, **given))
    assert folder == project / "tune" / "val"
    document = json.loads((folder / "tune.json").read_text())
    assert [one["nms"] for one in document["tried"]][:2] == ["cl-balanced", "standard"]
    assert lines[0].startswith(f"cledet val --weights {tiny_run} --nms {tuned.recommended.options.method}")
    assert yaml.safe_load((folder / "tuned.yaml").read_text())["nms"] == tuned.recommended.options.method
    of_file = {"predictions": run / DETECTIONS, "data": str(Path(tiny_run).parent), "nms": "standard"}
    with pytest.raises(UserError, match="holds neither"):
        tune_to_folder(settled(TuneSettings, project, **of_file))


def test_sides_of_several_runs(judged, tmp_path, monkeypatch):
    """The folder holds tables and plain data, no pictures; too few runs are refused before anything is evaluated."""
    monkeypatch.setattr("cledet.evaluation.compare.compare_runs.MIN_IMAGES", 1)
    project, run = judged
    paths = [tmp_path / f"{side}-seed{seed}.json" for side in "ab" for seed in (0, 1)]
    for path in paths:
        path.write_bytes((run / DETECTIONS).read_bytes())
    config = yaml.safe_load((run / "config.yaml").read_text())
    settings = settled(
        CompareSettings, project, bootstrap=5, per_side=2, name="sides", data=config["data"], split=config["split"]
    )
    folder, tables, notes, document = compare_to_folder(paths, settings)
    assert list(document["AP"]) == ["a", "b"]
    assert list(document["AP"]["b"]) == ["b-seed0", "b-seed1"]
    assert document["differences"]["b"]["value"] == 0
    assert document == json.loads((folder / "compare.json").read_text())
    assert (folder / "compare.csv").read_text().startswith("runs,AP,AP - a,")
    assert [title for title, _ in tables][1] == "AP of each run"
    assert notes[0].startswith("b: 2 pairs detect")
    assert not (folder / "images").exists()
    with pytest.raises(UserError, match="3 runs do not make two or more sides of 2"):
        compare_to_folder([Path("a.pt"), Path("b.pt"), Path("c.pt")], settings)
