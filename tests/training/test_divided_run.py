"""A run on an undivided folder holds out the same images in every later command, wherever its folder lies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cledet import Detector
from cledet.commands.compare import compare_to_folder
from cledet.commands.val import grid_to_folder
from cledet.config.evaluate import CompareSettings, TuneSettings, ValSettings
from cledet.config.loading import resolve
from cledet.errors import Interrupted
from cledet.evaluation.tune.tuner import open_candidates
from cledet.models.checkpoint import load_checkpoint
from cledet.training.train_step import TrainStep

pytestmark = pytest.mark.slow


def add_image(folder: Path, i: int) -> None:
    """Write image i and its YOLO label: a red or blue square on coarse noise."""
    rng = np.random.default_rng(i)
    picture = cv2.resize(rng.integers(60, 160, (8, 10, 3), np.uint8), (96, 80), interpolation=cv2.INTER_CUBIC)
    x, y, label = int(rng.integers(60)), int(rng.integers(44)), int(rng.integers(2))
    picture[y : y + 36, x : x + 36] = ((40, 40, 230), (230, 60, 40))[label]
    cv2.imwrite(str(folder / "images" / f"{i:02}.png"), picture)
    line = f"{label} {(x + 18) / 96} {(y + 18) / 80} {36 / 96} {36 / 80}\n"
    (folder / "labels" / f"{i:02}.txt").write_text(line)


def make_folder(folder: Path, count: int) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        add_image(folder, i)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "photos", 20)


@pytest.fixture(scope="module")
def small(tiny: dict[str, Any], photos: Path) -> dict[str, Any]:
    return {**tiny, "data": str(photos), "conf": 0.01}


@pytest.fixture(scope="module")
def run(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the undivided folder, to be read only."""
    return Detector().train(**small, project=tmp_path_factory.mktemp("project"))


def settings_of(kind: Any = ValSettings, **given: object) -> Any:
    return resolve(kind, {"device": "cpu", "workers": 0, **given}, environ={})


def listed(run: Path, part: str, photos: Path) -> list[str]:
    return [str(photos / line) for line in (run / "splits" / f"{part}.txt").read_text().splitlines()]


def evaluated(run: Path, **given: object) -> list[str]:
    return Detector(run).split(settings_of(**given)).paths.tolist()


