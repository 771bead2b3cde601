"""A run that an earlier version wrote, killed three steps before its end, is read and finished as that version did."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
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

FIXTURES = Path(__file__).parent / "fixtures"
RENAMED = {"0.1": "literal is now called as-printed", "0.2": None}
"""By version, the notice that its run gives when it is resumed."""


@pytest.fixture(params=RENAMED)
def version(request):
    return request.param


@pytest.fixture
def expected(version):
    """What the version found on the fixture `squares`, and what it made of the run when it resumed it."""
    return json.loads((FIXTURES / f"run-{version}" / "expected.json").read_text())


@pytest.fixture
def run(version, squares, tmp_path, monkeypatch):
    """A copy of the run, in a folder that holds its data set."""
    shutil.copytree(FIXTURES / f"run-{version}", tmp_path / "train" / "old")
    (tmp_path / "squares").symlink_to(squares)
    monkeypatch.chdir(tmp_path)
    return Path("train/old")


def near(metrics):
    return {name: value if value is None else pytest.approx(value, abs=1e-3) for name, value in metrics.items()}


def test_an_old_checkpoint_detects_the_same(run, expected, squares):
    detector = Detector(run / "weights" / "last.pt")
    images = sorted((squares / "val").glob("*.png"))
    found = [result.to_dict() for result in detector.predict(images, conf=0.3, amp="off")]
    for here, there in zip(found, expected["detections"], strict=True):
        assert [d["name"] for d in here["detections"]] == [d["name"] for d in there["detections"]]
        for ours, theirs in zip(here["detections"], there["detections"]):
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
            assert ours["box"] == pytest.approx(theirs["box"], abs=0.05)


def test_an_old_checkpoint_has_the_same_metrics(run, expected):
    metrics = Detector(run / "weights" / "last.pt").val(data="squares", workers=0, device="cpu", amp="off").metrics
    assert metrics == near(expected["metrics"])


def test_an_old_run_is_resumed_to_its_end(run, version, expected):
    before = load_checkpoint(run / "weights" / "last.pt")
    notice = RENAMED[version]
    with pytest.warns(FutureWarning, match=notice) if notice else nullcontext():
        assert Detector().train(resume=run) == run.resolve()
    after = load_checkpoint(run / "weights" / "last.pt")
    resumed = expected["resumed"]
    assert (before.step + 3, after.step) == (resumed["step"], resumed["step"])
    assert {name: after.metrics[name] for name in resumed["metrics"]} == near(resumed["metrics"])
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


@pytest.mark.parametrize(
    ("version", "notice", "values"),
    [
        (
            *("0.1", "soft-mean is now called soft-vote"),
            {"localization": "as-printed", "lr": 0.002, "anchor_scale": 2.0, "dc_form": "as-printed"},
        ),
        ("0.2", None, {"dc_form": "zero-based", "recall_target": "soft", "anchor_ratios": (0.5, 1, 1.5), "ema": 0.95}),
    ],
)
def test_an_old_configuration_is_a_recipe_still(run, notice, values):
    with pytest.warns(FutureWarning, match=notice) if notice else nullcontext():
        settings = resolve(TrainSettings, {}, recipe=run / "config.yaml")
    assert (settings.nms, settings.ablation) == ("soft-vote", ("iac", "dc", "clb"))
    assert {name: getattr(settings, name) for name in values} == values
