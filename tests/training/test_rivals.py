"""The head fcos and the rivals' losses through the engine: trained, explained, exported; what does not go together."""

from __future__ import annotations

import pytest

from cledet import Detector
from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.errors import UserError
from cledet.models.checkpoint import load_checkpoint
from cledet.training.init_model import build_criterion

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fcos_run(tiny, tmp_path_factory):
    project = tmp_path_factory.mktemp("project")
    return Detector().train(**tiny, head="fcos", assign="tal", cls_loss="ghm", reg_loss="ciou", project=project)


def settings(**flags):
    return resolve(TrainSettings, flags, environ={})


def test_a_run_holds_the_head_and_its_criterion(fcos_run):
    model = load_checkpoint(fcos_run)
    assert (model.architecture.head, model.architecture.anchor_scale) == ("fcos", 8.0)
    assert model.components == ("dc", "clb")
    assert model.metrics["AP"] >= 0


def test_what_a_heads_defaults_stand_for():
    fcos = build_criterion(settings(head="fcos"))
    assert (fcos.assignment, fcos.cls_loss, fcos.reg_loss, fcos.iac, fcos.dc) == ("fcos", "focal", "giou", None, True)
    assert settings(assign="tal", cls_loss="varifocal", reg_loss="diou").ablation == ("dc", "clb")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"head": "fcos", "reg_loss": "smooth_l1"}, "--reg-loss smooth_l1 does not fit --head fcos"),
        ({"head": "fcos", "reg_loss": "dfl"}, "--reg-loss dfl does not fit --head fcos"),
        ({"head": "gfl", "reg_loss": "smooth_l1"}, "--reg-loss smooth_l1 does not fit --head gfl"),
        ({"assign": "tal", "ablation": "iac"}, "--ablation iac needs --assign iou, not tal"),
        (
            {"recall_relative": 0.8, "recall_target": "hard"},
            "--recall-relative 0.8 has no effect beside --recall-min-iou 0.4",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        settings(**flags)


def test_an_explanation_shows_the_losses_of_the_whole_image(fcos_run, squares):
    found = Detector(fcos_run).explain(str(squares / "val" / "1.png"), device="cpu").to_dict()
    assert found["positives"]["by_tal"] == len(found["positives"]["anchors"]) > 0


@pytest.mark.parametrize("nms", ["none", "cl-balanced"])
def test_an_exported_file_scores_with_centerness(fcos_run, tmp_path, nms):
    pytest.importorskip("onnxruntime")
    detector = Detector(fcos_run)
    detector.model.model["head.classification.predict.weight"] *= 30
    detector.model.model["head.classification.predict.bias"] += 3
    detector.model.model["head.regression.predict.bias"] += 1
    result = detector.export(nms=nms, project=tmp_path)
    assert result.max_score_error < 1e-4
    assert result.max_box_error < 0.05
    assert (result.detections > 0) == (nms != "none")