def stop_at_third_step(settings: dict[str, Any], project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start a run that is interrupted, and return its folder."""
    gradients = TrainStep.compute_gradients

    def stop_at_third(self: TrainStep, parts: Any, step: int) -> Any:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return gradients(self, parts, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "compute_gradients", stop_at_third)
        with pytest.raises(Interrupted):
            Detector().train(**settings, project=project)
    return project / "train" / "photos"


def test_val_takes_exactly_the_held_out_images(run: Path, photos: Path) -> None:
    before = sorted(path.name for path in photos.rglob("*"))
    train, val = (listed(run, part, photos) for part in ("train", "val"))
    assert not set(train) & set(val)
    assert sorted([*train, *val]) == sorted(map(str, (photos / "images").iterdir()))
    assert 2 <= len(val) <= 6
    assert evaluated(run) == val
    assert evaluated(run, split="train") == train
    trained = load_checkpoint(run / "weights" / "last.pt")
    assert trained.training["images"] == len(train)
    index = Detector(run).split(settings_of(split="train"))
    assert trained.training["digests"] == index.digests()
    assert Detector(run).val(settings_of(conf=0.01, amp="off")).metrics["AP"] == pytest.approx(
        trained.metrics["AP"], abs=1e-9
    )
    assert before == sorted(path.name for path in photos.rglob("*"))


def test_a_stopped_run_goes_on_with_its_images_alone(
    small: dict[str, Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, although images were added to the folder in between."""
    folder = make_folder(tmp_path / "photos", 20)
    stopped = stop_at_third_step({**small, "data": str(folder)}, tmp_path, monkeypatch)
    for i in range(20, 40):
        add_image(folder, i)
    Detector().train(resume=stopped)
    whole, again = (load_checkpoint(one / "weights" / "last.pt") for one in (run, stopped))
    assert again.training["step"] == small["iters"]
    assert all(torch.equal(whole.model[name], again.model[name]) for name in whole.model)
    assert evaluated(stopped) == listed(stopped, "val", folder)
    fresh = Detector().train(**{**small, "data": str(folder), "iters": 1, "val_split": "none"}, project=tmp_path)
    assert not (fresh / "splits").exists()


def test_new_images_move_no_other(small: dict[str, Any], run: Path, photos: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "photos", 60)
    more = Detector().train(**{**small, "data": str(folder), "iters": 1, "seed": 3}, project=tmp_path)
    old = {Path(path).name for path in listed(run, "val", photos)}
    new = {Path(path).name for path in listed(more, "val", folder)}
    assert len(old & new) >= len(old) - 1  # a repair of the twenty may have held out one
    assert {name for name in new if int(name[:2]) < 20} <= old


def test_a_moved_run_and_a_copied_checkpoint(run: Path, photos: Path, tmp_path: Path) -> None:
    val = listed(run, "val", photos)
    moved = tmp_path / "elsewhere" / "best"
    shutil.copytree(run, moved)
    original = run.rename(run.with_name("hidden"))
    try:
        assert evaluated(moved) == val
        assert Detector().train(resume=moved) == moved  # finished: its data set is opened, and nothing is trained
    finally:
        original.rename(run)
    (tmp_path / "copy.pt").write_bytes((run / "weights" / "best.pt").read_bytes())
    assert evaluated(tmp_path / "copy.pt") == val


def test_a_grid_has_one_division(small: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    grid = Detector().train(**{**small, "iters": 1}, project=tmp_path, ablation="none;clb", seeds=2)
    val = listed(grid, "val", photos)
    members = sorted(path.parents[1] for path in grid.glob("*/weights/best.pt"))
    assert len(members) == 4
    for member in members:
        assert evaluated(member) == val
        assert not (member / "splits").exists()
    moved = grid.rename(tmp_path / "train" / "moved")
    assert evaluated(moved / members[0].name) == val
    assert Detector().train(resume=moved) == moved
    folder, _ = grid_to_folder(settings_of(weights=str(moved), project=tmp_path))
    assert set(json.loads((folder / "grid.json").read_text())[0]["seeds"]) == {0, 1}


def test_the_whole_folder_is_evaluated_on_demand_with_a_warning(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = listed(run, "train", photos)
    assert evaluated(run) != sorted(map(str, (photos / "images").iterdir()))
    assert "trained on" not in capsys.readouterr().err
    assert len(evaluated(run, data=str(photos))) == 20
    said = " ".join(capsys.readouterr().err.split())
    assert f"warning: {len(train)} of the 20 images of photos/all were trained on" in said
    assert evaluated(run, data=str(run / "splits" / "photos.yaml"), split="train") == train
    assert "trained on" not in capsys.readouterr().err


def test_tune_and_explain_take_the_held_out_images(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, index, _ = open_candidates(load_checkpoint(run), settings_of(TuneSettings, amp="off"))
    held_out = listed(run, "val", photos)
    assert index.paths.tolist() == held_out
    capsys.readouterr()
    Detector(run).explain(held_out[0], device="cpu")
    assert "annotated in photos/val" in " ".join(capsys.readouterr().err.split())


def test_runs_on_one_folder_are_compared(small: dict[str, Any], run: Path, photos: Path, tmp_path: Path) -> None:
    other = Detector().train(**{**small, "seed": 1, "iters": 1}, project=tmp_path, name="other")
    compared = settings_of(CompareSettings, project=tmp_path, bootstrap=10, pictures=0)
    _, _, _, document = compare_to_folder([run, other], compared)
    assert document["images"] == len(listed(run, "val", photos))
    vals = sorted((tmp_path / "val").iterdir())
    assert len(vals) == 2
    _, _, _, again = compare_to_folder(vals, compared)
    assert again["data"] == "photos/val"


@pytest.mark.parametrize(("val_split", "warned"), [("train", True), ("none", False)])
def test_the_training_images_on_demand(
    small: dict[str, Any], val_split: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Detector().train(**{**small, "iters": 1}, val_split=val_split, project=tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert ("warning: photos/all shares images with photos/all" in said) is warned
    assert "held out" not in said
    assert not (run / "splits").exists()
    assert load_checkpoint(run / "weights" / "last.pt").training["images"] == 20


def test_few_images_are_recorded_and_resumed(
    small: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**small, "few": 5}
    whole = Detector().train(**settings, project=tmp_path / "whole")
    stopped = stop_at_third_step(settings, tmp_path, monkeypatch)
    Detector().train(resume=stopped)
    one, other = (load_checkpoint(run / "weights" / "last.pt") for run in (whole, stopped))
    assert all(torch.equal(one.model[name], other.model[name]) for name in one.model)
    assert one.training["images"] == other.training["images"] == 5
    assert "few: 5  # flag" in (stopped / "config.yaml").read_text()
    assert evaluated(stopped) == listed(stopped, "val", photos)


def test_two_processes_hold_out_the_same_images(small: dict[str, Any], run: Path, photos: Path, tmp_path: Path) -> None:
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in small.items()]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cledet", "train"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, *launcher, *flags, f"--project={tmp_path}"], env=environ, capture_output=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr.decode()
    both = tmp_path / "train" / "photos"
    assert listed(both, "val", photos) == listed(run, "val", photos)
    assert load_checkpoint(both / "weights" / "last.pt").training["images"] == len(listed(run, "train", photos))
    assert ended.stderr.decode().count("are held out for evaluation") == 1
