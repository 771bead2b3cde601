"""A run that cledet 0.1.0 wrote, killed three steps before its end, is read and finished as cledet 0.1.0 did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cledet import Detector
from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.metrics.confidence import operating_points
from cledet.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

OLD = Path(__file__).parent / "fixtures" / "run-0.1"
EXPECTED = json.loads((OLD / "expected.json").read_text())
"""What cledet 0.1.0 found on the fixture `squares`, and what it made of the run when it resumed it."""


@pytest.fixture
def run(squares, tmp_path, monkeypatch):
    """A copy of the run, in a folder that holds its data set."""
    shutil.copytree(OLD, tmp_path / "train" / "old")
    (tmp_path / "squares").symlink_to(squares)
    monkeypatch.chdir(tmp_path)
    return Path("train/old")


def near(expected):
    return {name: value if value is None else pytest.approx(value, abs=1e-3) for name, value in expected.items()}


def test_an_old_checkpoint_detects_the_same(run, squares):
    detector = Detector(run / "weights" / "last.pt")
    images = sorted((squares / "val").glob("*.png"))
    found = [result.to_dict() for result in detector.predict(images, conf=0.3, amp="off")]
    for here, there in zip(found, EXPECTED["detections"], strict=True):
        assert [d["name"] for d in here["detections"]] == [d["name"] for d in there["detections"]]
        for ours, theirs in zip(here["detections"], there["detections"]):
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
            assert ours["box"] == pytest.approx(theirs["box"], abs=0.05)


def test_an_old_checkpoint_has_the_same_metrics(run):
    metrics = Detector(run / "weights" / "last.pt").val(data="squares", workers=0, device="cpu", amp="off").metrics
    assert metrics == near(EXPECTED["metrics"])


def test_an_old_run_is_resumed_to_its_end(run):
    before = load_checkpoint(run / "weights" / "last.pt")
    with pytest.warns(FutureWarning, match="literal is now called as-printed"):
        assert Detector().train(resume=run) == run.resolve()
    after = load_checkpoint(run / "weights" / "last.pt")
    assert (before.step, after.step) == (597, EXPECTED["resumed"]["step"])
    expected = EXPECTED["resumed"]["metrics"]
    assert {name: after.metrics[name] for name in expected} == near(expected)
    assert not all(torch.equal(before.model[name], after.model[name]) for name in before.model)
    assert (before.best_conf, before.class_confs) == (None, ())
    detector = Detector(run / "weights" / "last.pt")
    same = {
        name: after.settings[name] for name in ("data", "nms", "iou", "localization", "max_det", "workers", "batch")
    }
    settings = resolve(ValSettings, {**same, "device": "cpu", "amp": "off"}, environ={})
    index = detector.split(settings)
    (found,) = detector.validate(settings, index).values()
    overall, each = operating_points(index, found.results)
    assert after.best_conf == pytest.approx(overall.confidence, abs=1e-5)
    assert after.best_conf < after.metrics["best_conf"]
    assert after.class_confs == pytest.approx([point.confidence for point in each], abs=1e-5)


def test_an_old_configuration_is_a_recipe_still(run):
    with pytest.warns(FutureWarning, match="soft-mean is now called soft-vote"):
        settings = resolve(TrainSettings, {}, recipe=run / "config.yaml")
    assert (settings.nms, settings.localization) == ("soft-vote", "as-printed")
    assert (settings.lr, settings.anchor_scale, settings.ablation) == (0.002, 2.0, ("iac", "dc", "clb"))
